"""Child processes that end with their parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mtl_perception.child_process import end_with_parent

SCRIPT = """
import multiprocessing, os, signal, sys
from test_child_process import work

ready, end = multiprocessing.Pipe()
process = multiprocessing.get_context(sys.argv[1]).Process(target=work, args=(end,))
process.start()
print(ready.recv(), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def work(connection) -> None:
    """Report that this process works, and go on."""
    end_with_parent()
    connection.send("working")
    time.sleep(200)


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_child_ends_with_a_parent_that_is_killed(method):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    # Returns when every process has ended that holds the pipes: the parent, the child, and those of multiprocessing.
    parent = subprocess.run(
        [sys.executable, "-c", SCRIPT, method], env=environment, capture_output=True, text=True, timeout=100, check=False
    )
    assert (parent.returncode, parent.stdout) == (-signal.SIGKILL, "working\n"), parent.stderr
