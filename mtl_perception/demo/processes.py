"""Child processes of the demo."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from mtl_perception.errors import PerceptionError

STOP_TIMEOUT = 15.0
"""Seconds to wait after SIGINT before a process is killed."""


class Child:
    """A command of this package in its own process, with its output in a log file.

    Args:
        name: Name of the process in messages and of its log file.
        arguments: Arguments after `python -m mtl_perception`.
        log_dir: Folder of the log.
        env: Environment variables to set in addition to the current ones.
        quiet: Whether stderr goes to the log as well; False shows it, for a progress bar.
    """

    def __init__(self, name: str, arguments: list[str], log_dir: Path, env: dict[str, str], quiet: bool = True) -> None:
        self.name = name
        self.log = log_dir / f"{name}.log"
        self.log.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "mtl_perception", *arguments]
        with self.log.open("wb") as log:
            # In its own session: Ctrl-C reaches only the parent, which stops its children in order.
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log if quiet else None,
                env={**os.environ, **env},
                start_new_session=True,
            )

    def has_finished(self) -> bool:
        """Return whether the process has exited with code 0.

        Raises:
            PerceptionError: It has exited with another code; the message ends with the last line of the log.
        """
        code = self._process.poll()
        if code:
            lines = self.log.read_text(errors="replace").strip().splitlines() or ["no output"]
            raise PerceptionError(f"the {self.name} process exited with code {code}: {lines[-1]} (log: {self.log})")
        return code == 0

    def stop(self) -> None:
        """Send SIGINT, and SIGKILL if the process does not exit."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()


def wait_for(child: Child, others: list[Child], seconds: float) -> None:
    """Wait until a process has finished while others keep running.

    Args:
        child: The process to wait for.
        others: Processes that must not exit before it.
        seconds: Timeout.

    Raises:
        PerceptionError: A process failed, one of the others exited, or the timeout expired.
    """
    deadline = time.monotonic() + seconds
    while not child.has_finished():
        for other in others:
            if other.has_finished():
                raise PerceptionError(f"the {other.name} process exited early (log: {other.log})")
        if time.monotonic() > deadline:
            raise PerceptionError(f"the {child.name} process did not finish within {seconds:.0f} s (log: {child.log})")
        time.sleep(0.1)
