"""Fetching weights from servers that behave and that do not; the server is one of our own on this machine."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from support.weights_server import (
    CONTENT,
    CONTENT_SHA256,
    ENCODER,
    ENCODER_FILE,
    FILE,
    Behavior,
    blob,
    free_port,
    names_in,
    weights_fixtures,
)

from mtl_perception.__main__ import main
from mtl_perception.errors import WeightsError
from mtl_perception.weights import download as fetching
from mtl_perception.weights.download import fetch
from mtl_perception.weights.registry import resolve

server, cache, shipped = weights_fixtures()


def test_fetched_file_is_verified_kept_and_not_asked_for_again(server: Behavior, cache: Path) -> None:
    lines: list[str] = []
    path = fetch("kitti", announce=lines.append)
    assert path == cache / FILE == resolve("kitti")
    assert path.read_bytes() == CONTENT
    assert names_in(cache) == [FILE]
    assert cache.stat().st_mode & 0o777 == cache.parent.stat().st_mode & 0o777 == 0o700
    assert server.paths == [f"/mirror/{FILE}"]
    assert "BSD 2-clause for academic use" in lines[0]
    assert lines[1].endswith(f"/mirror/{FILE}")
    assert fetch("kitti", announce=lines.append) == path
    assert len(server.paths) == 1
    assert len(lines) == 2


def test_damaged_file_in_the_cache_is_refused_and_fetched_anew(server: Behavior, cache: Path) -> None:
    fetch("kitti").write_bytes(CONTENT[:-1] + b"?")
    with pytest.raises(WeightsError, match=r"is damaged .*: run `mtl_perception weights fetch kitti` to fetch it again"):
        resolve("kitti")
    assert fetch("kitti").read_bytes() == CONTENT


def test_download_resumes_where_an_earlier_one_ended(server: Behavior, cache: Path) -> None:
    cache.mkdir(parents=True)
    (cache / f"{FILE}.part").write_bytes(CONTENT[:100_000])
    assert fetch("kitti").read_bytes() == CONTENT
    assert server.ranges == ["bytes=100000-"]
    assert names_in(cache) == [FILE]


def test_server_that_ignores_range(server: Behavior, cache: Path) -> None:
    server.ignores_range = True
    cache.mkdir(parents=True)
    (cache / f"{FILE}.part").write_bytes(b"x" * 400_000)  # longer than the file: none of it may stay
    assert fetch("kitti").read_bytes() == CONTENT
    assert server.ranges == ["bytes=400000-"]


def test_server_that_sends_another_range(server: Behavior, cache: Path) -> None:
    server.wrong_range = True
    cache.mkdir(parents=True)
    (cache / f"{FILE}.part").write_bytes(CONTENT[:1000])
    assert fetch("kitti").read_bytes() == CONTENT
    assert server.ranges == ["bytes=1000-", None]


def test_part_longer_than_the_file_is_dropped(server: Behavior, cache: Path) -> None:
    cache.mkdir(parents=True)
    (cache / f"{FILE}.part").write_bytes(CONTENT + b"more")
    assert fetch("kitti").read_bytes() == CONTENT
    assert server.ranges == [f"bytes={len(CONTENT) + 4}-", None]


def test_complete_part_needs_no_server(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MTL_PERCEPTION_WEIGHTS_URL", f"http://127.0.0.1:{free_port()}")
    cache.mkdir(parents=True)
    (cache / f"{FILE}.part").write_bytes(CONTENT)
    assert fetch("kitti").read_bytes() == CONTENT


def test_cut_connection_is_resumed_at_once(server: Behavior, cache: Path) -> None:
    server.cuts = [70_000, 50_000]
    assert fetch("kitti").read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=70000-", "bytes=120000-"]


def test_connection_cut_again_and_again_is_resumed_by_the_next_call(server: Behavior, cache: Path) -> None:
    server.cuts = [1000, 1000, 1000]
    with pytest.raises(WeightsError, match=r"gave up after 3 attempts: .*3000 of 300000 bytes; 3000 bytes are kept, and fetch"):
        fetch("kitti")
    assert names_in(cache) == [f"{FILE}.part"]
    assert (cache / f"{FILE}.part").read_bytes() == CONTENT[:3000]
    assert fetch("kitti").read_bytes() == CONTENT
    assert server.ranges[-1] == "bytes=3000-"


def test_wrong_bytes_are_deleted_and_named(server: Behavior, cache: Path) -> None:
    server.content = b"<html>Please log in</html>"
    with pytest.raises(WeightsError) as caught:
        fetch("kitti")
    assert f"expected git blob {blob(CONTENT)}, got {blob(server.content)} (26 bytes)" in str(caught.value)
    assert names_in(cache) == []


def test_file_that_the_server_lacks(server: Behavior, cache: Path) -> None:
    server.status = 404
    with pytest.raises(WeightsError) as caught:
        fetch("kitti")
    text = str(caught.value)
    assert f"/mirror/{FILE}: the server answers 404 Not Found" in text
    assert f"may also be put by hand at {cache / FILE}" in text
    assert len(server.paths) == 1


def test_server_in_trouble_is_asked_again(server: Behavior, cache: Path) -> None:
    server.status = 503
    with pytest.raises(WeightsError, match=r"gave up after 3 attempts: the server answers 503 Service Unavailable"):
        fetch("kitti")
    assert len(server.paths) == 3


def test_no_server(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv("MTL_PERCEPTION_WEIGHTS_URL", url)
    with pytest.raises(WeightsError) as caught:
        fetch("kitti")
    text = str(caught.value)
    assert text.startswith(f"{url}/{FILE}: cannot be reached: ")
    assert "Connection refused" in text
    assert f"put by hand at {cache / FILE}" in text


@pytest.mark.parametrize("sends_length", [True, False])
def test_endless_answers_are_not_swallowed(
    server: Behavior, cache: Path, monkeypatch: pytest.MonkeyPatch, sends_length: bool
) -> None:
    monkeypatch.setattr(fetching, "MAX_BYTES", 200_000)
    server.sends_length = sends_length
    with pytest.raises(WeightsError, match=r"more than 200000 bytes: not the weights file"):
        fetch("kitti")
    assert names_in(cache) == []


def test_answer_without_a_length(server: Behavior, cache: Path) -> None:
    server.sends_length = False
    assert fetch("kitti").read_bytes() == CONTENT


@pytest.mark.parametrize(
    "url", ["http://mirror.example", "ftp://127.0.0.1", "file:///srv/weights", "/srv/weights", "http://127.0.0.1.example"]
)
def test_only_https_or_this_machine(cache: Path, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("MTL_PERCEPTION_WEIGHTS_URL", url)
    with pytest.raises(WeightsError, match=r"only https addresses are fetched from .* see MTL_PERCEPTION_WEIGHTS_URL"):
        fetch("kitti")


def test_address_that_is_none(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MTL_PERCEPTION_WEIGHTS_URL", "http://127.0.0.1:port")
    with pytest.raises(WeightsError, match=r"not a valid address: nonnumeric port"):
        fetch("kitti")


def test_redirects_are_followed_but_not_to_unsafe_addresses(server: Behavior, cache: Path) -> None:
    server.redirect = "http://mirror.example/file"
    with pytest.raises(WeightsError, match=r"http://mirror.example/file: only https addresses"):
        fetch("kitti")
    server.redirect = "/moved/file"
    cache.joinpath(f"{FILE}.part").write_bytes(CONTENT[:10])
    assert fetch("kitti").read_bytes() == CONTENT
    assert server.paths[-1] == "/moved/file"
    assert server.ranges[-1] == "bytes=10-"


def test_two_processes_do_not_write_the_same_part(server: Behavior, cache: Path) -> None:
    with fetching._locked(cache), pytest.raises(WeightsError, match=r"another process is fetching weights now"):
        fetch("kitti")
    assert fetch("kitti").read_bytes() == CONTENT


def test_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("MTL_PERCEPTION_CACHE", str(tmp_path / "file"))
    with pytest.raises(WeightsError, match=rf"{tmp_path}/file/weights: cannot be written: "):
        fetch("kitti")


@pytest.mark.parametrize("name", [ENCODER, "imagenet"])
def test_encoder_is_fetched_under_its_name_and_its_short_one(server: Behavior, cache: Path, name: str) -> None:
    server.cuts = [70_000]
    lines: list[str] = []
    path = fetch(name, announce=lines.append)
    assert path == cache / ENCODER_FILE == resolve(name, encoder=True)
    assert path.read_bytes() == CONTENT
    assert names_in(cache) == [ENCODER_FILE]
    assert server.ranges == [None, "bytes=70000-"]
    assert server.paths[0] == f"/mirror/{ENCODER_FILE}"
    assert "license: BSD-3-Clause (torchvision); trained on ImageNet" in lines[0]
    assert fetch(name, announce=lines.append) == path
    assert (len(server.paths), len(lines)) == (2, 2)


def test_encoder_of_other_bytes_is_neither_kept_nor_used(server: Behavior, cache: Path) -> None:
    server.content = CONTENT[:-1] + b"?"
    digits = hashlib.sha256(server.content).hexdigest()[:8]
    with pytest.raises(WeightsError, match=rf"expected SHA-256 {CONTENT_SHA256[:8]}, got {digits} \(300000 bytes\)"):
        fetch(ENCODER)
    assert names_in(cache) == []
    (cache / ENCODER_FILE).write_bytes(server.content)
    with pytest.raises(WeightsError, match=rf"is damaged \(SHA-256 {digits}, not .* fetch mobilenetv2-imagenet`"):
        resolve("imagenet", encoder=True)


def test_fetch_prints_paths_on_stdout_and_licenses_on_stderr(
    shipped: Path, server: Behavior, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["weights", "fetch", "kitti", "lane"]) == 0
    output = capsys.readouterr()
    assert output.out.splitlines() == [str(cache / FILE), str(shipped / "lane.safetensors")]
    assert "kitti: license: BSD 2-clause for academic use; commercial use by arrangement with the authors" in output.err
    assert "lane: comes with the package, nothing to fetch" in output.err


def test_fetch_of_an_unknown_name(shipped: Path, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["weights", "fetch", "kiti"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("mtl_perception weights: no weights are called 'kiti': did you mean 'kitti'?")
    assert error.count("\n") == 1
