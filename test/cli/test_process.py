"""`process`: bag to bag, with the pipeline's results on the node's topics."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from rosbags.highlevel import AnyReader
from rosbags.interfaces import QosDurability, QosReliability
from rosbags.rosbag2 import Reader
from support.bags import CAMERA_INFO, DELAY_NS, IMAGE, START_NS, STEP_NS, Messages, bag_image, drive, write_bag
from support.images import noise_image

from mtl_perception import CameraModel, Frame, Pipeline
from mtl_perception.__main__ import main
from mtl_perception.labels import STREET
from mtl_perception.messages.decode import decode_camera_info, decode_cloud, decode_depth, decode_image
from mtl_perception.sources.open import open_source
from mtl_perception.visualization.colors import colorize_labels, overlay

SIZE = (24, 32)
COUNT = 3
OUTPUTS = {
    "/mtl_perception/segmentation/image": IMAGE,
    "/mtl_perception/segmentation/overlay": IMAGE,
    "/mtl_perception/segmentation/labels": IMAGE,
    "/mtl_perception/segmentation/confidence": IMAGE,
    "/mtl_perception/segmentation/label_info": "vision_msgs/msg/LabelInfo",
    "/mtl_perception/depth/image": IMAGE,
    "/mtl_perception/depth/camera_info": CAMERA_INFO,
    "/mtl_perception/points": "sensor_msgs/msg/PointCloud2",
}


@pytest.fixture
def process(weights_file, capsys):
    """Run the command in this process and return exit code, stdout and the last line of stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        # PyTorch, because OpenVINO would compile the network for each run.
        code = main(["process", *map(str, arguments), "--weights", str(weights_file), "--device", "cpu", "--backend", "torch"])
        captured = capsys.readouterr()
        return code, captured.out, (captured.err.splitlines() or [""])[-1]

    return run


@pytest.fixture(scope="module")
def pipe(weights_file) -> Pipeline:
    return Pipeline(weights=weights_file, device="cpu", backend="torch", warm_up=False)


def messages_of(path: Path) -> dict[str, list]:
    """Return bag time and message by topic."""
    found: dict[str, list] = {}
    with AnyReader([path]) as reader:
        types = {connection.topic: connection.msgtype for connection in reader.connections}
        for connection, time_ns, data in reader.messages():
            found.setdefault(connection.topic, []).append((time_ns, reader.deserialize(data, connection.msgtype)))
    found["types"] = types
    return found


@pytest.mark.parametrize(("kind", "name"), [("mcap", "out.mcap"), ("ros1", "out")])
def test_messages_have_the_values_stamps_and_topics_of_the_node(tmp_path, process, pipe, kind, name):
    source = write_bag(tmp_path / "in", kind, drive(kind, COUNT, SIZE))
    code, out, _ = process(source, "--out", tmp_path / name)
    assert (code, out.strip()) == (0, f"{COUNT} frames -> {tmp_path / name}")
    found = messages_of(tmp_path / name)
    assert found.pop("types") == OUTPUTS
    assert {topic: len(entries) for topic, entries in found.items()} == {
        topic: 1 if topic.endswith("label_info") else COUNT for topic in OUTPUTS
    }
    camera = CameraModel(SIZE[1], SIZE[0], 40.0, 41.0, 15.5, 11.5)
    for i in range(COUNT):
        stamp = START_NS + i * STEP_NS
        for topic, entries in found.items():
            if topic.endswith("label_info") and i:
                continue
            time_ns, message = entries[i]
            assert time_ns == stamp + DELAY_NS, "received when the image was"
            assert (message.header.stamp.sec, message.header.stamp.nanosec) == divmod(stamp, 10**9)
            assert message.header.frame_id == "front_optical"
        one = {topic.removeprefix("/mtl_perception/"): entries[min(i, len(entries) - 1)][1] for topic, entries in found.items()}
        expected = pipe(Frame(bag_image(i, *SIZE), camera))
        for topic, values in (("labels", expected.labels), ("confidence", expected.confidence)):
            np.testing.assert_array_equal(one[f"segmentation/{topic}"].data.reshape(SIZE), values)
            assert one[f"segmentation/{topic}"].encoding == "mono8"
        np.testing.assert_array_equal(decode_depth(one["depth/image"]), expected.depth)
        assert decode_cloud(one["points"]).tobytes() == expected.cloud.tobytes()
        assert one["points"].is_dense == bool(np.isfinite(expected.cloud["z"]).all())
        colors = colorize_labels(expected.labels, STREET)
        np.testing.assert_array_equal(decode_image(one["segmentation/image"]), colors)
        blended = overlay(bag_image(i, *SIZE), expected.labels, STREET, 0.5)
        np.testing.assert_array_equal(decode_image(one["segmentation/overlay"]), blended)
        assert decode_camera_info(one["depth/camera_info"]).camera(rectified=True).matrix.tolist() == camera.matrix.tolist()
        classes = one["segmentation/label_info"].class_map
        assert [(entry.class_id, entry.class_name) for entry in classes] == list(enumerate(STREET.names))
        assert one["segmentation/label_info"].threshold == 0


