"""The command `weights`: list, info, convert and average."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mtl_perception.__main__ import main
from mtl_perception.network.description import published_description
from mtl_perception.network.model import MultiTaskRefineNet
from mtl_perception.weights import registry as store
from mtl_perception.weights.files import load_network, read_weights, save_weights
from mtl_perception.weights.registry import PUBLISHED, Checksum, git_blob_id, sha256

CARD = {
    "data": ["streets: 3 images; CC BY", "yards: 2 images; own"],
    "metrics": {"mIoU": 2 / 3, "confusion": [[5, 1], [0, 6]], "bins": [0.5] * 15, "depth": {}, "ECE": None},
    "crop": [448, 256],
}


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder of shipped weights with one network, `lane`."""
    folder = tmp_path / "models"
    monkeypatch.setattr(store, "SHIPPED_DIR", folder)
    description = replace(published_description(6, 2), name="lane", license="CC BY 4.0", card=CARD)
    torch.manual_seed(0)
    save_weights(folder / "lane.safetensors", MultiTaskRefineNet(description).state_dict(), description)
    return folder


def test_list_shows_every_name_with_its_state(
    shipped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MTL_PERCEPTION_CACHE", str(tmp_path / "cache"))
    cache = tmp_path / "cache" / "weights"
    cache.mkdir(parents=True)
    (cache / "ExpKITTI_joint.ckpt").write_bytes(b"a file")
    (cache / "mobilenet_v2-b0353104.pth").write_bytes(b"an encoder")
    for name, checksum in (
        ("kitti", Checksum("git blob", git_blob_id(cache / "ExpKITTI_joint.ckpt"))),
        ("mobilenetv2-imagenet", Checksum("SHA-256", sha256(cache / "mobilenet_v2-b0353104.pth")[:8])),
    ):
        monkeypatch.setitem(PUBLISHED, name, replace(PUBLISHED[name], checksum=checksum))
    (cache / "ExpNYUD_joint.ckpt").write_bytes(b"half a file")
    (shipped / "broken.safetensors").write_bytes(b"half a file")
    assert main(["weights", "list"]) == 0
    rows = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert rows[0] == "NAME CLASSES TASKS WHERE LICENSE"
    assert rows[1].startswith("broken ? ? shipped, damaged ")
    assert rows[2] == "lane 6 segmentation, depth shipped CC BY 4.0"
    assert rows[3].startswith("kitti 6 segmentation, depth cached BSD 2-clause for academic use")
    assert rows[4].startswith("nyud 40 segmentation, depth cached, damaged BSD")
    assert rows[5].startswith("nyud-kitti 46 segmentation, depth not fetched BSD")
    assert rows[6].startswith("nyud-normals 40 segmentation, depth, normals not fetched BSD")
    assert rows[7].startswith("mobilenetv2-imagenet - encoder cached BSD-3-Clause (torchvision); trained on ImageNet")
    assert rows[8].startswith("mobilenetv2-imagenet-v2 - encoder not fetched BSD-3-Clause")


def test_info_prints_the_description(shipped: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["weights", "info", "lane"]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "name lane" in lines
    assert "6 classes 0 sky, 1 building, 2 road, 3 sidewalk, 4 vegetation, 5 car" in lines
    assert "depth meters = abs(output); trained on 0 to 80 m" in lines
    assert "normalization (RGB / 255 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)" in lines
    assert "license CC BY 4.0" in lines
    # Tables are left to JSON.
    card = ["data streets: 3 images; CC BY", "yards: 2 images; own", "metrics", "mIoU 0.6667", "crop 448, 256"]
    assert lines[lines.index(card[0]) :] == card


def test_info_prints_json(shipped: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["weights", "info", "lane", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["file"] == str(shipped / "lane.safetensors")
    assert facts["bytes"] == os.path.getsize(facts["file"])
    assert facts["parameters"] == 2_991_687
    assert facts["classes"][5] == "car"
    assert facts["license"] == "CC BY 4.0"
    assert facts["card"] == CARD


def test_info_prints_no_control_characters(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    description = replace(published_description(6, 2), license="free\x1b]0;owned\x07", card={"a\x1b[2J": "b\nc"})
    save_weights(tmp_path / "w", MultiTaskRefineNet(description).state_dict(), description)
    assert main(["weights", "info", str(tmp_path / "w")]) == 0
    assert all(line.isprintable() for line in capsys.readouterr().out.split("\n"))


@pytest.mark.parametrize("half", [False, True])
def test_convert_writes_a_published_network_as_own_file(tmp_path: Path, capsys: pytest.CaptureFixture[str], half: bool) -> None:
    torch.manual_seed(0)
    state = MultiTaskRefineNet(published_description(46, 2)).state_dict()
    source, out = tmp_path / "published.ckpt", tmp_path / "own.safetensors"
    torch.save({"state_dict": state}, source, _use_new_zipfile_serialization=False)
    assert main(["weights", "convert", str(source), str(out), *(["--half"] if half else [])]) == 0
    assert "verified" in capsys.readouterr().out
    network = load_network(out)
    assert network.description == published_description(46, 2)
    for name, tensor in network.state_dict().items():
        kept = state[name].half().float() if half and tensor.is_floating_point() else state[name]
        assert torch.equal(tensor, kept), name


def test_convert_replaces_only_with_force(shipped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    out.write_bytes(b"precious")
    assert main(["weights", "convert", "lane", str(out)]) == 1
    assert f"output {out} already exists; choose another name, or replace it with --force" in capsys.readouterr().err
    assert out.read_bytes() == b"precious"
    assert main(["weights", "convert", "lane", str(out), "--force"]) == 0
    assert load_network(out).description.name == "lane"
    assert main(["weights", "convert", "lane", str(tmp_path), "--force"]) == 1
    assert "it is a directory; give a file name" in capsys.readouterr().err


def test_convert_rejects_a_damaged_file_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in").write_bytes(b"\x80\x02 no pickle")
    assert main(["weights", "convert", str(tmp_path / "in"), str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert "cannot be read safely" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_average_is_the_mean_of_the_parameters_by_share(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names, states = ("a", "b"), []
    for seed, name in enumerate(names):
        torch.manual_seed(seed)
        description = replace(published_description(6, 2), name=name, license=f"license {name}", depth_range=(1.0, 60.0 + seed))
        description = replace(description, card={"held_out": ["set: 3 images", f"{name}: 1 image"], "metrics": {"set": 1}})
        states.append(MultiTaskRefineNet(description).state_dict())
        save_weights(tmp_path / name, states[-1], description, half=name == "a")
    files, out = [str(tmp_path / name) for name in names], tmp_path / "mean"
    assert main(["weights", "average", *files, "--out", str(out), "--shares", "1", "3"]) == 0
    capsys.readouterr()
    network = load_network(out)
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point():
            expected = 0.25 * states[0][name].half().float() + 0.75 * states[1][name]
            torch.testing.assert_close(tensor, expected, rtol=1e-6, atol=1e-7)
    found = network.description
    assert (found.name, found.license, found.depth_range) == ("b", "license a; license b", (1.0, 61.0))
    assert found.card["held_out"] == ["set: 3 images", "a: 1 image", "b: 1 image"]
    assert [(part["name"], part["share"]) for part in found.card["average_of"]] == [("a", 0.25), ("b", 0.75)]
    assert main(["weights", "average", files[0], files[0], "--out", str(out), "--force"]) == 0
    assert {value.dtype for value in read_weights(out)[0].values()} <= {torch.float16, torch.int64}, "as precise as its parts"


def test_average_refuses_other_networks_and_shares(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, description in (
        ("six", published_description(6, 2)),
        ("other", replace(published_description(6, 2), grid="exact")),
    ):
        save_weights(tmp_path / name, MultiTaskRefineNet(description).state_dict(), description)
    six, other, out = (str(tmp_path / name) for name in ("six", "other", "out"))
    for arguments, code, message in (
        ([six, other], 1, f"{other} cannot be averaged with {six}: grid differs"),
        ([six, six, "--shares", "1", "0"], 2, "shares 1 0: give 2 numbers above 0"),
        ([six, six, "--shares", "1"], 2, "shares 1: give 2 numbers above 0"),
        ([six], 2, "an average needs two or more weights files"),
    ):
        assert main(["weights", "average", *arguments, "--out", out]) == code
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
