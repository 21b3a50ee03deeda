"""Several commands in one process, because importing PyTorch in a process each takes most of a test's time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

RUN_EACH = """
import json, os, sys, tempfile
from mtl_perception.__main__ import main

done = []
for arguments in json.loads(sys.argv[1]):
    with tempfile.TemporaryFile() as file:
        sys.stderr.flush()
        kept = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            code = main(arguments)
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
        file.seek(0)
        done.append((code, file.read().decode()))
print(json.dumps(done))
"""


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    returncode: int
    stderr: str


def run_commands(commands: Sequence[Sequence[str]], folder: Path, environment: Mapping[str, str]) -> list[Done]:
    """Run commands one after another in one new process.

    Args:
        commands: Arguments of each, after `python -m mtl_perception`.
        folder: Working folder.
        environment: Additional environment variables.
    """
    command = [sys.executable, "-c", RUN_EACH, json.dumps([list(arguments) for arguments in commands])]
    env = {**os.environ, **environment}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stderr
    return [Done(code, text) for code, text in json.loads(done.stdout.splitlines()[-1])]
