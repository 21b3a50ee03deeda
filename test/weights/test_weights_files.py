"""Weights files: round trip, and one-line errors of damaged, mismatched and hostile files."""

from __future__ import annotations

import io
import json
import math
import os
import pickle
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from mtl_perception.errors import SourceError, WeightsError
from mtl_perception.network.description import KITTI_CAMERA, Description, published_description
from mtl_perception.network.model import MultiTaskRefineNet
from mtl_perception.weights.files import load_network, save_weights
from mtl_perception.weights.metadata import FORMAT_VERSION, METADATA_KEY, read_description

OWN = Description(
    name="lane",
    classes=("road", "curb", "người"),
    colors=((128, 64, 128), (1, 2, 3), (220, 20, 60)),
    groups={"ground": (0, 2), "people": (2, 1)},
    mean=(0.1, 0.2, 0.3),
    std=(0.4, 0.5, 0.6),
    depth_transform="exp",
    depth_range=(1.5, 60.0),
    camera={"width": 640, "height": 480, "fx": 500.25, "fy": 501.0, "cx": 320.0, "cy": 240.0},
    license="CC BY 4.0",
    card={"seed": 7, "metrics": {"mIoU": 0.5}},
)


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return MultiTaskRefineNet(OWN).state_dict()


@pytest.fixture(scope="module")
def own_bytes(state: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("own") / "own.safetensors"
    save_weights(path, state, OWN)
    return path.read_bytes()


def load_error(path: Path) -> str:
    """Return the error message, which is one line with the path."""
    with pytest.raises(WeightsError) as caught:
        load_network(path)
    text = str(caught.value)
    assert str(path) in text
    assert "\n" not in text
    return text


def test_own_file_restores_network_and_description(tmp_path: Path, state: dict[str, Tensor]) -> None:
    path = tmp_path / "new" / "lane.safetensors"
    save_weights(path, state, OWN, half=False)
    network = load_network(path)
    assert network.description == OWN
    assert read_description(path) == OWN
    assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert path.stat().st_mode & 0o777 == 0o644
    assert [other.name for other in path.parent.iterdir()] == ["lane.safetensors"]


def test_half_precision_file_has_half_the_size_and_loads_as_float32(tmp_path: Path, state: dict[str, Tensor]) -> None:
    save_weights(tmp_path / "full", state, OWN, half=False)
    save_weights(tmp_path / "half", state, OWN, half=True)
    assert (tmp_path / "half").stat().st_size < 0.51 * (tmp_path / "full").stat().st_size
    loaded = load_network(tmp_path / "half").state_dict()
    assert {tensor.dtype for tensor in loaded.values()} == {torch.float32, torch.int64}
    assert torch.allclose(loaded["conv8.weight"], state["conv8.weight"], rtol=1e-3, atol=1e-6)


def test_values_beyond_float16_are_rejected_and_nothing_is_written(tmp_path: Path, state: dict[str, Tensor]) -> None:
    big = {**state, "layer1.1.running_var": torch.full((32,), 1e5)}
    with pytest.raises(WeightsError, match=r"'layer1.1.running_var' has values beyond the range of torch.float16"):
        save_weights(tmp_path / "half", big, OWN, half=True)
    assert list(tmp_path.iterdir()) == []


def test_unwritable_path_is_rejected(tmp_path: Path, state: dict[str, Tensor]) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SourceError, match=r"cannot write .*own"):
        save_weights(tmp_path / "file" / "own", state, OWN)
    (tmp_path / "folder").mkdir()
    with pytest.raises(SourceError, match=r"cannot write .*folder: Is a directory"):
        save_weights(tmp_path / "folder", state, OWN)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_header_length_with_the_first_byte_of_a_pickle_is_accepted(tmp_path: Path, state: dict[str, Tensor]) -> None:
    """A safetensors file starts with the length of its header; one in 32 starts with the first byte of a pickle."""
    path = tmp_path / "own.safetensors"
    for padding in range(0, 512, 8):
        save_weights(path, state, replace(OWN, license="x" * padding))
        if path.read_bytes()[:1] == b"\x80":
            break
    else:
        pytest.fail("no padding gave the first byte 0x80")
    assert load_network(path).description.license == "x" * padding


# Entries


