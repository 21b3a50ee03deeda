"""Samples of the node's process from /proc, and of the latencies that the checker records."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

PERMANENT_SUBSCRIBER = "1"
SHARED_MEMORY = "/dev/shm/fast"
"""Prefix of the files of Fast DDS, fastrtps_ or fastdds_."""

PORT = "_port"


@dataclass(frozen=True)
class ProcessSample:
    """State of the node's process at one time.

    Attributes:
        seconds: Time since the start of sampling.
        rss_mib: Resident memory, shared memory included, MiB.
        anonymous_mib: Private anonymous memory (the heap), MiB.
        fds: Open file descriptors.
        threads: Threads.
        shm_segments: Mapped shared-memory files of Fast DDS.
        shm_mib: Disk usage of these files, MiB.
        cpu_seconds: Processor time since the process started.
        outputs: Outputs that the permanent subscriber received since the last sample.
        latency_median_ms: Median latency of these outputs, publication of the image to arrival; None without outputs.
        latency_p99_ms: 99th percentile of the same.
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


def sample(pid: int, seconds: float, latencies_us: list[int]) -> ProcessSample:
    """Sample a process.

    Args:
        pid: Process id.
        seconds: Time since the start of sampling.
        latencies_us: Latencies since the last sample, microseconds.

    Raises:
        OSError: The process has exited.
    """
    process = Path("/proc") / str(pid)
    memory = dict(line.split(":", 1) for line in (process / "smaps_rollup").read_text().splitlines()[1:])
    status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
    times = (process / "stat").read_text().rpartition(")")[2].split()
    found = segments(pid)
    ordered = sorted(latencies_us)
    return ProcessSample(
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
    """Return the shared-memory files of Fast DDS that a process maps, unlinked ones included; empty if it has exited."""
    with contextlib.suppress(OSError):
        lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
        return {line[line.index(SHARED_MEMORY) :] for line in lines if SHARED_MEMORY in line}
    return set()


def remove_unused(paths: set[str]) -> list[str]:
    """Remove those of the shared-memory files that no process maps, as killed processes leave them behind.

    Returns:
        The segments that a process still maps. Ports are not included: all domains share them.
    """
    used = set().union(*(segments(int(entry.name)) for entry in Path("/proc").iterdir() if entry.name.isdigit()))
    found = {path for path in paths if os.path.exists(path)}
    for path in sorted(found - used):
        folder, name = os.path.split(path)
        # The segment, its lock file, and the mutex of a port.
        for each in (path, f"{path}_el", f"{folder}/sem.{name}_mutex"):
            Path(each).unlink(missing_ok=True)
    return sorted(path for path in found & used if PORT not in path)


class LatencyReader:
    """Reads the rows that the checker appends to outputs.csv.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._offset = path, 0

    def read(self) -> list[int]:
        """Return the latencies of the permanent subscriber's outputs since the last call, microseconds."""
        with self._path.open("rb") as file:
            file.seek(self._offset)
            new = file.read()
        complete = new[: new.rfind(b"\n") + 1]
        self._offset += len(complete)
        rows = [line.split(",") for line in complete.decode().splitlines()]
        return [int(row[4]) for row in rows if row[0] == PERMANENT_SUBSCRIBER]


def _kib(text: str) -> int:
    return int(text.split()[0])


def _bytes_used(path: str) -> int:
    try:
        return 512 * os.stat(path).st_blocks
    except OSError:
        return 0
