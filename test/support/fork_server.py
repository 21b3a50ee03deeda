"""Commands in forks of one process that has imported their modules: importing PyTorch takes most of their time."""

from __future__ import annotations

import atexit
import ctypes
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path

MODULES = [f"mtl_perception.{name}" for name in ("__main__", "ros.main", "ros.node", "ros.play", "ros.record")]
"""Modules whose import starts no thread of Python; rclpy's two threads of LTTng are only for tracing."""
PR_SET_CHILD_SUBREAPER = 36
"""prctl(2): orphaned descendants become children of this process."""

SERVER = f"""
import ctypes, gc, importlib, json, os, signal, sys

for module in {MODULES}:
    importlib.import_module(module)
from mtl_perception.__main__ import main

gc.freeze()  # as recommended before a fork
libc = ctypes.CDLL(None)
for line in sys.stdin:
    arguments, variables, folder, log = json.loads(line)
    if between := os.fork():
        os.waitpid(between, 0)
        os.write(1, b"\\n")
        continue
    # The process between ends before the line does, and the tests' process becomes the parent of the command.
    if command := os.fork():
        os.write(1, b"%d" % command)
        os._exit(0)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(variables)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(os.open(log, os.O_WRONLY | os.O_APPEND), 1)
    os.dup2(1, 2)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # which is ignored where the tests run under nohup
    # Exit after the interpreter is finalized: LTTng's destructor would cancel its threads, which a fork does not have.
    libc.on_exit(ctypes.cast(libc._exit, ctypes.c_void_p), None)
    sys.argv[:] = ["mtl_perception", *arguments]
    sys.exit(main(arguments))
"""


class Fork:
    """A running command, with the methods of subprocess.Popen that tests use."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def wait(self, timeout: float = math.inf) -> int:
        deadline = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("mtl_perception", timeout)
            time.sleep(0.01)
        return code

    def send_signal(self, number: signal.Signals) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def fork_command(arguments: list[str], environment: Mapping[str, str], folder: Path, log: Path) -> Fork:
    """Start `python -m mtl_perception ARGUMENTS` with its output appended to an existing file.

    Signals, exit code and output are those of the command, also while the interpreter is finalized. Environment variables that
    are read on import, such as PYTHONPATH, have no effect.
    """
    server = _server()
    assert server.stdin is not None and server.stdout is not None
    print(json.dumps([arguments, dict(environment), str(folder), str(log)]), file=server.stdin, flush=True)
    return Fork(int(server.stdout.readline()))


@cache
def _server() -> subprocess.Popen[str]:
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
    # Python 3.12 and later warn of forks with threads.
    command = [sys.executable, "-W", "ignore:This process:DeprecationWarning", "-c", SERVER]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    atexit.register(server.communicate)  # which closes its input, so that it ends
    return server
