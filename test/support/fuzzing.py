"""How bad input is tried at scale: how many cases, within what bounds, and what a refusal must say.

`make test` tries some 2,000 cases, the same each time; FUZZ_CASES=100000 (`make fuzz`) tries that many, other ones each time.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings

from mtl_perception.errors import PerceptionError

CASES = int(os.environ.get("FUZZ_CASES") or 2000)
IS_SAME_EACH_TIME = not os.environ.get("FUZZ_CASES")
SECONDS = 20.0
"""Of the processor, for one case: none takes more than a few hundredths of it."""
MEBIBYTES = 192
"""That one case may fill beyond what was filled before; the largest pictures that are taken need more, and say so."""
LONGEST = 1000
"""Characters of a refusal: it becomes a line of a log."""
REASONS = {"size", "encoding", "step", "data_length", "compressed", "unreadable", "message"}
"""By which refused pictures are counted."""

tried: Counter[str] = Counter()
refused: Counter[str] = Counter()

Result = TypeVar("Result")


def fuzz(kind: str, share: float, mebibytes: int = MEBIBYTES) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A property of bad input of one kind, tried on its share of all cases; goes below `given`."""

    def decorate(check: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(check)
        def counted(*args: Any, **values: Any) -> None:
            tried[kind] += 1
            with bounded(mebibytes):
                check(*args, **values)

        return settings(
            max_examples=max(round(CASES * share), 5),
            derandomize=IS_SAME_EACH_TIME,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )(counted)

    return decorate


def attempt(
    kind: str, call: Callable[[], Result], *words: str, errors: type[PerceptionError] = PerceptionError
) -> Result | None:
    """What `call` gives, or None if it refuses its input as it should: with an error of ours that says what and where.

    Args:
        kind: The kind of input, to count by.
        call: Takes the input.
        words: Each must be in the refusal: the place.
        errors: The error that is documented.
    """
    try:
        return call()
    except errors as error:
        refusal = error
    text = str(refusal)
    assert all(word in text for word in words), text
    assert len(text.split()) >= 3 and len(text) < LONGEST, text[: 2 * LONGEST]
    assert text.isprintable(), repr(text)
    assert getattr(refusal, "reason", "size") in REASONS, refusal
    refused[kind] += 1
    return None


@contextlib.contextmanager
def bounded(mebibytes: int = MEBIBYTES) -> Iterator[None]:
    """Fails when the block takes more time of the processor, or more memory, than it may."""

    def on_signal(number: int, frame: object) -> None:
        raise TimeoutError(f"still at it after {SECONDS:.0f} s of the processor")

    before = signal.signal(signal.SIGVTALRM, on_signal)
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
    start = _forget_peak()
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
    grown = (_peak() - start) >> 20
    assert grown <= mebibytes, f"one case filled {grown} MiB"


def _forget_peak() -> int:
    """Bytes of memory in use; they are the peak from here on."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_bytes(b"5")
    return _peak()


def _peak() -> int:
    status = Path("/proc/self/status").read_bytes()
    place = status.index(b"VmHWM:") + 6
    return int(status[place : status.index(b"kB", place)]) << 10


def counts() -> dict[str, dict[str, int]]:
    """What this process tried, for another."""
    return {"tried": dict(tried), "refused": dict(refused)}


def add(others: dict[str, dict[str, int]]) -> None:
    """What another process tried (`counts`)."""
    tried.update(others["tried"])
    refused.update(others["refused"])


def summary() -> list[str]:
    """What was tried, for people."""
    if not tried:
        return []
    rows = [f"{kind:<34} {count:>8,} cases, {refused[kind]:>8,} refused" for kind, count in sorted(tried.items())]
    return [*rows, f"{'in all':<34} {sum(tried.values()):>8,} cases, {sum(refused.values()):>8,} refused"]
