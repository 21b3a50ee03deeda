"""What the node counts, and diagnostic messages made of it."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from dataclasses import dataclass

from diagnostic_msgs.msg import DiagnosticStatus, KeyValue

WINDOW = 100
"""Latencies of this many frames make median and maximum."""
RATE_WINDOW = 5.0
"""Seconds over which rates are taken."""
AGE_LIMIT = 3600.0
"""Seconds; an age beyond it, or below 0, is that of a clock that is not ours, and tells nothing of the node."""


@dataclass(frozen=True)
class Rejection:
    """The latest frame that was refused."""

    reason: str
    text: str
    at: float


class Statistics:
    """Counts of frames, since the node was configured. `received` = processed + replaced + rejected + unwanted + in work."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.received = self.processed = self.replaced = self.unwanted = 0
        self.rejected: Counter[str] = Counter()
        self.last_rejection: Rejection | None = None
        self.last_received_at: float | None = None
        self._latencies: deque[float] = deque(maxlen=WINDOW)
        self._ages: deque[float] = deque(maxlen=WINDOW)
        self._done: deque[float] = deque(maxlen=1000)

    def begin(self) -> None:
        """The camera is listened to, again perhaps: what came before says nothing of whether it is silent now."""
        with self._lock:
            self.last_received_at = None

    def count_received(self) -> None:
        """A picture arrived."""
        with self._lock:
            self.received += 1
            self.last_received_at = time.monotonic()

    def count_replaced(self) -> None:
        """A picture gave way to a newer one before its turn."""
        with self._lock:
            self.replaced += 1

    def count_unwanted(self) -> None:
        """A picture came while nobody subscribed to any output."""
        with self._lock:
            self.unwanted += 1

    def count_rejected(self, reason: str, text: str) -> None:
        """A picture was refused."""
        with self._lock:
            self.rejected[reason] += 1
            self.last_rejection = Rejection(reason, text, time.monotonic())

    def count_processed(self, latency: float, age: float) -> None:
        """A picture's outputs are out: seconds since its arrival, and since its stamp."""
        with self._lock:
            self.processed += 1
            self._latencies.append(latency)
            if 0 <= age < AGE_LIMIT:
                self._ages.append(age)
            self._done.append(time.monotonic())

    def values(self) -> dict[str, str]:
        """All counts, rates and latencies, as text."""
        with self._lock:
            now = time.monotonic()
            recent = [t for t in self._done if now - t <= RATE_WINDOW]
            latencies, ages = sorted(self._latencies), sorted(self._ages)
            values = {
                "frames received": str(self.received),
                "frames processed": str(self.processed),
                "frames replaced": str(self.replaced),
                "frames rejected": str(sum(self.rejected.values())),
                "frames without subscriber": str(self.unwanted),
                "rate [Hz]": f"{len(recent) / RATE_WINDOW:.1f}",
                "latency median [ms]": _milliseconds(latencies, 0.5),
                "latency maximum [ms]": _milliseconds(latencies, 1.0),
                "age of stamp median [ms]": _milliseconds(ages, 0.5),
            }
            values.update({f"rejected: {reason}": str(count) for reason, count in sorted(self.rejected.items())})
            if self.last_rejection:
                values["last rejection"] = self.last_rejection.text
            return values

    def rejected_lately(self, seconds: float) -> Rejection | None:
        """The latest refusal, if that was less than `seconds` ago."""
        with self._lock:
            last = self.last_rejection
            return last if last and time.monotonic() - last.at < seconds else None

    def silence(self) -> float | None:
        """Seconds since the last picture came; None if none did since `begin`."""
        with self._lock:
            return None if self.last_received_at is None else time.monotonic() - self.last_received_at


def _milliseconds(ordered: list[float], quantile: float) -> str:
    if not ordered:
        return "-"
    return f"{1000 * ordered[min(int(quantile * len(ordered)), len(ordered) - 1)]:.1f}"


OK, WARN, ERROR, STALE = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR, DiagnosticStatus.STALE


def status(name: str, hardware: str, level: bytes, message: str, values: dict[str, str]) -> DiagnosticStatus:
    """A diagnostic_msgs/DiagnosticStatus."""
    return DiagnosticStatus(
        name=name,
        hardware_id=hardware,
        level=level,
        message=message,
        values=[KeyValue(key=key, value=value) for key, value in values.items()],
    )
