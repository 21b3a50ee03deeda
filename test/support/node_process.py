"""The command line and the node as processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support.fork_server import Fork, fork_command

PATIENCE = 100.0
"""Timeout of a wait in seconds; machines may be slow and busy, and a wait that succeeds costs nothing."""


class Process:
    """A process `python -m mtl_perception ARGUMENTS` with its output in a file.

    Args:
        arguments: Arguments of the command.
        log: File of the output.
        environment: Additional environment variables; those of None are removed.
        folder: Working folder.
        forked: Whether to save the time of its imports (see `fork_command`).
    """

    def __init__(
        self,
        arguments: list[str],
        log: Path,
        environment: Mapping[str, str | None] | None = None,
        folder: Path = Path(),
        forked: bool = True,
    ) -> None:
        self.log = log
        variables = {name: value for name, value in {**os.environ, **(environment or {})}.items() if value is not None}
        self.child: subprocess.Popen[bytes] | Fork
        with log.open("wb") as file:
            if forked:
                self.child = fork_command(arguments, variables, folder.absolute(), log.absolute())
                return
            self.child = subprocess.Popen(
                [sys.executable, "-m", "mtl_perception", *arguments],
                stdout=file,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=variables,
                cwd=folder,
            )

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def wait(self, seconds: float = PATIENCE) -> int:
        return self.child.wait(seconds)

    def stop(self, number: signal.Signals = signal.SIGINT, seconds: float = PATIENCE) -> int:
        if self.child.poll() is None:
            self.child.send_signal(number)
        try:
            return self.child.wait(seconds)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()
            raise

    def wait_for_output(self, text: str, seconds: float = PATIENCE) -> None:
        deadline = time.monotonic() + seconds
        while text not in self.output:
            assert self.child.poll() is None, f"ended with {self.child.returncode}:\n{self.output}"
            assert time.monotonic() < deadline, f"no {text!r} in\n{self.output}"
            time.sleep(0.02)

    def resident_bytes(self) -> int:
        for line in Path(f"/proc/{self.child.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise AssertionError("no VmRSS")


@contextmanager
def node_process(log: Path, *ros_arguments: str, ready: str = "waiting for images", **options: Any) -> Iterator[Process]:
    """Run the node, and end it after the block."""
    process = Process(["node", "--ros-args", *ros_arguments], log, **options)
    try:
        if ready:
            process.wait_for_output(ready)
        yield process
    finally:
        process.stop()
