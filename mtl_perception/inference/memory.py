"""Settings of glibc's heap that keep the memory of a long-running process flat.

glibc creates one heap for every few threads and shrinks a heap at its end only. Memory freed in between stays resident: a node
whose camera changed its size every 40 s grew by 15 MiB an hour. Other C libraries lack these settings; there the functions do
nothing.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from functools import cache

MIB = 2**20
SETTINGS = {
    # One heap: threads other than the one that runs the network allocate little, and only the first heap shrinks at its end.
    "ARENA_MAX": (-8, 1),
    # Larger blocks are mapped, and unmapped when freed. Fixed, because glibc would raise it to 32 MiB after the first such
    # block; not lower, because the bytes of a cloud would then be unmapped and mapped again with each frame.
    "MMAP_THRESHOLD_": (-3, 16 * MIB),
    # Fixed as well: free memory that the heap may keep at its end, for the next frame.
    "TRIM_THRESHOLD_": (-1, 64 * MIB),
}
"""Parameter and value for glibc's mallopt, by the name of the environment variable without MALLOC_."""


def configure_malloc() -> None:
    """Use one heap, and map the largest blocks outside it; call it at process start, before there are threads.

    Settings that the user made by glibc's environment variables are kept.
    """
    setting = _function("mallopt")
    if setting is None or "glibc.malloc." in os.environ.get("GLIBC_TUNABLES", ""):
        return
    for name, (parameter, value) in SETTINGS.items():
        if f"MALLOC_{name}" not in os.environ:
            setting(parameter, value)


def trim_heap() -> None:
    """Return all free memory to the system; it takes milliseconds, so call it only after freeing much."""
    trim = _function("malloc_trim")
    if trim is not None:
        trim(0)


@cache
def _function(name: str) -> Callable[..., int] | None:
    try:
        found: Callable[..., int] = getattr(ctypes.CDLL(None), name)
    except (OSError, TypeError, AttributeError):
        # musl and macOS lack these functions; Windows cannot load a library without a name.
        return None
    return found