def test_temporal_smoothing_is_that_of_a_stream_of_the_pipeline(tmp_path, process, weights_file, pipe):
    make, still = Messages(), noise_image(96, 128).astype(int)
    images = [np.clip(still + 4 * i, 0, 255).astype(np.uint8) for i in range(COUNT)]
    stamps = [START_NS + i * STEP_NS for i in range(COUNT)]
    records = [("/image", make.image(image, stamp), stamp) for image, stamp in zip(images, stamps, strict=True)]
    source = write_bag(tmp_path / "in", "mcap", records)
    assert process(source, "--out", tmp_path / "out.mcap", "--temporal-smoothing", 0.9)[0] == 0
    entries = messages_of(tmp_path / "out.mcap")["/mtl_perception/segmentation/confidence"]
    found = [message.data.reshape(96, 128) for _, message in entries]
    smoothing = Pipeline(weights=weights_file, device="cpu", backend="torch", warm_up=False, temporal_smoothing=0.9)
    frames = list(open_source(str(source)))
    for confidence, expected in zip(found, smoothing.stream(frames, {"confidence"}), strict=True):
        np.testing.assert_array_equal(confidence, expected.confidence)
    np.testing.assert_array_equal(found[0], pipe(frames[0]).confidence)
    assert (found[1] != pipe(frames[1]).confidence).mean() > 0.1


def test_offered_qos_is_that_of_the_node(tmp_path, process):
    source = write_bag(tmp_path / "in", "mcap", drive("mcap", 1, SIZE))
    assert process(source, "--out", tmp_path / "out.mcap")[0] == 0
    with Reader(tmp_path / "out.mcap") as reader:
        qos = {connection.topic: connection.ext.offered_qos_profiles for connection in reader.connections}
    assert set(qos) == set(OUTPUTS)
    for topic, (profile,) in qos.items():
        latched = topic.endswith("label_info")
        assert profile.durability == (QosDurability.TRANSIENT_LOCAL if latched else QosDurability.VOLATILE)
        assert profile.reliability == QosReliability.RELIABLE


def test_only_selected_topics_are_written(tmp_path, process):
    source = write_bag(tmp_path / "in", "mcap", drive("mcap", 2, SIZE))
    assert process(source, "--out", tmp_path / "out.mcap", "--topics", "segmentation/points", "segmentation/labels")[0] == 0
    found = messages_of(tmp_path / "out.mcap")
    topics = [f"/mtl_perception/segmentation/{name}" for name in ("points", "labels")]
    assert set(found["types"]) == set(topics)
    points, labels = ([message for _, message in found[topic]] for topic in topics)
    assert len(points) == len(labels) == 2
    cloud = decode_cloud(points[1])
    np.testing.assert_array_equal(cloud["label"], decode_image(labels[1])[..., 0])
    colors = STREET.palette().astype(int)[cloud["label"]]
    np.testing.assert_array_equal(cloud["rgb"], colors @ [65536, 256, 1])


def test_input_is_copied_and_outputs_are_scaled(tmp_path, process):
    source = write_bag(tmp_path / "in", "db3", drive("db3", 2, SIZE))
    assert process(source, "--out", tmp_path / "out.mcap", "--with-input", "--output-scale", 0.5)[0] == 0
    found = messages_of(tmp_path / "out.mcap")
    assert set(found["types"]) == {*OUTPUTS, "/camera/image", "/camera/camera_info"}
    np.testing.assert_array_equal(decode_image(found["/camera/image"][1][1]), bag_image(1, *SIZE))
    assert found["/camera/camera_info"][0][1].k.tolist() == [40, 0, 15.5, 0, 41, 11.5, 0, 0, 1]
    half = found["/mtl_perception/depth/camera_info"][0][1]
    assert (half.width, half.height) == (16, 12)
    assert half.k.tolist() == [20, 0, 7.75, 0, 20.5, 5.75, 0, 0, 1]
    assert decode_depth(found["/mtl_perception/depth/image"][0][1]).shape == (12, 16)
    assert decode_cloud(found["/mtl_perception/points"][0][1]).shape == (12, 16)
    frames = list(open_source(tmp_path / "out.mcap", image_topic="/camera/image"))
    assert [frame.stamp_ns for frame in frames] == [START_NS, START_NS + STEP_NS]


