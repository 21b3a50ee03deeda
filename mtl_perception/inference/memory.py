"""Memory that the C library keeps after it was freed: that of networks for sizes that came and went, in a process of days.

glibc has a heap for each few threads, and a heap shrinks from its end only. So what was freed in between stays resident, a
little more with each thread that compiled a network: 15 MiB an hour in a node whose camera changed its size every 40 s.
Other C libraries have no such settings; there the functions do nothing.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from functools import cache

MIB = 2**20
SETTINGS = {
    # One heap: the threads beside the one that runs the network allocate little, and only the first heap gives back its end.
    "ARENA_MAX": (-8, 1),
    # What is larger comes from the system and goes back to it whole. Fixed, where glibc would raise it to 32 MiB once such a
    # block is freed; not lower, as the bytes of a cloud would then be given back after each frame, and asked for again.
    "MMAP_THRESHOLD_": (-3, 16 * MIB),
    # Fixed with it: what the heap may keep free at its end, of which the next frame is made.
    "TRIM_THRESHOLD_": (-1, 64 * MIB),
}
"""Of glibc's mallopt, by the names of its environment variables less MALLOC_: parameter, value."""


def configure_malloc() -> None:
    """One heap, and the largest blocks outside it; for a process's start, before there are threads.

    What the user has set by glibc's environment variables stays as it is.
    """
    setting = _function("mallopt")
    if setting is None or "glibc.malloc." in os.environ.get("GLIBC_TUNABLES", ""):
        return
    for name, (parameter, value) in SETTINGS.items():
        if f"MALLOC_{name}" not in os.environ:
            setting(parameter, value)


def trim_heap() -> None:
    """Hand free memory back to the system, also from between what is in use; milliseconds, so for after much was freed."""
    trim = _function("malloc_trim")
    if trim is not None:
        trim(0)


@cache
def _function(name: str) -> Callable[..., int] | None:
    try:
        found: Callable[..., int] = getattr(ctypes.CDLL(None), name)
    except (OSError, TypeError, AttributeError):
        # musl and macOS lack them, Windows a library without a name.
        return None
    return found
