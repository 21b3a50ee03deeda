"""The Rerun viewer as a child process that listens on 127.0.0.1 only and sends no usage data."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType

from mtl_perception.errors import ConfigError, PerceptionError, one_line
from mtl_perception.view.page import PageServer

HOST = "127.0.0.1"
START_TIMEOUT = 60.0
"""Seconds until the viewer must accept connections."""
MEMORY_LIMIT = "4GB"
"""What the server of the page keeps for browsers that connect later; a page itself has at most 4 GiB."""


class Viewer:
    """Context manager that runs the viewer: as a window, or as a page for a browser.

    Args:
        files: Recordings to show.
        web_port: Port of the page; the data are at the next one. None opens a window.

    Attributes:
        port: Port that logs connect to.
        url: Address of the page; "" for a window.

    Raises:
        ConfigError: There is no display for a window, or a port is in use.
    """

    def __init__(self, files: Sequence[Path] = (), web_port: int | None = None) -> None:
        if web_port is None and not has_display():
            raise ConfigError("view needs a display for its window, and there is none; show a page with --web")
        for port in () if web_port is None else (web_port, web_port + 1):
            if not _is_free(port):
                raise ConfigError(f"port {port} of this machine is in use; give another --port")
        self.port = _free_port() if web_port is None else web_port + 1
        self.url = "" if web_port is None else f"http://{HOST}:{web_port}"
        self._files, self._web_port = files, web_port
        self._cleanup = contextlib.ExitStack()

    def __enter__(self) -> Viewer:
        with contextlib.ExitStack() as cleanup:
            folder = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="mtl_perception_view_")))
            arguments = ["--bind", HOST, "--port", str(self.port), "--hide-welcome-screen"]
            if self._web_port is not None:
                inner = _free_port()
                arguments += ["--serve-web", "--web-viewer-port", str(inner), "--server-memory-limit", MEMORY_LIMIT]
                cleanup.enter_context(PageServer(HOST, self._web_port, inner, self.port))
            elif not self._files:
                arguments.append("--expect-data-soon")
            self._log = folder / "log"
            with self._log.open("wb") as log:
                # In its own session: Ctrl-C reaches only this process, which stops the viewer.
                self._process = subprocess.Popen(
                    [find_executable(), *arguments, *(str(file.absolute()) for file in self._files)],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=viewer_environment(folder),
                    start_new_session=True,
                )
            cleanup.callback(self._stop)
            self._wait_for_start()
            self._cleanup = cleanup.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._cleanup.close()

    def is_closed(self) -> bool:
        """Return whether the window was closed, or the viewer ended for another reason."""
        return self._process.poll() is not None

    def wait(self) -> None:
        """Wait until the window is closed."""
        self._process.wait()

    def _wait_for_start(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        while _is_free(self.port):
            if self.is_closed() or time.monotonic() > deadline:
                lines = self._log.read_text(errors="replace").strip().splitlines() or ["no output"]
                raise PerceptionError(f"the Rerun viewer did not start: {one_line(lines[-1], 400)}")
            time.sleep(0.1)

    def _stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def has_display() -> bool:
    """Return whether windows can be opened."""
    return sys.platform != "linux" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def find_executable() -> str:
    """Return the path of the viewer in the package rerun-sdk."""
    spec = find_spec("rerun_cli")
    if spec is None or spec.origin is None:
        raise PerceptionError("the Rerun viewer is missing: the package rerun-sdk contains no rerun_cli; install it again")
    return str(Path(spec.origin).with_name("rerun"))


def viewer_environment(folder: Path) -> dict[str, str]:
    """Return environment variables with a configuration of the viewer's own, in which usage data are off."""
    config = folder / "rerun/analytics.json"
    config.parent.mkdir()
    values = {
        "analytics_enabled": False,
        "analytics_id": "",
        "metadata": {},
        "config_file_path": str(config),
        "data_dir_path": str(folder / "data"),
    }
    config.write_text(json.dumps(values))
    variables = {**os.environ, "XDG_CONFIG_HOME": str(folder)}
    variables.pop("FORCE_RERUN_ANALYTICS", None)
    # Set by require_rerun for this process.
    variables["RUST_LOG"] = "warn"
    return variables


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) != 0
