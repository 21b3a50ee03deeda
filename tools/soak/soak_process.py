"""What tools/soak/soak.py samples of the node's process, from /proc, and of the latencies that the checker writes down."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

STEADY_SUBSCRIBER = "1"
SHARED_MEMORY = "/dev/shm/fast"
"""How the files of Fast DDS begin, fastrtps_ or fastdds_; there are also those of a tracer, which all processes share."""

PORT = "_port"


@dataclass(frozen=True)
class Sample:
    """The node at one time.

    Attributes:
        seconds: Since the start of sampling.
        rss_mib: Resident memory, shared memory included, MiB.
        anonymous_mib: Memory of its own: the heap, MiB.
        fds: Open file descriptors.
        threads: Threads.
        shm_segments: Files of shared memory of Fast DDS that it has mapped.
        shm_mib: Their sizes on the disk, MiB.
        cpu_seconds: Computing time since its start.
        outputs: What the steady subscriber got since the last sample.
        latency_median_ms: Of these, from sending of the picture to arrival of the output; empty if none came.
        latency_p99_ms: Likewise.
    """

    seconds: float
    rss_mib: float
    anonymous_mib: float
    fds: int
    threads: int
    shm_segments: int
    shm_mib: float
    cpu_seconds: float
    outputs: int
    latency_median_ms: float | None
    latency_p99_ms: float | None


def sample(pid: int, seconds: float, latencies_us: list[int]) -> Sample:
    """Look at a process.

    Raises:
        OSError: It is gone.
    """
    process = Path("/proc") / str(pid)
    memory = dict(line.split(":", 1) for line in (process / "smaps_rollup").read_text().splitlines()[1:])
    status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
    times = (process / "stat").read_text().rpartition(")")[2].split()
    found = segments(pid)
    ordered = sorted(latencies_us)
    return Sample(
        seconds=round(seconds, 1),
        rss_mib=round(_kib(memory["Rss"]) / 1024, 2),
        anonymous_mib=round(_kib(memory["Anonymous"]) / 1024, 2),
        fds=len(list((process / "fd").iterdir())),
        threads=int(status["Threads"]),
        shm_segments=len(found),
        shm_mib=round(sum(map(_bytes_used, found)) / 2**20, 2),
        cpu_seconds=(int(times[11]) + int(times[12])) / os.sysconf("SC_CLK_TCK"),
        outputs=len(ordered),
        latency_median_ms=ordered[len(ordered) // 2] / 1000 if ordered else None,
        latency_p99_ms=ordered[min(int(0.99 * len(ordered)), len(ordered) - 1)] / 1000 if ordered else None,
    )


def segments(pid: int) -> set[str]:
    """Files of shared memory of Fast DDS that a process has mapped, also such as have no name any more; empty if it is gone."""
    with contextlib.suppress(OSError):
        lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
        return {line[line.index(SHARED_MEMORY) :] for line in lines if SHARED_MEMORY in line}
    return set()


def remove_unused(paths: set[str]) -> list[str]:
    """Remove those of these files of shared memory that no process has mapped: what killed processes left.

    Returns:
        Segments that are still there, as a process uses them. Ports are not among them, for all domains share those.
    """
    used = set().union(*(segments(int(entry.name)) for entry in Path("/proc").iterdir() if entry.name.isdigit()))
    found = {path for path in paths if os.path.exists(path)}
    for path in sorted(found - used):
        folder, name = os.path.split(path)
        # The file, the lock beside it, and a port's mutex.
        for each in (path, f"{path}_el", f"{folder}/sem.{name}_mutex"):
            Path(each).unlink(missing_ok=True)
    return sorted(path for path in found & used if PORT not in path)


class Follower:
    """Reads what is added to the checker's table of outputs."""

    def __init__(self, path: Path) -> None:
        self._path, self._at = path, 0

    def latencies(self) -> list[int]:
        """Of the steady subscriber's outputs since the last call, in microseconds."""
        with self._path.open("rb") as file:
            file.seek(self._at)
            new = file.read()
        whole = new[: new.rfind(b"\n") + 1]
        self._at += len(whole)
        rows = [line.split(",") for line in whole.decode().splitlines()]
        return [int(row[4]) for row in rows if row[0] == STEADY_SUBSCRIBER]


def _kib(text: str) -> int:
    return int(text.split()[0])


def _bytes_used(path: str) -> int:
    try:
        return 512 * os.stat(path).st_blocks
    except OSError:
        return 0
