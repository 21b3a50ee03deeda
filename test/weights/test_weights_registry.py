"""Weights registry: names, checksums and the file of a name."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.weights_server import ENCODER, Behavior, weights_fixtures

from mtl_perception.errors import WeightsError
from mtl_perception.weights.download import fetch
from mtl_perception.weights.files import load_network
from mtl_perception.weights.registry import PUBLISHED, Checksum, git_blob_id, resolve, sha256, weights_cache

server, cache, shipped = weights_fixtures()


# Names and checksums


def test_blob_id_matches_git(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"hello\n")  # `echo hello | git hash-object --stdin`
    assert git_blob_id(tmp_path / "file") == "ce013625030ba8dba906f756967f9e9ca394464a"


def test_sha256_matches_the_standard(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")  # FIPS 180-2, appendix B.1
    assert sha256(tmp_path / "file") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    with pytest.raises(WeightsError, match="cannot be read"):
        sha256(tmp_path)


def test_published_files_come_from_the_pinned_commit() -> None:
    commit = "1986999759dfac7d38ed9ccddda5d4f5ba488e82"
    networks = {name: entry for name, entry in PUBLISHED.items() if entry.description}
    folder = f"https://github.com/DrSleep/multi-task-refinenet/raw/{commit}/weights"
    assert {entry.folder for entry in networks.values()} == {folder}
    assert {entry.checksum.kind for entry in networks.values()} == {"git blob"}
    assert {entry.file: entry.checksum.digits for entry in networks.values()} == {
        "ExpKITTI_joint.ckpt": "d9386a96f748001406c622100ce944333d1967ff",
        "ExpNYUD_joint.ckpt": "56f5f5a6bc08a64f36e83547140add41baa4216d",
        "ExpNYUDKITTI_joint.ckpt": "54f57cc2bd15e5cdfa9f3f1eaba9760951218bfa",
        "ExpNYUD_three.ckpt": "6f412c152600827cabff5e1b66efad50090c16a7",
    }
    assert all(entry.description and entry.description.name == name for name, entry in networks.items())


def test_encoders_are_torchvision_files_with_the_checksum_in_their_names() -> None:
    encoders = {name: entry for name, entry in PUBLISHED.items() if not entry.description}
    assert {name: (f"{entry.folder}/{entry.file}", entry.checksum) for name, entry in encoders.items()} == {
        "mobilenetv2-imagenet": (
            "https://download.pytorch.org/models/mobilenet_v2-b0353104.pth",
            Checksum("SHA-256", "b0353104"),
        ),
        "mobilenetv2-imagenet-v2": (
            "https://download.pytorch.org/models/mobilenet_v2-7ebf99e0.pth",
            Checksum("SHA-256", "7ebf99e0"),
        ),
    }


# File of a name


def test_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/x")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    monkeypatch.setenv("MTL_PERCEPTION_CACHE", "~/own")
    assert weights_cache() == Path("/home/x/own/weights")
    monkeypatch.delenv("MTL_PERCEPTION_CACHE")
    assert weights_cache() == Path("/xdg/mtl_perception/weights")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert weights_cache() == Path("/home/x/.cache/mtl_perception/weights")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert weights_cache() == Path("/home/x/.cache/mtl_perception/weights")


def test_file_has_priority_over_a_shipped_name(shipped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setenv("HOME", str(work))
    assert resolve("lane") == shipped / "lane.safetensors"
    Path("lane").mkdir()  # a folder has no priority
    assert resolve("lane") == shipped / "lane.safetensors"
    Path("lane").rmdir()
    Path("lane").write_bytes(b"mine")
    assert resolve("lane") == Path("lane")
    assert resolve("~/lane") == work / "lane"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "nyud",
            "published weights 'nyud' are not fetched (no {cache}/ExpNYUD_joint.ckpt); run `mtl_perception weights fetch nyud`",
        ),
        ("nuyd", "unknown weights 'nuyd'; did you mean 'nyud'? (available: lane, kitti, nyud, nyud-kitti, nyud-normals"),
        ("resnet50", "unknown weights 'resnet50' (available: lane, kitti"),
        ("", "unknown weights ''"),
        ("../lane", "no such weights file: ../lane in /"),
        ("/none/lane.pth", "no such weights file: /none/lane.pth (available names: lane, kitti"),
        ("/dev/null", "weights '/dev/null' cannot be read: the path is not a regular file"),
        ("{cache}", "weights '{cache}' cannot be read: the path is a directory; give a weights file, or one of lane, kitti"),
        ("x" * 5000, "unknown weights 'xxxx"),
        ("a\0b", "unknown weights 'a\\x00b'"),
    ],
)
def test_name_without_a_file_is_rejected(shipped: Path, cache: Path, name: str, message: str) -> None:
    cache.mkdir(parents=True)
    with pytest.raises(WeightsError) as caught:
        resolve(name.replace("{cache}", str(cache)))
    assert message.replace("{cache}", str(cache)) in str(caught.value)


@pytest.mark.parametrize("name", [ENCODER, "imagenet"])
def test_encoder_cannot_be_used_as_a_network(shipped: Path, server: Behavior, cache: Path, name: str) -> None:
    fetch(ENCODER)
    with pytest.raises(WeightsError) as caught:
        load_network(name)
    assert str(caught.value) == (
        f"'{name}' cannot be used as a network: it is an encoder for training, without heads for labels and depth; "
        "give a weights file, or one of lane, kitti, nyud, nyud-kitti, nyud-normals"
    )


def test_encoder_names_are_accepted_where_an_encoder_is_expected(shipped: Path, cache: Path) -> None:
    with pytest.raises(WeightsError, match=r"'mobilenetv2-imagenet' are not fetched .* fetch mobilenetv2-imagenet`"):
        resolve("imagenet", encoder=True)
    with pytest.raises(WeightsError, match=r"did you mean 'mobilenetv2-imagenet'\? \(available: lane, kitti, .*-imagenet-v2;"):
        resolve("mobilenet2-imagenet", encoder=True)
    assert resolve("lane", encoder=True) == shipped / "lane.safetensors"
