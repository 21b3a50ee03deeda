"""Whether a figure of a soak grows: least squares over medians of blocks, after a warm-up.

A figure fails where its growth over the judged time is beyond what is allowed by more than two standard errors, and goes on: it
grows faster than allowed in both halves of that time. A single step, such as the first picture of a larger size, is no leak.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

WARM_UP_SHARE, WARM_UP_LEAST = 0.25, 600.0
"""Not judged: this share of the run, at least so many seconds."""
JUDGED_LEAST = 1200.0
"""Seconds; of less nothing can be said."""
BLOCKS = 40
ALLOWED: dict[str, tuple[float, str]] = {
    "rss_mib": (8.0, "MiB"),
    "anonymous_mib": (8.0, "MiB"),
    "fds": (2.0, ""),
    "threads": (1.0, ""),
    "shm_segments": (2.0, ""),
    "shm_mib": (8.0, "MiB"),
    "latency_median_ms": (0.25, "of its median"),
    "latency_p99_ms": (0.5, "of its median"),
}
"""ResizeSpec allowed over the judged time, of what is sampled all the time."""
CLEAN: dict[str, tuple[float, str]] = {"clean_mib": (8.0, "MiB"), "clean_fds": (1.0, ""), "clean_threads": (1.0, "")}
"""Likewise, of what the node still holds after each cleanup: nothing hides there."""


@dataclass(frozen=True)
class Trend:
    """How a figure went.

    Attributes:
        median: Over the judged time.
        slope: An hour.
        error: Standard error of `slope`.
        growth: `slope` times the judged time.
        growth_error: `error` times the judged time.
        steady: As `growth`, by the slower half alone.
        allowed: What `growth` may be.
        holds: Whether it is within that.
    """

    median: float
    slope: float
    error: float
    growth: float
    growth_error: float
    steady: float
    allowed: float
    holds: bool


def judged_from(seconds: Sequence[float]) -> float | None:
    """Where the warm-up of a run is over; None if too little comes after."""
    if not len(seconds):
        return None
    begin = max(WARM_UP_SHARE * seconds[-1], WARM_UP_LEAST)
    return begin if seconds[-1] - begin >= JUDGED_LEAST else None


def trend(name: str, seconds: np.ndarray, values: np.ndarray) -> Trend:
    """Of samples after the warm-up.

    Args:
        name: A key of ALLOWED or CLEAN.
        seconds: Increasing.
        values: As many; NaN where there is none.
    """
    known = np.isfinite(values)
    seconds, values = seconds[known], values[known]
    middle = float(np.median(values))
    limit, unit = {**ALLOWED, **CLEAN}[name]
    allowed = limit * middle if unit.startswith("of") else limit
    hours = float(seconds[-1] - seconds[0]) / 3600
    slope, error = _line(seconds / 3600, values, BLOCKS)
    half = seconds < seconds[0] + 1800 * hours
    slower = min(_line(seconds[part] / 3600, values[part], BLOCKS // 2)[0] for part in (half, ~half))
    growth, steady = slope * hours, slower * hours
    grows = growth - 2 * error * hours > allowed and steady > allowed
    return Trend(middle, slope, error, growth, error * hours, steady, allowed, not grows)


def _line(x: np.ndarray, y: np.ndarray, blocks: int) -> tuple[float, float]:
    """Slope and its standard error through the medians of blocks, which no single sample can pull."""
    parts = [part for part in np.array_split(np.arange(len(x)), blocks) if len(part)]
    x, y = (np.array([np.median(each[part]) for part in parts]) for each in (x, y))
    spread = ((x - x.mean()) ** 2).sum()
    slope = float(((x - x.mean()) * (y - y.mean())).sum() / spread)
    rest = y - y.mean() - slope * (x - x.mean())
    return slope, float(np.sqrt((rest**2).sum() / max(len(x) - 2, 1) / spread))
