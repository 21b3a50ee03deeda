"""Number of threads, and threads of PyTorch."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def single_thread() -> Iterator[None]:
    """Let PyTorch compute in the calling thread only.

    Otherwise, each operator waits for its other threads: on cores that are busy with other processes, for milliseconds.
    """
    # Imported here because `available_cores` is also for processes that compute nothing, and the import takes seconds.
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def available_cores() -> int:
    """Return the number of cores that this process may use: those of its affinity, and no more than its CPU quota.

    A quota, as of `docker run --cpus 2`, stops all threads of the process for the rest of a period of 0.1 s when they have used
    it up. More threads than the quota then wait for each other.
    """
    return max(1, math.floor(min(len(os.sched_getaffinity(0)), cpu_quota())))


def cpu_quota(root: Path = Path("/")) -> float:
    """Return the CPU time per second that the control groups of this process allow; Inf without a limit.

    Args:
        root: Root of the file system with `proc` and `sys`.
    """
    try:
        groups = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return math.inf
    quota = math.inf
    for group in groups:
        # cgroups(7): hierarchy, controllers (none in version 2), path.
        _, controllers, path = group.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        base = root / "sys/fs/cgroup" / ("cpu" if controllers else "")
        folder = base / path.lstrip("/")
        # A container that sees the path of its host has its own group at the base.
        while True:
            quota = min(quota, _quota_of(folder))
            if folder == base:
                break
            folder = folder.parent
    return quota


def _quota_of(folder: Path) -> float:
    """Return the quota of one control group: microseconds per period, in one file or in two."""
    for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        try:
            used, period = (word for name in names for word in (folder / name).read_text(encoding="utf-8").split())
            if int(used) > 0:
                return int(used) / int(period)
        except (OSError, ValueError):
            # No such file, or "max" for no limit; -1 in version 1.
            continue
    return math.inf
