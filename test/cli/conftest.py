"""Fixtures of the tests of commands."""

from __future__ import annotations

import pytest

from mtl_perception.__main__ import main


@pytest.fixture
def infer(weights_file, capsys):
    """Run the command in this process and return its exit code and the lines of stderr."""

    def run(*arguments: object) -> tuple[int, list[str]]:
        # PyTorch, because OpenVINO would compile the network for each run.
        code = main(["infer", *map(str, arguments), "--weights", str(weights_file), "--device", "cpu", "--backend", "torch"])
        return code, capsys.readouterr().err.splitlines()

    return run
