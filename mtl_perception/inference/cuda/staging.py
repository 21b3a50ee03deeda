"""Copies of images to page-locked memory by several threads: one thread takes longer than the bus to the device."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import cache

import numpy as np

THREADS = min(4, os.cpu_count() or 1)
"""Threads that copy, besides the calling one; 1: none."""
LEAST_BYTES = 1 << 18
"""Less than this is copied before other threads have woken up."""
BLOCK_BYTES = 1 << 17
"""Bytes of one copy: the C library writes longer ones past the caches, at half the speed."""

Copy = tuple[np.ndarray, np.ndarray]
"""Target and source, H x W x 3 uint8."""


def split(copy: Copy, parts: int) -> list[Copy]:
    """Split a copy into at most `parts` copies of about as many rows."""
    target, source = copy
    rows = -(-len(target) // parts)
    return [(target[row : row + rows], source[row : row + rows]) for row in range(0, len(target), rows)]


@contextmanager
def copied(copies: Sequence[Copy]) -> Iterator[Iterator[None]]:
    """Copy in the background; all copies have finished when the context ends.

    Returns:
        An iterator whose next step returns once the next copy has finished, in order.
    """
    first, *others = copies
    if THREADS < 2 or not others or sum(target.nbytes for target, _ in copies) < LEAST_BYTES:
        yield map(_copy, copies)
        return
    pending = [_threads().submit(_copy, other) for other in others]
    try:
        yield _finished(first, pending)
    finally:
        wait(pending)


def _finished(first: Copy, pending: Sequence[Future[None]]) -> Iterator[None]:
    _copy(first)
    yield
    for future in pending:
        yield future.result()


def _copy(copy: Copy) -> None:
    target, source = copy
    rows = max(BLOCK_BYTES // target[:1].nbytes, 1)
    for row in range(0, len(target), rows):
        np.copyto(target[row : row + rows], source[row : row + rows])


@cache
def _threads() -> ThreadPoolExecutor:
    """One set of threads for all pipelines of the process."""
    return ThreadPoolExecutor(THREADS, thread_name_prefix="staging")
