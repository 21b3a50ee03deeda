"""Finding and fetching weights; the server is one of our own on this machine."""

from __future__ import annotations

import hashlib
import random
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from mtl_perception.__main__ import main
from mtl_perception.errors import WeightsError
from mtl_perception.net import fetch as fetching
from mtl_perception.net import store
from mtl_perception.net.fetch import fetch
from mtl_perception.net.store import PUBLISHED, Checksum, git_blob_id, resolve, sha256, weights_cache
from mtl_perception.net.weights import load_network

CONTENT = random.Random(0).randbytes(300_000)
CONTENT_SHA256 = hashlib.sha256(CONTENT).hexdigest()
FILE = "ExpKITTI_joint.ckpt"
ENCODER = "mobilenetv2-imagenet"
ENCODER_FILE = "mobilenet_v2-b0353104.pth"


@dataclass
class Behaviour:
    """What the server does, and what it saw."""

    content: bytes = CONTENT
    status: int = 200
    ignores_range: bool = False
    wrong_range: bool = False
    sends_length: bool = True
    redirect: str = ""
    cuts: list[int] = field(default_factory=list)  # bytes sent before hanging up, one entry a request
    ranges: list[str | None] = field(default_factory=list)  # the Range header of each request
    paths: list[str] = field(default_factory=list)


class Handler(BaseHTTPRequestHandler):
    behaviour: Behaviour

    def do_GET(self) -> None:
        behaviour = self.behaviour
        asked = self.headers.get("Range")
        behaviour.ranges.append(asked)
        behaviour.paths.append(self.path)
        if behaviour.redirect and not self.path.startswith("/moved"):
            self.send_response(302)
            self.send_header("Location", behaviour.redirect)
            self.end_headers()
            return
        if behaviour.status != 200:
            self.send_error(behaviour.status)
            return
        body, start = behaviour.content, 0
        if asked and not behaviour.ignores_range:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            if start >= len(body):
                self.send_error(416)
                return
            start = start - 1 if behaviour.wrong_range else start
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        else:
            self.send_response(200)
        body = body[start:]
        if behaviour.sends_length:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if behaviour.cuts:
            body = body[: behaviour.cuts.pop(0)]
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Silent: pytest shows what matters."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, cache: Path) -> Iterator[Behaviour]:
    behaviour = Behaviour()
    http = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"behaviour": behaviour}))
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("MTL_PERCEPTION_WEIGHTS_URL", f"http://127.0.0.1:{http.server_port}/mirror/")
    yield behaviour
    http.shutdown()
    http.server_close()
    thread.join()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The weights cache, with CONTENT for what `kitti` and the encoder should be, and no pauses between attempts."""
    monkeypatch.setenv("MTL_PERCEPTION_CACHE", str(tmp_path / "cache"))
    for name, checksum in (("kitti", Checksum("git blob", blob(CONTENT))), (ENCODER, Checksum("SHA-256", CONTENT_SHA256[:8]))):
        monkeypatch.setitem(PUBLISHED, name, replace(PUBLISHED[name], checksum=checksum))
    monkeypatch.setattr(fetching, "RETRY_WAITS_S", (0.0, 0.0))
    # A proxy that answers nothing: addresses on this machine must not go through it.
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
    return tmp_path / "cache" / "weights"


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of shipped weights with one name, `lane`."""
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "lane.safetensors").touch()
    monkeypatch.setattr(store, "SHIPPED_DIR", folder)
    return folder


def blob(data: bytes) -> str:
    return hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != ".lock")


# Fetching


def test_blob_id_is_gits(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"hello\n")  # `echo hello | git hash-object --stdin`
    assert git_blob_id(tmp_path / "file") == "ce013625030ba8dba906f756967f9e9ca394464a"


def test_fetched_file_is_verified_kept_and_not_asked_for_again(server: Behaviour, cache: Path) -> None:
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


def test_damaged_file_in_the_cache_is_refused_and_fetched_anew(server: Behaviour, cache: Path) -> None:
    fetch("kitti").write_bytes(CONTENT[:-1] + b"?")
    with pytest.raises(WeightsError, match=r"is damaged .*: run `mtl_perception weights fetch kitti` to fetch it again"):
        resolve("kitti")
    assert fetch("kitti").read_bytes() == CONTENT


def test_download_resumes_where_an_earlier_one_ended(server: Behaviour, cache: Path) -> None:
    cache.mkdir(parents=True)
    (cache / f"{FILE}.part").write_bytes(CONTENT[:100_000])
    assert fetch("kitti").read_bytes() == CONTENT
    assert server.ranges == ["bytes=100000-"]
    assert names_in(cache) == [FILE]


