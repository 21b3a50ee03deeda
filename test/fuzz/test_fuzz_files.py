"""Fuzz tests of file readers: images, calibrations, bags and weights."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from camera.test_calibration_files import KITTI_ODOMETRY, KITTI_RAW, ROS_YAML
from hypothesis import given
from hypothesis import strategies as st
from rosbags.rosbag2 import StoragePlugin, Writer
from safetensors.torch import save
from support.bad_input import anything, damaged, near_document, numbers, sometimes
from support.bags import ROS2, START_NS, Messages, bag_image, drive, write_bag
from support.fuzzing import attempt, fuzz
from support.image_files import IMAGE_FILES
from support.videos import numbered_image, write_video

from mtl_perception.camera.calibration import load_calibration
from mtl_perception.camera.model import CameraModel
from mtl_perception.errors import CameraError, FrameError, PerceptionError, SourceError, WeightsError
from mtl_perception.labels import STREET
from mtl_perception.network.description import KITTI_CAMERA, Description
from mtl_perception.sources.bag.source import BagSource
from mtl_perception.sources.images import ImageSource
from mtl_perception.sources.kitti import parse_stamp
from mtl_perception.sources.open import open_source
from mtl_perception.sources.video import VideoSource
from mtl_perception.weights.files import load_network, read_weights


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder shared by all cases; each case writes its file again."""
    return tmp_path_factory.mktemp("fuzz")


def written(path: Path, data: bytes) -> Path:
    # A new file each time, because the previous one may still be mapped into memory.
    path.unlink(missing_ok=True)
    path.write_bytes(data)
    return path


# Images


@given(data=damaged(list(IMAGE_FILES.values())) | st.sampled_from(list(IMAGE_FILES.values())))
@fuzz("image file", 0.08, mebibytes=512)
def test_image_file_is_decoded_or_rejected(folder: Path, data: bytes) -> None:
    path = written(folder / "a.png", data)
    frames = attempt("image file", lambda: list(ImageSource([path], "a")), str(path), errors=FrameError)
    for frame in frames or ():
        height, width = frame.image.shape[:2]
        assert frame.image.dtype == np.uint8 and frame.image.shape == (height, width, 3) and frame.image.size
        assert frame.camera is None


# Calibrations

SHORT = yaml.safe_load(ROS_YAML)
KITTI_WORDS = ["", "nan", "inf", "-inf", "1e400", "0", "-1", "1e-320", "0x10", "1_0", "٣", "S_rect_02:", "P2:", ":"]


@st.composite
def kitti_file(draw: Any) -> bytes:
    """Draw a KITTI calibration file with up to two changed words."""
    lines = [line.split(" ") for line in draw(st.sampled_from([KITTI_RAW, KITTI_ODOMETRY])).splitlines()]
    for _ in range(draw(st.integers(0, 2))):
        line = draw(st.sampled_from(lines))
        place = draw(st.integers(0, len(line) - 1))
        line[place : place + 1] = draw(st.lists(st.sampled_from(KITTI_WORDS), max_size=2))
        if not line:
            line.append("")
    return "\n".join(" ".join(line) for line in lines).encode()


yaml_files = near_document(SHORT, sometimes(anything, numbers)).map(
    lambda value: yaml.safe_dump(value, allow_unicode=True).encode()
)
calibration_files = st.one_of(
    yaml_files, kitti_file(), damaged([ROS_YAML.encode(), KITTI_RAW.encode(), KITTI_ODOMETRY.encode()])
)


@given(data=calibration_files, size=st.sampled_from([None, (32, 24), (1242, 375)]))
@fuzz("calibration file", 0.08)
def test_calibration_file_is_loaded_or_rejected(folder: Path, data: bytes, size: tuple[int, int] | None) -> None:
    path = written(folder / "camera.yaml", data)
    calibration = attempt(
        "calibration file", lambda: load_calibration(path, size=size), f"calibration file {path}", errors=CameraError
    )
    if calibration is not None:
        camera = calibration.camera(rectified=True)
        assert np.isfinite([camera.fx, camera.fy, camera.cx, camera.cy]).all() and min(camera.fx, camera.fy) > 0


@given(text=damaged([b"2011-09-26 13:02:25.964389445", b"2011-09-26 13:02:25"]))
@fuzz("timestamps.txt", 0.02)
def test_line_of_timestamps_txt_is_parsed_or_rejected(folder: Path, text: bytes) -> None:
    data = folder / "2011_09_26_drive_0001_sync/image_02/data"
    data.mkdir(parents=True, exist_ok=True)
    written(data / "0000000000.png", IMAGE_FILES["PNG, 1 x 1"])
    stamps = written(data.parent / "timestamps.txt", text)
    source = attempt("timestamps.txt", lambda: open_source(data.parent), f"timestamps file {stamps}", errors=SourceError)
    if source is not None:
        (frame,) = source
        assert isinstance(frame.stamp_ns, int)
        assert frame.stamp_ns == parse_stamp(text.decode().split("\n")[0])


