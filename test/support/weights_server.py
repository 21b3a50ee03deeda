"""Fixtures: a local HTTP server of weights with configurable faults, a cache folder and a folder of shipped weights."""

from __future__ import annotations

import hashlib
import random
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from mtl_perception.weights import download as fetching
from mtl_perception.weights import registry as store
from mtl_perception.weights.registry import PUBLISHED, Checksum

CONTENT = random.Random(0).randbytes(300_000)
CONTENT_SHA256 = hashlib.sha256(CONTENT).hexdigest()
FILE = "ExpKITTI_joint.ckpt"
ENCODER = "mobilenetv2-imagenet"
ENCODER_FILE = "mobilenet_v2-b0353104.pth"


@dataclass
class Behavior:
    """Behavior of the server, and the requests that it received."""

    content: bytes = CONTENT
    status: int = 200
    ignores_range: bool = False
    wrong_range: bool = False
    sends_length: bool = True
    redirect: str = ""
    cuts: list[int] = field(default_factory=list)  # bytes sent before the connection is closed, one entry per request
    ranges: list[str | None] = field(default_factory=list)  # Range header of each request
    paths: list[str] = field(default_factory=list)


class Handler(BaseHTTPRequestHandler):
    behavior: Behavior

    def do_GET(self) -> None:
        behavior = self.behavior
        requested = self.headers.get("Range")
        behavior.ranges.append(requested)
        behavior.paths.append(self.path)
        if behavior.redirect and not self.path.startswith("/moved"):
            self.send_response(302)
            self.send_header("Location", behavior.redirect)
            self.end_headers()
            return
        if behavior.status != 200:
            self.send_error(behavior.status)
            return
        body, start = behavior.content, 0
        if requested and not behavior.ignores_range:
            start = int(requested.removeprefix("bytes=").removesuffix("-"))
            if start >= len(body):
                self.send_error(416)
                return
            start = start - 1 if behavior.wrong_range else start
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        else:
            self.send_response(200)
        body = body[start:]
        if behavior.sends_length:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if behavior.cuts:
            body = body[: behavior.cuts.pop(0)]
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""


def weights_fixtures() -> tuple[Any, Any, Any]:
    """Return the fixtures `server`, `cache` and `shipped`, to be assigned to these names."""

    @pytest.fixture
    def server(monkeypatch: pytest.MonkeyPatch, cache: Path) -> Iterator[Behavior]:
        behavior = Behavior()
        http = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"behavior": behavior}))
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setenv("MTL_PERCEPTION_WEIGHTS_URL", f"http://127.0.0.1:{http.server_port}/mirror/")
        yield behavior
        http.shutdown()
        http.server_close()
        thread.join()

    @pytest.fixture
    def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """Path of the weights cache; CONTENT is the expected file of `kitti` and of the encoder, and retries do not wait."""
        monkeypatch.setenv("MTL_PERCEPTION_CACHE", str(tmp_path / "cache"))
        checksums = {"kitti": Checksum("git blob", blob(CONTENT)), ENCODER: Checksum("SHA-256", CONTENT_SHA256[:8])}
        for name, checksum in checksums.items():
            monkeypatch.setitem(PUBLISHED, name, replace(PUBLISHED[name], checksum=checksum))
        monkeypatch.setattr(fetching, "RETRY_WAITS_S", (0.0, 0.0))
        # Nothing listens at this proxy: requests to this machine must bypass it.
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
        return tmp_path / "cache" / "weights"

    @pytest.fixture
    def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """Folder of shipped weights with one file, `lane`."""
        folder = tmp_path / "models"
        folder.mkdir()
        (folder / "lane.safetensors").touch()
        monkeypatch.setattr(store, "SHIPPED_DIR", folder)
        return folder

    return server, cache, shipped


def blob(data: bytes) -> str:
    """Return the git blob ID of data."""
    return hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()


def free_port() -> int:
    """Return a TCP port on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def names_in(folder: Path) -> list[str]:
    """Return the names of the files in the cache, without the lock file."""
    return sorted(path.name for path in folder.iterdir() if path.name != ".lock")