def edited(state: dict[str, Tensor], **changes: Tensor | None) -> dict[str, Tensor]:
    result = dict(state)
    for name, tensor in changes.items():
        if tensor is None:
            del result[name.replace("__", ".")]
        else:
            result[name.replace("__", ".")] = tensor
    return result


@pytest.mark.parametrize("published", [False, True], ids=["own", "published"])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"conv8__weight": None, "conv7__weight": None}, "entry 'conv7.weight' (256, 160, 1, 1) is missing"),
        ({"extra__weight": torch.zeros(2, 5)}, "unexpected entry 'extra.weight' (2, 5)"),
        (
            {"conv3__weight": torch.zeros(256, 25, 1, 1)},
            "entry 'conv3.weight' has shape (256, 25, 1, 1), expected (256, 24, 1, 1)",
        ),
        ({"depth__bias": torch.tensor([float("nan")])}, "entry 'depth.bias' has non-finite values"),
        (
            {"depth__bias": torch.tensor([3])},
            "entry 'depth.bias' is torch.strided torch.int64, expected torch.float32",
        ),
    ],
    ids=["missing", "unexpected", "shape", "nan", "integer"],
)
def test_error_names_the_first_mismatched_entry(
    tmp_path: Path, state: dict[str, Tensor], published: bool, changes: dict[str, Tensor | None], message: str
) -> None:
    path = tmp_path / "weights"
    if published:
        state = MultiTaskRefineNet(published_description(6, 2)).state_dict()
        torch.save({"state_dict": edited(state, **changes)}, path, _use_new_zipfile_serialization=False)
    else:
        metadata = {METADATA_KEY: OWN.to_json(), "format": str(FORMAT_VERSION)}
        save_file(edited(state, **changes), path, metadata)
    assert message in load_error(path)


def test_unknown_published_network_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "other.ckpt"
    torch.save({"state_dict": {"segm.weight": torch.zeros(19, 256, 3, 3)}}, path)
    assert "no published network has 19 classes and 2 tasks" in load_error(path)
    torch.save({"state_dict": {"fc.weight": torch.zeros(3)}}, path)
    assert "entry 'segm.weight' is missing or has a wrong shape" in load_error(path)
    contents: list[object] = [{"epoch": 3}, [torch.zeros(1)], torch.zeros(1), {"state_dict": {}}]
    for content in contents:
        torch.save(content, path)
        assert "not a checkpoint: it has no 'state_dict' of tensors" in load_error(path)


# Damaged files


