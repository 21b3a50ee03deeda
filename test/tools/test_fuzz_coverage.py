"""Coverage-guided fuzzing: the targets and their seeds, without atheris."""

from __future__ import annotations

import contextlib

import pytest

from mtl_perception.errors import PerceptionError
from tools.fuzz_coverage import TARGETS


@pytest.mark.parametrize("name", TARGETS)
def test_target_accepts_or_rejects_seeds_and_garbage(name):
    check, seeds = TARGETS[name]()
    seeds = list(seeds)
    assert seeds
    for data in (*seeds, b"garbage" * 100):
        with contextlib.suppress(PerceptionError):
            check(data)
