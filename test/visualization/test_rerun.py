"""Recordings for Rerun: their content, read back with Rerun's own reader, and their files."""

from __future__ import annotations

import resource
import subprocess
import sys
import textwrap
from pathlib import Path

import cv2
import numpy as np
import pytest
from support.images import noise_image

pytest.importorskip("rerun", reason="needs rerun-sdk: pip install 'mtl_perception[rerun]'")
from support.rrd import pixels, read_rrd

from mtl_perception import CameraModel
from mtl_perception.errors import SourceError
from mtl_perception.labels import STREET
from mtl_perception.types import CLOUD_DTYPE, Outputs
from mtl_perception.visualization.cloud import UNLABELED_COLOR, sample_points
from mtl_perception.visualization.rerun import RerunFile, RerunLog, RerunOptions

HEIGHT, WIDTH = 30, 40
CAMERA = CameraModel(WIDTH, HEIGHT, 35.0, 36.0, 19.5, 14.5)
STAMPS = [1_700_000_000_123_456_789, 1_700_000_000_223_456_789]


def make_outputs(seed: int, size: tuple[int, int] = (HEIGHT, WIDTH)) -> Outputs:
    generator = np.random.default_rng(seed)
    depth = generator.uniform(2, 70, (HEIGHT, WIDTH)).astype(np.float32)
    depth[0, 0], depth[0, 1] = np.nan, np.inf
    labels = generator.integers(0, len(STREET), (HEIGHT, WIDTH), np.uint8)
    labels[1, 1] = 255
    cloud = np.zeros((HEIGHT, WIDTH), CLOUD_DTYPE)
    cloud["x"], cloud["y"], cloud["z"], cloud["label"] = depth + 1, depth + 2, depth, labels
    cloud["x"][0, 1] = np.nan
    return Outputs(
        labels=labels,
        confidence=generator.integers(0, 256, (HEIGHT, WIDTH), np.uint8),
        depth=depth,
        cloud=cloud,
        camera=CAMERA,
        image=noise_image(*size, seed),
    )


def write(path: Path, frames: list[tuple[Outputs, int]], **options: int) -> dict:
    with RerunFile(RerunLog("drive", STREET, 80.0, RerunOptions(**options)), path) as log:
        for outputs, stamp in frames:
            log.log(outputs, stamp)
    return read_rrd(path)


@pytest.fixture(scope="module")
def outputs() -> list[Outputs]:
    return [make_outputs(1), make_outputs(2)]


@pytest.fixture(scope="module")
def rows(outputs, tmp_path_factory) -> dict:
    return write(tmp_path_factory.mktemp("rrd") / "drive.rrd", list(zip(outputs, STAMPS, strict=True)))


def test_images_are_logged_by_stamp_and_by_frame(rows):
    for name in ("image", "labels", "depth", "confidence"):
        found = rows[f"/world/camera/{name}"]
        assert [row["stamp"] for row in found] == STAMPS
        assert [row["frame"] for row in found] == [0, 1]
    assert set(rows) - {"/__properties"} == {
        "/",
        "/world",
        "/world/camera",
        "/world/camera/image",
        "/world/camera/labels",
        "/world/camera/depth",
        "/world/camera/confidence",
        "/world/points",
    }


def test_labels_and_confidence_are_the_values_of_the_frame(rows, outputs):
    for row, expected in zip(rows["/world/camera/labels"], outputs, strict=True):
        assert np.array_equal(pixels(row, "SegmentationImage", "u1"), expected.labels)
    for row, expected in zip(rows["/world/camera/confidence"], outputs, strict=True):
        assert np.array_equal(pixels(row, "Image", "u1"), expected.confidence)


def test_depth_is_in_meters_with_invalid_and_far_pixels(rows, outputs):
    for row, expected in zip(rows["/world/camera/depth"], outputs, strict=True):
        assert row["DepthImage:meter"] == [1.0]
        assert row["DepthImage:depth_range"] == [[0.0, 80.0]]
        depth = pixels(row, "DepthImage", "<f2").astype(np.float32)
        assert np.isnan(depth[0, 0]) and np.isposinf(depth[0, 1])
        finite = np.isfinite(expected.depth)
        assert np.allclose(depth[finite], expected.depth[finite], rtol=0.0005)