def half_of(data: bytes) -> bytes:
    return data[: len(data) // 2]


def with_flipped_header_bits(data: bytes) -> bytes:
    return data[:8] + bytes(byte ^ 0x10 for byte in data[8:40]) + data[40:]


def with_header_length(length: int) -> Callable[[bytes], bytes]:
    return lambda data: struct.pack("<Q", length) + data[8:]


@pytest.mark.parametrize(
    "damage",
    [
        half_of,
        with_flipped_header_bits,
        with_header_length(100 * 10**9),
        with_header_length(2**64 - 1),
        with_header_length(0),
        lambda data: data[:5],
        lambda data: data + b"more",
        lambda data: b"",
        lambda data: b"weights: see the wiki\n",
    ],
    ids=["truncated", "bit-flips", "100-GB", "max", "no-header", "5-bytes", "longer", "empty", "text"],
)
def test_damaged_own_file_is_rejected(tmp_path: Path, own_bytes: bytes, damage: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(damage(own_bytes))
    assert "damaged, or neither a safetensors file nor a PyTorch checkpoint" in load_error(path)


@pytest.mark.parametrize("legacy", [True, False], ids=["legacy", "zip"])
def test_damaged_published_file_is_rejected(tmp_path: Path, legacy: bool) -> None:
    path = tmp_path / "weights.ckpt"
    state = MultiTaskRefineNet(published_description(6, 2)).state_dict()
    torch.save({"state_dict": state}, path, _use_new_zipfile_serialization=not legacy)
    data = path.read_bytes()
    for damaged in (half_of(data), data[:20], data[:64] + b"\xff" * 64 + data[128:] if legacy else data[:-100]):
        path.write_bytes(damaged)
        assert "cannot be read safely" in load_error(path)


class Hostile:
    def __init__(self, sentinel: Path) -> None:
        self.sentinel = sentinel

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch '{self.sentinel}'",)


@pytest.mark.parametrize("form", ["plain", "legacy", "zip"])
def test_hostile_pickle_is_not_executed(tmp_path: Path, form: str) -> None:
    sentinel = tmp_path / "executed"
    path = tmp_path / "hostile.ckpt"
    if form == "plain":
        path.write_bytes(pickle.dumps(Hostile(sentinel), protocol=2))
    else:
        buffer = io.BytesIO()
        torch.save({"state_dict": Hostile(sentinel)}, buffer, _use_new_zipfile_serialization=form == "zip")
        path.write_bytes(buffer.getvalue())
    assert "cannot be read safely" in load_error(path)
    assert not sentinel.exists()
    # An unsafe load of the same file runs its code, so the check above is not trivial.
    torch.load(path, weights_only=False) if form != "plain" else pickle.loads(path.read_bytes())
    assert sentinel.exists()


def test_unreadable_file_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"x")
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user can read every file")
    assert "cannot be read: Permission denied" in load_error(path)


# Metadata and description


def own_file(path: Path, metadata: dict[str, str] | None) -> Path:
    save_file({"segm.bias": torch.zeros(3)}, path, metadata)
    return path


def test_missing_or_unknown_metadata_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    for metadata in (None, {"format": "pt"}):
        assert "the safetensors file has no model description" in load_error(own_file(path, metadata))
    for version in ("2", "pt", "[]"):
        text = load_error(own_file(path, {METADATA_KEY: OWN.to_json(), "format": version}))
        assert f"unsupported weights format {2 if version == '2' else 0}; this version reads format 1" in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (None, "JSONDecodeError"),
        ({"classes": None}, "TypeError"),
        ({"classes": []}, "0 classes (1 to 255 fit a label image)"),
        ({"colors": [[1, 2, 3]]}, "3 classes but 1 colors"),
        ({"colors": [[1, 2]] * 3}, "ValueError"),
        ({"tasks": ["depth"]}, "tasks ('depth',)"),
        ({"depth_transform": "log"}, "depth_transform 'log' (one of ('abs', 'exp'))"),
        ({"depth_range": [5, 5]}, "depth_range (5.0, 5.0)"),
        ({"std": [1, 0, 1]}, "std above 0"),
        ({"colors": [[1, 2, math.inf]] * 3}, "OverflowError"),
        ({"depth_range": [0, math.inf]}, "depth_range (0.0, inf)"),
        ({"mean": [0, 0, math.nan]}, "mean (0.0, 0.0, nan)"),
        ({"camera": {"width": 640}}, "(needs width, height, fx, fy, cx, cy)"),
        ({"camera": {**KITTI_CAMERA, "width": math.nan}}, "(needs width, height, fx, fy, cx, cy)"),
        ({"camera": {**KITTI_CAMERA, "fx": 0}}, "(needs width, height, fx, fy, cx, cy)"),
        ({"depth_transform": "x" * 10_000}, "(one of ('abs', 'exp'))"),
        ({"optimizer": "adam"}, "unknown entries ['optimizer']; written by a newer version?"),
    ],
)
def test_invalid_description_is_rejected(tmp_path: Path, change: dict[str, object] | None, message: str) -> None:
    text = "{" if change is None else json.dumps({**json.loads(OWN.to_json()), **change})
    path = own_file(tmp_path / "weights", {METADATA_KEY: text, "format": str(FORMAT_VERSION)})
    assert message in load_error(path)
    assert len(load_error(path)) < 1000


def test_description_round_trips_through_json() -> None:
    for description in (OWN, published_description(46, 2), published_description(40, 3)):
        assert Description.from_json(description.to_json()) == description


def test_class_groups_are_selected_by_name() -> None:
    both = published_description(46, 2)
    assert [both.class_set("nyud40")[1], both.class_set("kitti6")[1], both.class_set()[1]] == [0, 40, 40]
    assert both.class_set()[0].names[-1] == "car"
    with pytest.raises(WeightsError, match=r"'nyud-kitti' have no class group 'street' \(known: nyud40, kitti6\)"):
        both.class_set("street")
    with pytest.raises(WeightsError, match=r"known: none: leave the parameter empty"):
        published_description(6, 2).class_set("nyud40")
