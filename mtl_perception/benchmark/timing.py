"""Interleaved timing, peak memory, and a description of the machine."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from mtl_perception.inference.machine import device_name
from mtl_perception.progress import progress_bar

WARM_UP_RUNS = 2
PACKAGES = ("torch", "numpy", "opencv-python", "openvino", "onnxruntime")


def describe_machine(device: torch.device, packages: Sequence[str] = PACKAGES) -> dict[str, Any]:
    """Return the processor or GPU, the number of threads, and the versions of Python and of packages."""
    facts: dict[str, Any] = {"device": device_name(device)}
    if device.type == "cuda":
        facts["cpu"] = device_name(torch.device("cpu"))
    facts |= {"threads": torch.get_num_threads(), "python": platform.python_version()}
    for package in packages:
        try:
            facts[package] = version(package)
        except PackageNotFoundError:
            facts[package] = "not installed"
    return facts


def time_interleaved(stages: Mapping[str, Callable[[], Any]], runs: int) -> dict[str, list[float]]:
    """Time several calls in rounds, so that changes in clock or load affect all of them.

    Args:
        stages: Calls by name.
        runs: Number of measured rounds, after `WARM_UP_RUNS` calls of each.

    Returns:
        Duration of each run by name, milliseconds.
    """
    for stage in stages.values():
        for _ in range(WARM_UP_RUNS):
            stage()
    milliseconds: dict[str, list[float]] = {name: [] for name in stages}
    for _ in progress_bar(range(runs), unit="run", leave=False):
        for name, stage in stages.items():
            milliseconds[name].append(1000 * elapsed(stage))
    return milliseconds


def elapsed(call: Callable[[], Any]) -> float:
    """Return the duration of a call in seconds, including the work that it leaves on a GPU."""
    started = time.perf_counter()
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def summarize(milliseconds: Sequence[float]) -> dict[str, float]:
    """Return median_ms and iqr_ms, the interquartile range."""
    low, median, high = statistics.quantiles(milliseconds, n=4)
    return {"median_ms": round(median, 3), "iqr_ms": round(high - low, 3)}


class PeakMemory:
    """Maximum resident memory of a block beyond what the process held before; a context manager.

    Uses Linux's high-water mark, which is reset at the start. Memory that allocators already held is not included.

    Attributes:
        megabytes: The result in MiB; None where the high-water mark cannot be reset.
    """

    megabytes: float | None = None

    def __enter__(self) -> PeakMemory:
        try:
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
            self._before: int | None = _status("VmRSS")
        except (OSError, ValueError):
            self._before = None
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            self.megabytes = round((_status("VmHWM") - self._before) / 1024, 1)


def _status(name: str) -> int:
    """Return an entry of /proc/self/status in kB.

    Raises:
        ValueError: The entry does not exist.
    """
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    raise ValueError(name)