def test_image_is_a_jpeg_that_resembles_the_image(tmp_path):
    smooth = cv2.resize(noise_image(3, 4), (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    (row,) = write(tmp_path / "a.rrd", [(Outputs(image=smooth), 1)])["/world/camera/image"]
    assert row["EncodedImage:media_type"] == ["image/jpeg"]
    (data,) = row["EncodedImage:blob"]
    decoded = cv2.imdecode(np.array(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert np.abs(decoded.astype(int) - smooth).mean() < 4


def test_image_is_unchanged_without_compression(tmp_path):
    image = noise_image(HEIGHT, WIDTH)
    (row,) = write(tmp_path / "a.rrd", [(Outputs(image=image), 1)], jpeg=0)["/world/camera/image"]
    assert np.array_equal(np.array(row["Image:buffer"][0], np.uint8).reshape(image.shape), image)


def test_image_gets_the_size_of_the_outputs(tmp_path):
    outputs = make_outputs(1, size=(2 * HEIGHT, 2 * WIDTH))
    (row,) = write(tmp_path / "a.rrd", [(outputs, 1)], jpeg=0)["/world/camera/image"]
    assert (row["Image:format"][0]["height"], row["Image:format"][0]["width"]) == (HEIGHT, WIDTH)


def test_classes_have_the_names_and_colors_of_the_set(rows):
    (context,) = (row["AnnotationContext:context"][0] for row in rows["/"])
    classes = {entry["class_id"]: entry["class_description"]["info"] for entry in context}
    assert [classes[i]["label"] for i in range(len(STREET))] == list(STREET.names)
    colors = [tuple(classes[i]["color"].to_bytes(4, "big")[:3]) for i in range(len(STREET))]
    assert colors == list(STREET.colors)
    assert classes[255]["label"] == "unlabeled"
    assert tuple(classes[255]["color"].to_bytes(4, "big")[:3]) == UNLABELED_COLOR


def test_pinhole_has_the_intrinsics_and_is_logged_when_they_change(tmp_path, rows):
    (row,) = rows["/world/camera"]
    # Column by column.
    assert row["Pinhole:image_from_camera"] == [[35.0, 0, 0, 0, 36.0, 0, 19.5, 14.5, 1]]
    assert row["Pinhole:resolution"] == [[WIDTH, HEIGHT]]
    other = CameraModel(WIDTH, HEIGHT, 50.0, 50.0, 19.5, 14.5)
    found = write(tmp_path / "a.rrd", [(Outputs(camera=camera), i + 1) for i, camera in enumerate((CAMERA, CAMERA, other))])
    assert [row["frame"] for row in found["/world/camera"]] == [0, 2]
    assert found["/world/camera"][1]["Pinhole:image_from_camera"][0][0] == 50.0


def test_points_have_positions_and_class_ids(rows, outputs):
    row, cloud = rows["/world/points"][0], outputs[0].cloud
    finite = np.isfinite(cloud["x"]) & np.isfinite(cloud["z"])
    assert np.array_equal(row["Points3D:class_ids"], cloud["label"][finite])
    positions = np.array(row["Points3D:positions"], np.float32)
    assert np.array_equal(positions, np.stack([cloud[axis][finite] for axis in "xyz"], axis=-1))


def test_number_of_points_is_limited(tmp_path, outputs):
    found = write(tmp_path / "a.rrd", [(outputs[0], 1)], points=100)["/world/points"]
    assert 80 < len(found[0]["Points3D:class_ids"]) <= 100
    assert "/world/points" not in write(tmp_path / "b.rrd", [(outputs[0], 1)], points=0)


def test_sampled_points_cover_near_and_far_reproducibly():
    cloud = np.zeros((200, 300), CLOUD_DTYPE)
    cloud["z"] = np.linspace(2, 80, cloud.size).reshape(cloud.shape)
    points = sample_points(cloud, 5000)
    assert 4900 < len(points) <= 5000
    assert np.array_equal(points, sample_points(cloud, 5000))
    near, far = (np.count_nonzero((points["z"] > low) & (points["z"] < low + 10)) for low in (5, 65))
    # As many points at all distances, chosen with a density like the square root: sqrt(70 / 10).
    assert 2.2 < far / near < 3.1
    assert len(np.unique(points)) == len(points)


def test_frames_without_a_stamp_are_on_the_frame_timeline_only(tmp_path):
    found = write(tmp_path / "a.rrd", [(make_outputs(i), 0) for i in range(3)])["/world/camera/labels"]
    assert [row["frame"] for row in found] == [0, 1, 2]
    assert not any("stamp" in row for row in found)


def test_outputs_with_one_stamp_are_one_frame(tmp_path, outputs):
    parts = [Outputs(labels=outputs[0].labels), Outputs(depth=outputs[0].depth)]
    found = write(tmp_path / "a.rrd", [(part, stamp) for stamp in STAMPS for part in parts])
    for name in ("labels", "depth"):
        assert [row["frame"] for row in found[f"/world/camera/{name}"]] == [0, 1]


def test_outputs_of_an_image_without_a_stamp_are_one_frame(tmp_path, outputs):
    """As those of the first image of a folder, whose stamps count from 0."""
    parts = [Outputs(camera=outputs[0].camera), Outputs(labels=outputs[0].labels), Outputs(depth=outputs[0].depth)]
    found = write(tmp_path / "a.rrd", [(part, stamp) for stamp in (0, 0, 100_000_000) for part in parts])
    for name in ("labels", "depth"):
        assert [row["frame"] for row in found[f"/world/camera/{name}"]] == [0, 1, 2]


def test_outputs_that_come_after_the_next_image_belong_to_their_frame(tmp_path, outputs):
    image, labels = Outputs(image=outputs[0].image), Outputs(labels=outputs[0].labels)
    order = [(image, STAMPS[0]), (image, STAMPS[1]), (labels, STAMPS[0]), (labels, STAMPS[1])]
    found = write(tmp_path / "a.rrd", order)
    for name in ("image", "labels"):
        assert [(row["frame"], row["stamp"]) for row in found[f"/world/camera/{name}"]] == list(enumerate(STAMPS))


def test_file_is_partial_until_it_is_complete(tmp_path, outputs):
    path, partial = tmp_path / "new/drive.rrd", tmp_path / "new/drive.partial.rrd"
    with RerunFile(RerunLog("drive", STREET, 80.0), path) as log:
        log.log(outputs[0], 1)
        assert partial.exists() and not path.exists()
    assert path.exists() and not partial.exists()


def test_failed_recording_keeps_its_frames_under_the_partial_name(tmp_path, outputs):
    path, partial = tmp_path / "drive.rrd", tmp_path / "drive.partial.rrd"
    with pytest.raises(ValueError, match="later"), RerunFile(RerunLog("drive", STREET, 80.0), path) as log:
        log.log(outputs[0], 1)
        raise ValueError("later")
    assert not path.exists()
    assert len(read_rrd(partial)["/world/camera/labels"]) == 1
    with pytest.raises(SourceError, match=r"drive\.partial\.rrd already exists; choose another name, or replace it"):
        RerunFile(RerunLog("drive", STREET, 80.0), path)


def test_recording_without_frames_leaves_nothing_after_a_failure(tmp_path):
    with pytest.raises(ValueError), RerunFile(RerunLog("drive", STREET, 80.0), tmp_path / "drive.rrd"):
        raise ValueError
    assert not list(tmp_path.iterdir())


def test_existing_file_is_replaced_only_by_force(tmp_path, outputs):
    path = tmp_path / "drive.rrd"
    path.write_bytes(b"old")
    with pytest.raises(SourceError, match=r"drive\.rrd already exists"):
        RerunFile(RerunLog("drive", STREET, 80.0), path)
    assert path.read_bytes() == b"old"
    with RerunFile(RerunLog("drive", STREET, 80.0), path, force=True) as log:
        log.log(outputs[0], 1)
        assert path.read_bytes() == b"old"
    assert len(read_rrd(path)["/world/camera/labels"]) == 1
    with pytest.raises(SourceError, match=r"name must end in \.rrd"):
        RerunFile(RerunLog("drive", STREET, 80.0), tmp_path / "drive.bin")


RECORD = """
    import resource
    import signal
    import sys
    from pathlib import Path
    import numpy as np
    from mtl_perception.labels import STREET
    from mtl_perception.types import Outputs
    from mtl_perception.visualization.rerun import RerunFile, RerunLog

    image = np.random.default_rng(0).integers(0, 256, (200, 300, 3), np.uint8)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]),) * 2)
    with RerunFile(RerunLog("drive", STREET, 80.0), Path(sys.argv[1])) as log:
        for stamp in range(1, int(sys.argv[2])):
            log.log(Outputs(image=image, labels=image[..., 0].copy()), stamp)
            if stamp in (100, 600):
                print(int(Path("/proc/self/statm").read_text().split()[1]) * 4096)
"""


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", textwrap.dedent(RECORD), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_full_disk_is_reported_and_keeps_the_frames_before(tmp_path):
    path = tmp_path / "drive.rrd"
    done = run(path, 100, 1_000_000)
    assert f"SourceError: recording {tmp_path}/drive.partial.rrd cannot be written: File too large" in done.stderr
    # The SDK's own report of the same would hide ours.
    assert "re_log_encoding" not in done.stderr
    assert not path.exists()
    assert (tmp_path / "drive.partial.rrd").exists()


@pytest.mark.slow
def test_memory_does_not_grow_with_the_recording(tmp_path):
    path = tmp_path / "drive.rrd"
    done = run(path, 700, resource.RLIM_INFINITY)
    early, late = map(int, done.stdout.split())
    size = path.stat().st_size
    # 500 frames of 110 kB. The index at the end of the file takes 0.5 kB of memory for each entity of a frame.
    assert size > 70e6
    assert late - early < 20e6


@pytest.mark.parametrize(("stamps", "timeline"), [(STAMPS, "stamp"), ([0, 0], "frame"), ([0, 100_000_000], "frame")])
def test_views_open_on_the_timeline_of_the_first_frame(outputs, tmp_path, stamps, timeline):
    """Images without a stamp, as of `infer`, are not on the timeline `stamp`: its views would be empty."""
    from rerun.chunk import RrdReader

    path = tmp_path / "a.rrd"
    write(path, list(zip(outputs, stamps, strict=True)))
    reader = RrdReader(path)
    (blueprint,) = reader.blueprints()
    timelines = [
        batch.column(name).to_pylist()
        for chunk in reader.stream(store=blueprint)
        for batch in [chunk.to_record_batch()]
        for name in batch.schema.names
        if name == "TimePanelBlueprint:timeline"
    ]
    assert timelines == [[[timeline]]]
