"""Child processes of the demo: started, watched, ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from mtl_perception.errors import PerceptionError

STOP_SECONDS = 15.0


class Child:
    """A command of this package in a process of its own; its output goes to a log file.

    Args:
        name: For messages and the log's name.
        arguments: What stands behind `python -m mtl_perception`.
        log_dir: Folder of the log.
        env: Variables to set.
        quiet: False shows the child's stderr (a progress bar) instead of logging it.
    """

    def __init__(self, name: str, arguments: list[str], log_dir: Path, env: dict[str, str], quiet: bool = True) -> None:
        self.name = name
        self.log = log_dir / f"{name}.log"
        self.log.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "mtl_perception", *arguments]
        with self.log.open("wb") as log:
            # A session of its own: Ctrl-C reaches the demo alone, which then ends its children in order.
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log if quiet else None,
                env={**os.environ, **env},
                start_new_session=True,
            )

    def check(self) -> bool:
        """Whether it has ended, well.

        Raises:
            PerceptionError: It has ended badly; the log's last line says why.
        """
        code = self._process.poll()
        if code:
            lines = self.log.read_text(errors="replace").strip().splitlines() or ["no word"]
            raise PerceptionError(f"the {self.name} process ended with code {code}: {lines[-1]} (log: {self.log})")
        return code == 0

    def stop(self) -> None:
        """Ask it to end, as Ctrl-C does; kill it if it does not."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()


def wait_for(child: Child, others: list[Child], seconds: float) -> None:
    """Until `child` has ended, while the others live.

    Raises:
        PerceptionError: One of them ended badly, or the time is over.
    """
    deadline = time.monotonic() + seconds
    while not child.check():
        for other in others:
            if other.check():
                raise PerceptionError(f"the {other.name} process ended too soon (log: {other.log})")
        if time.monotonic() > deadline:
            raise PerceptionError(f"the {child.name} process did not end within {seconds:.0f} s (log: {child.log})")
        time.sleep(0.1)