# Bags


@pytest.fixture(scope="module")
def bags(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[bytes]]:
    """Intact bags by suffix."""
    folder = tmp_path_factory.mktemp("bags")
    intact: dict[str, list[bytes]] = {".bag": [], ".mcap": [], ".db3": []}
    for kind, suffix, compressions in (
        ("ros1", ".bag", ("", "bz2", "lz4")),
        ("mcap", ".mcap", ("", "zstd")),
        ("sqlite3", ".db3", ("",)),
    ):
        for compression in compressions:
            path = write_bag(folder / f"{kind}{compression}", kind, drive(kind, 2, (6, 8)), compression)
            file = path if path.is_file() else next(path.glob(f"*{suffix}"))
            intact[suffix].append(file.read_bytes())
    intact[".mcap"].append(_bag_with_two_types_on_one_topic(folder / "two"))
    return intact


def _bag_with_two_types_on_one_topic(path: Path) -> bytes:
    make = Messages()
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        messages = (make.image(bag_image(0, 6, 8), START_NS), make.compressed(bag_image(0, 6, 8), START_NS))
        for i, message in enumerate(messages):
            connection = writer.add_connection("/cam/image_raw", message.__msgtype__, typestore=ROS2)
            writer.write(connection, START_NS + i, make.serialize(message))
    return next(path.glob("*.mcap")).read_bytes()


def read_bag(path: Path) -> None:
    """Read all frames of a bag and check each."""
    for frame in BagSource(path):
        height, width = frame.image.shape[:2]
        assert frame.image.dtype == np.uint8 and frame.image.shape == (height, width, 3)
        assert frame.camera is None or (frame.camera.width, frame.camera.height) == (width, height)


@given(choice=st.data())
@fuzz("bag", 0.05, mebibytes=512)
def test_bag_is_read_or_rejected(folder: Path, bags: dict[str, list[bytes]], choice: Any) -> None:
    """The bag is damaged, empty, or of another format than its suffix says."""
    suffix = choice.draw(st.sampled_from(sorted(bags)))
    actual = choice.draw(st.sampled_from([suffix] * 9 + sorted(bags)))
    path = written(folder / f"a{suffix}", choice.draw(damaged(bags[actual], max_changes=4)))
    attempt("bag", lambda: read_bag(path), str(path), errors=SourceError)


def test_intact_bags_are_read(folder: Path, bags: dict[str, list[bytes]]) -> None:
    """Otherwise the damaged bags above would be rejected for another reason."""
    for suffix, intact in bags.items():
        for data in intact:
            assert len(list(BagSource(written(folder / f"a{suffix}", data)))) in (1, 2)


