"""How `bench` measures: in turn, and what it says of the machine and the memory."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from mtl_perception.inference.machine import device_name

WARM_UPS = 2
PACKAGES = ("torch", "numpy", "opencv-python", "openvino", "onnxruntime")


def machine(device: torch.device) -> dict[str, Any]:
    """What the figures were measured on: processor or GPU, threads, versions."""
    found: dict[str, Any] = {"device": device_name(device)}
    if device.type == "cuda":
        found["cpu"] = device_name(torch.device("cpu"))
    found |= {"threads": torch.get_num_threads(), "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def time_in_turn(stages: Mapping[str, Callable[[], Any]], runs: int) -> dict[str, list[float]]:
    """Milliseconds of each stage, `runs` times after `WARM_UPS` uncounted ones.

    The stages take turns: a machine that slows down then slows all of them. Nothing of a GPU is left running.
    """
    for stage in stages.values():
        for _ in range(WARM_UPS):
            stage()
    milliseconds: dict[str, list[float]] = {name: [] for name in stages}
    for _ in range(runs):
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


def summary(milliseconds: list[float]) -> dict[str, float]:
    """Median and interquartile range."""
    low, middle, high = statistics.quantiles(milliseconds, n=4)
    return {"median_ms": round(middle, 3), "iqr_ms": round(high - low, 3)}


class PeakMemory:
    """The most memory that a block of code held beyond what the process held before it.

    Linux's high-water mark of resident memory, set back first; what the allocators had to spare is not seen. Elsewhere,
    and where the mark cannot be set back, `megabytes` is None.
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
    """A line of /proc/self/status, kB.

    Raises:
        ValueError: There is no such line.
    """
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    raise ValueError(name)
