"""Download of weights from a local server with configurable faults."""

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


def test_fetched_file_is_verified_and_cached(server: Behavior, cache: Path) -> None:
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


def test_damaged_file_in_the_cache_is_refused_and_fetched_again(server: Behavior, cache: Path) -> None:
    fetch("kitti").write_bytes(CONTENT[:-1] + b"?")
    with pytest.raises(WeightsError, match=r"is damaged .*; run `mtl_perception weights fetch kitti` to fetch it again"):
        resolve("kitti")
    assert fetch("kitti").read_bytes() == CONTENT


def test_interrupted_download_is_resumed(server: Behavior, cache: Path) -> None:
    cache.mkdir(parents=True)
    (cache / f"{FILE}.part").write_bytes(CONTENT[:100_000])
    assert fetch("kitti").read_bytes() == CONTENT
    assert server.ranges == ["bytes=100000-"]
    assert names_in(cache) == [FILE]


def test_download_restarts_when_the_server_ignores_range(server: Behavior, cache: Path) -> None:
    server.ignores_range = True
    cache.mkdir(parents=True)
    (cache / f"{FILE}.part").write_bytes(b"x" * 400_000)  # longer than the file: none of it may stay
    assert fetch("kitti").read_bytes() == CONTENT
    assert server.ranges == ["bytes=400000-"]


def test_download_restarts_when_the_server_sends_another_range(server: Behavior, cache: Path) -> None:
    server.wrong_range = True
    cache.mkdir(parents=True)
    (cache / f"{FILE}.part").write_bytes(CONTENT[:1000])
    assert fetch("kitti").read_bytes() == CONTENT
    assert server.ranges == ["bytes=1000-", None]


def test_partial_file_longer_than_the_file_is_discarded(server: Behavior, cache: Path) -> None:
    cache.mkdir(parents=True)
    (cache / f"{FILE}.part").write_bytes(CONTENT + b"more")
    assert fetch("kitti").read_bytes() == CONTENT
    assert server.ranges == [f"bytes={len(CONTENT) + 4}-", None]