# Videos


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Intact videos by suffix."""
    pytest.importorskip("av", reason="needs PyAV")
    folder = tmp_path_factory.mktemp("videos")
    images = [numbered_image(index) for index in range(4)]
    return {suffix: write_video(folder / f"a{suffix}", images).read_bytes() for suffix in (".mp4", ".mkv", ".ts")}


@given(choice=st.data())
@fuzz("video", 0.02, mebibytes=512)
def test_video_is_read_or_rejected(folder: Path, videos: dict[str, bytes], choice: Any) -> None:
    suffix = choice.draw(st.sampled_from(sorted(videos)))
    path = written(folder / f"a{suffix}", choice.draw(damaged([videos[suffix]], max_changes=4)))
    frames = attempt("video", lambda: list(VideoSource(path)), str(path), errors=SourceError)
    for frame in frames or ():
        height, width = frame.image.shape[:2]
        assert frame.image.dtype == np.uint8 and frame.image.shape == (height, width, 3) and frame.image.size


# Weights

DESCRIPTION = Description("small", STREET.names, STREET.colors, depth_transform="exp", camera=KITTI_CAMERA, card={"seed": 1})


def safetensors(description: str = DESCRIPTION.to_json(), version: str = "1") -> bytes:
    tensors = {"segm.weight": torch.ones(2, 3), "segm.bias": torch.ones(2, dtype=torch.float16)}
    return save(tensors, metadata={"mtl_perception": description, "format": version})


def with_header(header: object, data: bytes, length: int | None = None) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


INTACT = safetensors()
HEADER = json.loads(INTACT[8 : 8 + struct.unpack("<Q", INTACT[:8])[0]])
TENSORS = INTACT[8 + struct.unpack("<Q", INTACT[:8])[0] :]
headers = near_document(
    HEADER, st.sampled_from(["F32", "F16", "I64", "BOOL", "F8_E4M3", [0, 100 * 10**9], [24, 0], [2**62, 2]]) | anything
)
descriptions = near_document(json.loads(DESCRIPTION.to_json()))
lengths = sometimes(st.none(), st.sampled_from([0, 1, 2, 8, 2**31, 100 * 10**9, 2**63, 2**64 - 1]))
own_files = st.one_of(
    damaged([INTACT]),
    st.builds(with_header, headers, st.just(TENSORS), lengths),
    descriptions.map(lambda value: safetensors(json.dumps(value))),
)


@given(data=own_files)
@fuzz("weights file", 0.07)
def test_weights_file_yields_a_valid_description_or_is_rejected(folder: Path, data: bytes) -> None:
    path = written(folder / "a.safetensors", data)
    read = attempt("weights file", lambda: read_weights(path), str(path), errors=WeightsError)
    if read is None:
        return
    state, description = read
    classes, first = description.class_set()
    assert 1 <= len(classes) <= 255 and 0 <= first < len(description.classes)
    assert classes.palette().shape == (256, 3)
    assert Description.from_json(description.to_json()) == description
    assert all(isinstance(tensor, torch.Tensor) for tensor in state.values())


@pytest.fixture(scope="module")
def full(weights_file: Path) -> tuple[dict[str, Any], bytes]:
    """Header and data of a file with a complete network."""
    data = weights_file.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


@given(choice=st.data())
@fuzz("weights file, complete network", 0.005, mebibytes=512)
def test_network_with_one_wrong_entry_is_rejected(folder: Path, full: tuple[dict[str, Any], bytes], choice: Any) -> None:
    """One entry has another shape, dtype or name, is unexpected, or is non-finite."""
    header, data = json.loads(json.dumps(full[0])), bytearray(full[1])
    names = sorted(set(header) - {"__metadata__"})
    name = choice.draw(st.sampled_from(names))
    kind = choice.draw(st.sampled_from(["shape", "dtype", "name", "missing", "unexpected", "nan"]))
    start = header[name]["data_offsets"][0]
    if kind == "shape":
        header[name]["shape"] = [1, *header[name]["shape"]]
    elif kind == "dtype":
        header[name]["dtype"] = "I32" if header[name]["dtype"] == "F32" else "F64"
    elif kind == "name":
        header[f"{name}x"] = header.pop(name)
    elif kind == "missing":
        return  # safetensors itself rejects gaps in the data; "name" also yields a missing entry
    elif kind == "unexpected":
        header["unexpected"] = {"dtype": "F32", "shape": [0], "data_offsets": [len(data), len(data)]}
    else:
        data[start : start + 4] = struct.pack("<f", choice.draw(st.sampled_from([float("nan"), float("inf"), -float("inf")])))
        if header[name]["dtype"] != "F32":
            return
    path = written(folder / "full.safetensors", with_header(header, bytes(data)))
    assert attempt("weights file, complete network", lambda: load_network(path), str(path), errors=WeightsError) is None


class Hostile:
    """Object whose unpickling creates a folder."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.path,)


SENTINEL = "executed_by_a_pickle"


def checkpoints() -> list[bytes]:
    tensors = {"segm.weight": torch.ones(6, 2, 3, 3), "segm.bias": torch.ones(6)}
    contents = [{"state_dict": tensors}, tensors, [tensors], {"state_dict": {"module.x": 1}}, {"state_dict": Hostile(SENTINEL)}]
    files = [pickle.dumps(Hostile(SENTINEL)), pickle.dumps({"a": 1}, protocol=2)]
    for content in contents:
        for zipped in (True, False):
            buffer = io.BytesIO()
            torch.save(content, buffer, _use_new_zipfile_serialization=zipped)
            files.append(buffer.getvalue())
    return files


@given(data=damaged(checkpoints()))
@fuzz("checkpoint", 0.04)
def test_checkpoint_is_rejected_without_running_its_code(folder: Path, data: bytes, in_folder: None) -> None:
    path = written(folder / "a.ckpt", data)
    attempt("checkpoint", lambda: load_network(path), str(path), errors=WeightsError)
    assert not Path(SENTINEL).exists()


@pytest.fixture
def in_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the test in the folder, where code in a file would create SENTINEL."""
    monkeypatch.chdir(folder)


@given(value=near_document({"name": "a", "classes": ["x"], "colors": [[1, 2, 3]], "camera": dict(KITTI_CAMERA)}) | anything)
@fuzz("model description", 0.03)
def test_model_description_is_parsed_or_rejected(value: Any) -> None:
    description = attempt(
        "model description", lambda: Description.from_json(json.dumps(value)), "model description", errors=WeightsError
    )
    if description is not None and description.camera:
        attempt("model description", lambda: CameraModel.from_intrinsics(description.camera), errors=PerceptionError)