def test_bag_without_camera_info_yields_no_cloud(tmp_path, process):
    records = [record for record in drive("mcap", 2, SIZE) if record[0].endswith("image_raw")]
    source = write_bag(tmp_path / "in", "mcap", records)
    assert process(source, "--out", tmp_path / "out.mcap")[0] == 0
    found = messages_of(tmp_path / "out.mcap")
    assert len(found["/mtl_perception/depth/image"]) == 2
    assert "/mtl_perception/points" not in found
    assert "/mtl_perception/depth/camera_info" not in found


def test_malformed_messages_are_rejected_and_counted(tmp_path, process):
    make = Messages()
    bad = make.image(bag_image(9, *SIZE), START_NS)
    bad.step -= 1
    records = [*drive("mcap", 2, SIZE), ("/cam/image_raw", bad, START_NS + 5 * STEP_NS)]
    code, out, _ = process(write_bag(tmp_path / "in", "mcap", records), "--out", tmp_path / "out.mcap")
    assert code == 0
    assert out.strip() == f"2 frames, 1 rejected {{'step': 1}} -> {tmp_path / 'out.mcap'}"


class TestErrors:
    def test_existing_output_is_kept_without_force(self, tmp_path, process):
        source = write_bag(tmp_path / "in", "mcap", drive("mcap", 1, SIZE))
        (tmp_path / "out.mcap").write_bytes(b"precious")
        code, _, line = process(source, "--out", tmp_path / "out.mcap")
        assert code == 1
        assert line.startswith(f"mtl_perception process: output {tmp_path / 'out.mcap'} already exists")
        assert (tmp_path / "out.mcap").read_bytes() == b"precious"
        assert process(source, "--out", tmp_path / "out.mcap", "--force")[0] == 0
        assert set(messages_of(tmp_path / "out.mcap")["types"]) == set(OUTPUTS)

    def test_missing_bag_fails(self, tmp_path, process):
        code, _, line = process(tmp_path / "none.mcap", "--out", tmp_path / "out.mcap")
        assert code == 1
        assert line.startswith(f"mtl_perception process: {tmp_path / 'none.mcap'} does not exist")
        assert not (tmp_path / "out.mcap").exists()

    def test_truncated_bag_yields_the_frames_before_the_damage(self, tmp_path, process):
        folder = write_bag(tmp_path / "in", "mcap", drive("mcap", 4, SIZE))
        (whole,) = folder.glob("*.mcap")
        data = whole.read_bytes()
        # In the middle of the last image.
        (tmp_path / "cut.mcap").write_bytes(data[: data.rindex(bag_image(3, *SIZE).tobytes()) + 100])
        code, _, line = process(tmp_path / "cut.mcap", "--out", tmp_path / "out.mcap")
        assert code == 1
        assert line.startswith("mtl_perception process: ")
        assert line.endswith(f"; the 3 frames before it are in {tmp_path / 'out.partial.mcap'}")
        assert len(messages_of(tmp_path / "out.partial.mcap")["/mtl_perception/points"]) == 3
        assert not (tmp_path / "out.mcap").exists(), "a bag under the final name is complete"
        # The next run.
        arguments = (write_bag(tmp_path / "whole", "mcap", drive("mcap", 1, SIZE)), "--out", tmp_path / "out.mcap")
        code, _, line = process(*arguments)
        assert code == 1
        assert "an earlier run did not finish and left" in line
        assert process(*arguments, "--force")[0] == 0
        assert {path.name for path in tmp_path.glob("out*")} == {"out.mcap"}

    @pytest.mark.parametrize(
        ("error", "cause"), [(KeyboardInterrupt(), "interrupted"), (RuntimeError("bug"), "RuntimeError: bug")]
    )
    def test_interrupted_run_says_where_its_frames_are(self, tmp_path, process, monkeypatch, error, cause):
        source = write_bag(tmp_path / "in", "mcap", drive("mcap", 3, SIZE))
        call = Pipeline.__call__
        calls = []

        def fail_third(self, *arguments):
            calls.append(arguments)
            if len(calls) == 3:
                raise error
            return call(self, *arguments)

        monkeypatch.setattr(Pipeline, "__call__", fail_third)
        code, _, line = process(source, "--out", tmp_path / "out")
        assert (code, line) == (1, f"mtl_perception process: {cause}; the 2 frames before it are in {tmp_path / 'out.partial'}")
        assert len(messages_of(tmp_path / "out.partial")["/mtl_perception/points"]) == 2


def test_source_without_a_readable_image_fails(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    for name in ("a.png", "b.png"):
        (tmp_path / "in" / name).write_bytes(b"not an image")
    assert main(["process", str(tmp_path / "in"), "--out", str(tmp_path / "out.mcap"), "--device", "cpu"]) == 1
    assert capsys.readouterr().err.splitlines()[-1].endswith("in: no frame was processed, 2 rejected {'unreadable': 2}")
    assert [path.name for path in tmp_path.iterdir()] == ["in"], "there is no empty bag"
