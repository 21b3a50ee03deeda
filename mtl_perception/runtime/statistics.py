"""Frame counts, rates and latencies of a camera."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field

WINDOW = 100
"""Number of frames over which latencies and stamp ages are evaluated."""
RATE_WINDOW = 5.0
"""Seconds over which the rate is averaged."""
AGE_LIMIT = 3600.0
"""Seconds; stamp ages beyond it, or below 0, come from an unrelated clock and are ignored."""


@dataclass(frozen=True)
class Rejection:
    """The latest rejected frame: reason key, message, and monotonic time in seconds."""

    reason: str
    text: str
    at: float


@dataclass(frozen=True)
class StatisticsSnapshot:
    """Statistics at one moment; times are in seconds of the monotonic clock."""

    at: float = 0.0
    received: int = 0
    processed: int = 0
    replaced: int = 0
    unwanted: int = 0
    rejected: Mapping[str, int] = field(default_factory=dict)
    last_rejection: Rejection | None = None
    last_received_at: float | None = None
    latencies: tuple[float, ...] = ()
    ages: tuple[float, ...] = ()
    completed_at: tuple[float, ...] = ()

    @property
    def silence(self) -> float | None:
        """Seconds since the last image was received; None if there was none since the subscription."""
        return None if self.last_received_at is None else self.at - self.last_received_at

    def recent_rejection(self, seconds: float) -> Rejection | None:
        """Return the latest rejection if it is younger than `seconds`."""
        last = self.last_rejection
        return last if last and self.at - last.at < seconds else None

    def values(self) -> dict[str, str]:
        """Format all counts, rates and latencies as diagnostic values."""
        completed = sum(self.at - t <= RATE_WINDOW for t in self.completed_at)
        values = {
            "frames received": str(self.received),
            "frames processed": str(self.processed),
            "frames replaced": str(self.replaced),
            "frames rejected": str(sum(self.rejected.values())),
            "frames without subscriber": str(self.unwanted),
            "rate [Hz]": f"{completed / RATE_WINDOW:.1f}",
            "latency median [ms]": _quantile_ms(self.latencies, 0.5),
            "latency maximum [ms]": _quantile_ms(self.latencies, 1.0),
            "stamp age median [ms]": _quantile_ms(self.ages, 0.5),
        }
        values.update({f"rejected: {reason}": str(count) for reason, count in sorted(self.rejected.items())})
        if self.last_rejection:
            values["last rejection"] = self.last_rejection.text
        return values


class Statistics:
    """Counts of frames since configuration, for use by several threads.

    `received` is the sum of processed, replaced, rejected and unwanted frames and those in progress.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.received = self.processed = self.replaced = self.unwanted = 0
        self.rejected: Counter[str] = Counter()
        self.last_rejection: Rejection | None = None
        self.last_received_at: float | None = None
        self._latencies: deque[float] = deque(maxlen=WINDOW)
        self._ages: deque[float] = deque(maxlen=WINDOW)
        self._completed_at: deque[float] = deque(maxlen=1000)

    def reset_silence(self) -> None:
        """Forget when the last image was received, as a new subscription starts."""
        with self._lock:
            self.last_received_at = None

    def count_received(self) -> None:
        """Count an image that was received."""
        with self._lock:
            self.received += 1
            self.last_received_at = time.monotonic()

    def count_replaced(self) -> None:
        """Count an image that was replaced by a newer one before it was processed."""
        with self._lock:
            self.replaced += 1

    def count_unwanted(self) -> None:
        """Count an image that was received while no output had a subscriber."""
        with self._lock:
            self.unwanted += 1

    def count_rejected(self, reason: str, text: str) -> None:
        """Count an image that was dropped because of an error."""
        with self._lock:
            self.rejected[reason] += 1
            self.last_rejection = Rejection(reason, text, time.monotonic())

    def count_processed(self, latency: float, age: float) -> None:
        """Count an image whose outputs were published.

        Args:
            latency: Seconds since it was received.
            age: Seconds since its stamp.
        """
        with self._lock:
            self.processed += 1
            self._latencies.append(latency)
            if 0 <= age < AGE_LIMIT:
                self._ages.append(age)
            self._completed_at.append(time.monotonic())

    def snapshot(self) -> StatisticsSnapshot:
        """Copy the statistics."""
        with self._lock:
            return StatisticsSnapshot(
                time.monotonic(),
                self.received,
                self.processed,
                self.replaced,
                self.unwanted,
                dict(self.rejected),
                self.last_rejection,
                self.last_received_at,
                tuple(self._latencies),
                tuple(self._ages),
                tuple(self._completed_at),
            )


def _quantile_ms(seconds: tuple[float, ...], quantile: float) -> str:
    if not seconds:
        return "-"
    ordered = sorted(seconds)
    return f"{1000 * ordered[min(int(quantile * len(ordered)), len(ordered) - 1)]:.1f}"
