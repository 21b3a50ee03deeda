"""Child processes that end with the process that started them."""

from __future__ import annotations

import ctypes
import os
import signal
import sys


def end_with_parent(parent: int) -> None:
    """Let the kernel kill this process as soon as its parent ends, even if that is killed.

    Args:
        parent: Process id of the parent, as it stated it: this process exits if the parent has ended already.
    """
    # 1 is PR_SET_PDEATHSIG, prctl(2).
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(1)