def test_complete_partial_file_is_used_without_a_server(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MTL_PERCEPTION_WEIGHTS_URL", f"http://127.0.0.1:{free_port()}")
    cache.mkdir(parents=True)
    (cache / f"{FILE}.part").write_bytes(CONTENT)
    assert fetch("kitti").read_bytes() == CONTENT


def test_closed_connection_is_resumed_at_once(server: Behavior, cache: Path) -> None:
    server.cuts = [70_000, 50_000]
    assert fetch("kitti").read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=70000-", "bytes=120000-"]


def test_next_call_resumes_after_the_last_attempt_failed(server: Behavior, cache: Path) -> None:
    server.cuts = [1000, 1000, 1000]
    with pytest.raises(
        WeightsError, match=r"failed after 3 attempts: .*3000 of 300000 bytes; fetch again to resume after 3000 bytes"
    ):
        fetch("kitti")
    assert names_in(cache) == [f"{FILE}.part"]
    assert (cache / f"{FILE}.part").read_bytes() == CONTENT[:3000]
    assert fetch("kitti").read_bytes() == CONTENT
    assert server.ranges[-1] == "bytes=3000-"


def test_file_with_a_wrong_checksum_is_deleted(server: Behavior, cache: Path) -> None:
    server.content = b"<html>Please log in</html>"
    with pytest.raises(WeightsError) as caught:
        fetch("kitti")
    assert f"expected git blob {blob(CONTENT)}, got {blob(server.content)} (26 bytes)" in str(caught.value)
    assert names_in(cache) == []


def test_missing_file_on_the_server_is_an_error(server: Behavior, cache: Path) -> None:
    server.status = 404
    with pytest.raises(WeightsError) as caught:
        fetch("kitti")
    text = str(caught.value)
    assert f"/mirror/{FILE} failed: the server answered 404 Not Found" in text
    assert f"or copy the file to {cache / FILE}" in text
    assert len(server.paths) == 1


def test_server_error_is_retried(server: Behavior, cache: Path) -> None:
    server.status = 503
    with pytest.raises(WeightsError, match=r"failed after 3 attempts: the server answered 503 Service Unavailable"):
        fetch("kitti")
    assert len(server.paths) == 3


def test_unreachable_server_is_an_error(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv("MTL_PERCEPTION_WEIGHTS_URL", url)
    with pytest.raises(WeightsError) as caught:
        fetch("kitti")
    text = str(caught.value)
    assert text.startswith(f"cannot reach {url}/{FILE}: ")
    assert "Connection refused" in text
    assert f"copy the file to {cache / FILE}" in text


@pytest.mark.parametrize("sends_length", [True, False])
def test_download_beyond_the_size_limit_is_stopped(
    server: Behavior, cache: Path, monkeypatch: pytest.MonkeyPatch, sends_length: bool
) -> None:
    monkeypatch.setattr(fetching, "MAX_BYTES", 200_000)
    server.sends_length = sends_length
    with pytest.raises(WeightsError, match=r"more than 200000 bytes, so not the weights file"):
        fetch("kitti")
    assert names_in(cache) == []


def test_answer_without_a_length_is_accepted(server: Behavior, cache: Path) -> None:
    server.sends_length = False
    assert fetch("kitti").read_bytes() == CONTENT


@pytest.mark.parametrize(
    "url", ["http://mirror.example", "ftp://127.0.0.1", "file:///srv/weights", "/srv/weights", "http://127.0.0.1.example"]
)
def test_http_url_of_another_machine_is_refused(cache: Path, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("MTL_PERCEPTION_WEIGHTS_URL", url)
    with pytest.raises(WeightsError, match=r"refused: the URL must be https .* check MTL_PERCEPTION_WEIGHTS_URL"):
        fetch("kitti")


def test_invalid_url_is_refused(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MTL_PERCEPTION_WEIGHTS_URL", "http://127.0.0.1:port")
    with pytest.raises(WeightsError, match=r"invalid URL .*: nonnumeric port"):
        fetch("kitti")


def test_redirects_are_followed_to_https_only(server: Behavior, cache: Path) -> None:
    server.redirect = "http://mirror.example/file"
    with pytest.raises(WeightsError, match=r"http://mirror.example/file refused: the URL must be https"):
        fetch("kitti")
    server.redirect = "/moved/file"
    cache.joinpath(f"{FILE}.part").write_bytes(CONTENT[:10])
    assert fetch("kitti").read_bytes() == CONTENT
    assert server.paths[-1] == "/moved/file"
    assert server.ranges[-1] == "bytes=10-"


def test_cache_is_locked_during_a_download(server: Behavior, cache: Path) -> None:
    with fetching._locked(cache), pytest.raises(WeightsError, match=r"another process is fetching weights"):
        fetch("kitti")
    assert fetch("kitti").read_bytes() == CONTENT


def test_cache_that_cannot_be_written_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("MTL_PERCEPTION_CACHE", str(tmp_path / "file"))
    with pytest.raises(WeightsError, match=rf"{tmp_path}/file/weights: cannot be written: "):
        fetch("kitti")


@pytest.mark.parametrize("name", [ENCODER, "imagenet"])
def test_encoder_is_fetched_by_name_and_alias(server: Behavior, cache: Path, name: str) -> None:
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


def test_encoder_with_a_wrong_checksum_is_refused(server: Behavior, cache: Path) -> None:
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
    assert "lane: shipped with the package, nothing to fetch" in output.err


def test_fetch_of_an_unknown_name_suggests_the_closest(shipped: Path, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["weights", "fetch", "kiti"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("mtl_perception weights: unknown weights 'kiti'; did you mean 'kitti'?")
    assert error.count("\n") == 1
