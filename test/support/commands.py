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
import importlib, json, os, sys, tempfile
from mtl_perception.__main__ import main

commands, modules = json.loads(sys.argv[1])
for module in modules:
    importlib.import_module(module)
done = []
for arguments, variables in commands:
    with tempfile.TemporaryFile() as file:
        sys.stderr.flush()
        child = os.fork() if modules else 0
        if child:
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        else:
            kept = os.dup(2)
            os.dup2(file.fileno(), 2)
            os.environ.update(variables)
            try:
                code = main(arguments)
            finally:
                sys.stderr.flush()
                os.dup2(kept, 2)
            if modules:
                os._exit(code)
        file.seek(0)
        done.append((code, file.read().decode()))
print(json.dumps(done))
"""


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    returncode: int
    stderr: str


def run_commands(commands: Sequence[Sequence[str]], folder: Path, environment: Mapping[str, str | None]) -> list[Done]:
    """Run commands one after another in one new process.

    Args:
        commands: Arguments of each, after `python -m mtl_perception`.
        folder: Working folder.
        environment: Additional environment variables; those of None are removed.
    """
    return _run([(arguments, {}) for arguments in commands], folder, environment, ())


def run_forked(
    commands: Sequence[tuple[Sequence[str], Mapping[str, str]]],
    folder: Path,
    modules: Sequence[str],
    environment: Mapping[str, str | None] | None = None,
) -> list[Done]:
    """Run each command in a fork of one new process, so that nothing that a command leaves there changes the next one.

    Args:
        commands: Arguments of each, after `python -m mtl_perception`, and its own environment variables.
        folder: Working folder.
        modules: What the process imports before it forks.
        environment: Environment variables of all commands; those of None are removed.
    """
    return _run(commands, folder, environment or {}, modules)


def _run(
    commands: Sequence[tuple[Sequence[str], Mapping[str, str]]],
    folder: Path,
    environment: Mapping[str, str | None],
    modules: Sequence[str],
) -> list[Done]:
    given = [[list(arguments), dict(variables)] for arguments, variables in commands]
    command = [sys.executable, "-c", RUN_EACH, json.dumps([given, list(modules)])]
    env = {name: value for name, value in {**os.environ, **environment}.items() if value is not None}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stderr
    return [Done(code, text) for code, text in json.loads(done.stdout.splitlines()[-1])]
