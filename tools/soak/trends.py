"""Trends of sampled figures: least squares through the medians of blocks, after a warm-up.

A figure fails if its growth over the judged time exceeds the allowed growth by more than two standard errors, and if both
halves of that time grow faster than allowed. A single step, such as the first image of a larger size, is no leak.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

WARM_UP_FRACTION, MIN_WARM_UP = 0.25, 600.0
"""Warm-up, which is not judged: a fraction of the run, but at least this many seconds."""
MIN_JUDGED = 1200.0
"""Seconds after the warm-up below which a run is not judged."""
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
"""Allowed growth over the judged time of the figures that are sampled periodically."""
ALLOWED_AFTER_CLEANUP: dict[str, tuple[float, str]] = {
    "clean_mib": (8.0, "MiB"),
    "clean_fds": (1.0, ""),
    "clean_threads": (1.0, ""),
}
"""Allowed growth of what the node still holds after each cleanup transition, where no work hides a leak."""


@dataclass(frozen=True)
class Trend:
    """Trend of a figure.

    Attributes:
        median: Median over the judged time.
        slope: Growth per hour.
        error: Standard error of `slope`.
        growth: `slope` times the judged time.
        growth_error: `error` times the judged time.
        steady: Growth extrapolated from the slower half alone.
        allowed: Upper limit of `growth`.
        passed: Whether the figure stays within the limit.
    """

    median: float
    slope: float
    error: float
    growth: float
    growth_error: float
    steady: float
    allowed: float
    passed: bool


def warm_up_end(seconds: Sequence[float]) -> float | None:
    """Return the time at which the warm-up ends, or None if too little of the run follows."""
    if not len(seconds):
        return None
    begin = max(WARM_UP_FRACTION * seconds[-1], MIN_WARM_UP)
    return begin if seconds[-1] - begin >= MIN_JUDGED else None


def trend(name: str, seconds: np.ndarray, values: np.ndarray) -> Trend:
    """Fit the trend of samples taken after the warm-up.

    Args:
        name: A key of ALLOWED or ALLOWED_AFTER_CLEANUP.
        seconds: N increasing times.
        values: N values; NaN where there is none.
    """
    known = np.isfinite(values)
    seconds, values = seconds[known], values[known]
    median = float(np.median(values))
    limit, unit = {**ALLOWED, **ALLOWED_AFTER_CLEANUP}[name]
    allowed = limit * median if unit.startswith("of") else limit
    hours = float(seconds[-1] - seconds[0]) / 3600
    slope, error = _fit_line(seconds / 3600, values, BLOCKS)
    half = seconds < seconds[0] + 1800 * hours
    slower = min(_fit_line(seconds[part] / 3600, values[part], BLOCKS // 2)[0] for part in (half, ~half))
    growth, steady = slope * hours, slower * hours
    grows = growth - 2 * error * hours > allowed and steady > allowed
    return Trend(median, slope, error, growth, error * hours, steady, allowed, not grows)


def _fit_line(x: np.ndarray, y: np.ndarray, blocks: int) -> tuple[float, float]:
    """Return slope and standard error of a line through the medians of blocks, which are robust against single samples."""
    parts = [part for part in np.array_split(np.arange(len(x)), blocks) if len(part)]
    x, y = (np.array([np.median(each[part]) for part in parts]) for each in (x, y))
    spread = ((x - x.mean()) ** 2).sum()
    slope = float(((x - x.mean()) * (y - y.mean())).sum() / spread)
    residuals = y - y.mean() - slope * (x - x.mean())
    return slope, float(np.sqrt((residuals**2).sum() / max(len(x) - 2, 1) / spread))