def test_server_that_ignores_range(server: Behaviour, cache: Path) -> None:
    server.ignores_range = True
    cache.mkdir(parents=True)
    (cache / f"{FILE}.part").write_bytes(b"x" * 400_000)  # longer than the file: none of it may stay
    assert fetch("kitti").read_bytes() == CONTENT
    assert server.ranges == ["bytes=400000-"]


def test_server_that_sends_another_range(server: Behaviour, cache: Path) -> None:
    server.wrong_range = True
    cache.mkdir(parents=True)
    (cache / f"{FILE}.part").write_bytes(CONTENT[:1000])
    assert fetch("kitti").read_bytes() == CONTENT
    assert server.ranges == ["bytes=1000-", None]


def test_part_longer_than_the_file_is_dropped(server: Behaviour, cache: Path) -> None:
    cache.mkdir(parents=True)
    (cache / f"{FILE}.part").write_bytes(CONTENT + b"more")
    assert fetch("kitti").read_bytes() == CONTENT
    assert server.ranges == [f"bytes={len(CONTENT) + 4}-", None]


def test_complete_part_needs_no_server(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MTL_PERCEPTION_WEIGHTS_URL", f"http://127.0.0.1:{free_port()}")
    cache.mkdir(parents=True)
    (cache / f"{FILE}.part").write_bytes(CONTENT)
    assert fetch("kitti").read_bytes() == CONTENT


def test_cut_connection_is_resumed_at_once(server: Behaviour, cache: Path) -> None:
    server.cuts = [70_000, 50_000]
    assert fetch("kitti").read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=70000-", "bytes=120000-"]


def test_connection_cut_again_and_again_is_resumed_by_the_next_call(server: Behaviour, cache: Path) -> None:
    server.cuts = [1000, 1000, 1000]
    with pytest.raises(WeightsError, match=r"gave up after 3 attempts: .*3000 of 300000 bytes; 3000 bytes are kept, and fetch"):
        fetch("kitti")
    assert names_in(cache) == [f"{FILE}.part"]
    assert (cache / f"{FILE}.part").read_bytes() == CONTENT[:3000]
    assert fetch("kitti").read_bytes() == CONTENT
    assert server.ranges[-1] == "bytes=3000-"


def test_wrong_bytes_are_deleted_and_named(server: Behaviour, cache: Path) -> None:
    server.content = b"<html>Please log in</html>"
    with pytest.raises(WeightsError) as caught:
        fetch("kitti")
    assert f"expected git blob {blob(CONTENT)}, got {blob(server.content)} (26 bytes)" in str(caught.value)
    assert names_in(cache) == []


def test_file_that_the_server_lacks(server: Behaviour, cache: Path) -> None:
    server.status = 404
    with pytest.raises(WeightsError) as caught:
        fetch("kitti")
    text = str(caught.value)
    assert f"/mirror/{FILE}: the server answers 404 Not Found" in text
    assert f"may also be put by hand at {cache / FILE}" in text
    assert len(server.paths) == 1


def test_server_in_trouble_is_asked_again(server: Behaviour, cache: Path) -> None:
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
    server: Behaviour, cache: Path, monkeypatch: pytest.MonkeyPatch, sends_length: bool
) -> None:
    monkeypatch.setattr(fetching, "MAX_BYTES", 200_000)
    server.sends_length = sends_length
    with pytest.raises(WeightsError, match=r"more than 200000 bytes: not the weights file"):
        fetch("kitti")
    assert names_in(cache) == []


def test_answer_without_a_length(server: Behaviour, cache: Path) -> None:
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


def test_redirects_are_followed_but_not_to_unsafe_addresses(server: Behaviour, cache: Path) -> None:
    server.redirect = "http://mirror.example/file"
    with pytest.raises(WeightsError, match=r"http://mirror.example/file: only https addresses"):
        fetch("kitti")
    server.redirect = "/moved/file"
    cache.joinpath(f"{FILE}.part").write_bytes(CONTENT[:10])
    assert fetch("kitti").read_bytes() == CONTENT
    assert server.paths[-1] == "/moved/file"
    assert server.ranges[-1] == "bytes=10-"


def test_two_processes_do_not_write_the_same_part(server: Behaviour, cache: Path) -> None:
    with fetching._locked(cache), pytest.raises(WeightsError, match=r"another process is fetching weights now"):
        fetch("kitti")
    assert fetch("kitti").read_bytes() == CONTENT


def test_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("MTL_PERCEPTION_CACHE", str(tmp_path / "file"))
    with pytest.raises(WeightsError, match=rf"{tmp_path}/file/weights: cannot be written: "):
        fetch("kitti")


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


def test_encoders_are_torchvisions_files_known_by_the_digits_in_their_names() -> None:
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


