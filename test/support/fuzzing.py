"""Settings of the fuzz tests: number of cases, limits of time and memory, and requirements on error messages.

`make test` runs about 2,000 cases that are the same in every run; FUZZ_CASES=100000 (`make fuzz`) runs that many random ones.
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
IS_DETERMINISTIC = not os.environ.get("FUZZ_CASES")
SECONDS = 20.0
"""Limit of CPU time of one case; the slowest takes a few hundredths of it."""
MEBIBYTES = 192
"""Limit by which one case may raise the peak of memory; tests with large images set a higher one."""
MAX_ERROR_LENGTH = 1000
"""Limit of the number of characters of an error message, which becomes a line of a log."""
REASONS = {"size", "encoding", "step", "data_length", "compressed", "unreadable", "message"}
"""Reasons by which rejected images are counted."""

tried: Counter[str] = Counter()
rejected: Counter[str] = Counter()

Result = TypeVar("Result")


def fuzz(kind: str, share: float, mebibytes: int = MEBIBYTES) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Configure a property test; the decorator goes below `given`.

    Args:
        kind: Kind of input, by which cases are counted.
        share: Share of this test in the number of all cases.
        mebibytes: Memory limit of one case.
    """

    def decorate(check: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(check)
        def counted(*args: Any, **values: Any) -> None:
            tried[kind] += 1
            with bounded(mebibytes):
                check(*args, **values)

        return settings(
            max_examples=max(round(CASES * share), 5),
            derandomize=IS_DETERMINISTIC,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )(counted)

    return decorate


def attempt(
    kind: str, call: Callable[[], Result], *words: str, errors: type[PerceptionError] = PerceptionError
) -> Result | None:
    """Return the result of `call`, or None if it rejects its input with a documented error.

    Args:
        kind: Kind of input, by which rejected inputs are counted.
        call: Function that reads the input.
        words: Texts that the error message must contain, such as the path.
        errors: Documented exception.
    """
    try:
        return call()
    except errors as error:
        rejection = error
    text = str(rejection)
    assert all(word in text for word in words), text
    assert len(text.split()) >= 3 and len(text) < MAX_ERROR_LENGTH, text[: 2 * MAX_ERROR_LENGTH]
    assert text.isprintable(), repr(text)
    assert getattr(rejection, "reason", "size") in REASONS, rejection
    rejected[kind] += 1
    return None


@contextlib.contextmanager
def bounded(mebibytes: int = MEBIBYTES) -> Iterator[None]:
    """Raise an error if the block exceeds the limit of CPU time or memory."""

    def on_signal(number: int, frame: object) -> None:
        raise TimeoutError(f"one case exceeded {SECONDS:.0f} s of CPU time")

    before = signal.signal(signal.SIGVTALRM, on_signal)
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
    start = _reset_peak()
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
    used = (_peak() - start) >> 20
    assert used <= mebibytes, f"one case used {used} MiB of memory; the limit is {mebibytes} MiB"


def _reset_peak() -> int:
    """Reset the peak of memory to the current use and return it in bytes."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_bytes(b"5")
    return _peak()


def _peak() -> int:
    status = Path("/proc/self/status").read_bytes()
    start = status.index(b"VmHWM:") + 6
    return int(status[start : status.index(b"kB", start)]) << 10


def counts() -> dict[str, dict[str, int]]:
    """Return the counts of this process, to be sent to another one."""
    return {"tried": dict(tried), "rejected": dict(rejected)}


def add(others: dict[str, dict[str, int]]) -> None:
    """Add the `counts` of another process."""
    tried.update(others["tried"])
    rejected.update(others["rejected"])


def summary() -> list[str]:
    """Return a table of the counts as lines."""
    if not tried:
        return []
    rows = [f"{kind:<34} {count:>8,} cases, {rejected[kind]:>8,} rejected" for kind, count in sorted(tried.items())]
    return [*rows, f"{'total':<34} {sum(tried.values()):>8,} cases, {sum(rejected.values()):>8,} rejected"]