@pytest.mark.parametrize("name", [ENCODER, "imagenet"])
def test_encoder_is_fetched_under_its_name_and_its_short_one(server: Behaviour, cache: Path, name: str) -> None:
    server.cuts = [70_000]
    lines: list[str] = []
    path = fetch(name, announce=lines.append)
    assert path == cache / ENCODER_FILE == resolve(name, encoder=True)
    assert path.read_bytes() == CONTENT
    assert names_in(cache) == [ENCODER_FILE]
    assert server.ranges == [None, "bytes=70000-"]
    assert server.paths[0] == f"/mirror/{ENCODER_FILE}"
    assert "licence: BSD-3-Clause (torchvision); trained on ImageNet" in lines[0]
    assert fetch(name, announce=lines.append) == path
    assert (len(server.paths), len(lines)) == (2, 2)


def test_encoder_of_other_bytes_is_neither_kept_nor_used(server: Behaviour, cache: Path) -> None:
    server.content = CONTENT[:-1] + b"?"
    digits = hashlib.sha256(server.content).hexdigest()[:8]
    with pytest.raises(WeightsError, match=rf"expected SHA-256 {CONTENT_SHA256[:8]}, got {digits} \(300000 bytes\)"):
        fetch(ENCODER)
    assert names_in(cache) == []
    (cache / ENCODER_FILE).write_bytes(server.content)
    with pytest.raises(WeightsError, match=rf"is damaged \(SHA-256 {digits}, not .* fetch mobilenetv2-imagenet`"):
        resolve("imagenet", encoder=True)


def test_sha256_is_the_standards(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")  # FIPS 180-2, appendix B.1
    assert sha256(tmp_path / "file") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    with pytest.raises(WeightsError, match="cannot be read"):
        sha256(tmp_path)


# Finding


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_file_comes_before_a_shipped_name(shipped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setenv("HOME", str(work))
    assert resolve("lane") == shipped / "lane.safetensors"
    Path("lane").mkdir()  # a folder of that name hides nothing
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
            "published weights 'nyud' are not fetched yet (no {cache}/ExpNYUD_joint.ckpt): run "
            "`mtl_perception weights fetch nyud`",
        ),
        ("nuyd", "no weights are called 'nuyd': did you mean 'nyud'? Known names: lane, kitti, nyud, nyud-kitti, nyud-normals"),
        ("resnet50", "no weights are called 'resnet50': Known names: lane, kitti"),
        ("", "no weights are called ''"),
        ("../lane", "no such weights file: ../lane"),
        ("lane.pth", "no such weights file: lane.pth"),
        ("/dev/null", "weights '/dev/null' are not a regular file"),
        ("{cache}", "weights '{cache}' are a directory: give a weights file, or one of lane, kitti"),
        ("x" * 5000, "no weights are called 'xxxx"),
        ("a\0b", "no weights are called 'a\\x00b'"),
    ],
)
def test_names_that_mean_no_file(shipped: Path, cache: Path, name: str, message: str) -> None:
    cache.mkdir(parents=True)
    with pytest.raises(WeightsError) as caught:
        resolve(name.replace("{cache}", str(cache)))
    assert message.replace("{cache}", str(cache)) in str(caught.value)


@pytest.mark.parametrize("name", [ENCODER, "imagenet"])
def test_encoder_is_no_network(shipped: Path, server: Behaviour, cache: Path, name: str) -> None:
    fetch(ENCODER)
    with pytest.raises(WeightsError) as caught:
        load_network(name)
    assert str(caught.value) == (
        f"'{name}' is an encoder to start a training from, not a network: it knows no labels and no depth; give a weights "
        "file, or one of lane, kitti, nyud, nyud-kitti, nyud-normals"
    )


def test_names_of_encoders_are_known_where_one_is_wanted(shipped: Path, cache: Path) -> None:
    with pytest.raises(WeightsError, match=r"'mobilenetv2-imagenet' are not fetched yet .* fetch mobilenetv2-imagenet`"):
        resolve("imagenet", encoder=True)
    with pytest.raises(WeightsError, match=r"did you mean 'mobilenetv2-imagenet'\? Known names: lane, kitti, .*-imagenet-v2;"):
        resolve("mobilenet2-imagenet", encoder=True)
    assert resolve("lane", encoder=True) == shipped / "lane.safetensors"


def test_fetch_prints_paths_on_stdout_and_licences_on_stderr(
    shipped: Path, server: Behaviour, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["weights", "fetch", "kitti", "lane"]) == 0
    output = capsys.readouterr()
    assert output.out.splitlines() == [str(cache / FILE), str(shipped / "lane.safetensors")]
    assert "kitti: licence: BSD 2-clause for academic use; commercial use by arrangement with the authors" in output.err
    assert "lane: comes with the package, nothing to fetch" in output.err


def test_fetch_of_an_unknown_name(shipped: Path, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["weights", "fetch", "kiti"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("mtl_perception weights: no weights are called 'kiti': did you mean 'kitti'?")
    assert error.count("\n") == 1
