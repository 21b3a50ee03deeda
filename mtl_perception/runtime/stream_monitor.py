"""Anomalies in the images of a camera: frozen images, wrong stamps, changes of size or encoding."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

MAX_AHEAD = 0.5
"""Seconds that a stamp may be ahead of the node's clock: simulated time moves in steps, and /clock may be late."""
MAX_BEHIND = 1.0
"""Seconds that a stamp may be behind the node's clock on arrival."""
REPORT_TIME = 3.0
"""Seconds for which a single anomaly is reported."""
FROZEN_IMAGES = 3
"""Minimum number of identical images that count as frozen; a slow camera may send no more for a while."""
SAMPLE_BYTES = 1024
DAY = 86400.0
EARLIEST_STAMP = 946_684_800 * 10**9
"""Nanoseconds of 2000-01-01, before ROS existed: earlier stamps do not count from 1970."""


@dataclass(frozen=True)
class Arrival:
    """An image on arrival.

    Attributes:
        stamp_ns: Stamp of the image in nanoseconds.
        at: Time of arrival in seconds of the monotonic clock.
        clock_ns: Time of arrival in nanoseconds of the node's clock.
        simulated: Whether the node's clock follows /clock.
        form: Human-readable size and encoding.
        data: Bytes of the image; kept until the next image arrives.
        latched: Whether it may have been published before the subscription.
    """

    stamp_ns: int
    at: float
    clock_ns: int
    simulated: bool
    form: str
    data: bytes | array[int]
    latched: bool = False

    @property
    def age(self) -> float:
        """Seconds from the stamp to the arrival; negative for a stamp in the future."""
        return (self.clock_ns - self.stamp_ns) / 1e9


@dataclass(frozen=True)
class StreamSnapshot:
    """What a StreamMonitor has found.

    Attributes:
        anomalies: Current anomalies: messages by stable names.
        counts: Number of occurrences by name.
        age: Seconds from stamp to arrival of the latest image; None before the first.
    """

    anomalies: Mapping[str, str] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    age: float | None = None


class StreamMonitor:
    """Compare each image of a camera with the previous one and with the clock.

    Attributes:
        counts: Number of occurrences of REPEATED, BACKWARD and CHANGED.
        last: Latest image; None before the first.
    """

    REPEATED, BACKWARD, CHANGED = "repeated stamps", "backward stamp jumps", "size or encoding changes"

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.last: Arrival | None = None
        self._noted: dict[str, tuple[float, str]] = {}
        self._stamp_count = 0
        self._identical_count, self._identical_since = 0, 0.0
        self._period = 0.0

    def forget_last(self) -> None:
        """Do not compare the next image with the latest one, because it may be received again."""
        self.last = None

    def observe(self, arrival: Arrival) -> None:
        """Evaluate an image that arrived."""
        last, self.last = self.last, arrival
        if last is None:
            self._stamp_count, self._identical_count, self._identical_since = 1, 1, arrival.at
        else:
            self._compare_stamps(last, arrival)
            self._compare_images(last, arrival)
        self._compare_with_clock(arrival)

    def anomalies(self, now: float, frozen_after: float) -> dict[str, str]:
        """Return current and recent anomalies: messages by names that stay the same while an anomaly lasts.

        Args:
            now: Seconds of the clock of `Arrival.at`.
            frozen_after: Seconds after which identical images count as frozen.
        """
        found = {name: text for name, (at, text) in list(self._noted.items()) if now - at < REPORT_TIME}
        last = self.last
        # The next image of a slow camera may take longer than REPORT_TIME.
        if last is not None and now - last.at < max(REPORT_TIME, 2 * self._period):
            duration = last.at - self._identical_since
            if self._identical_count >= FROZEN_IMAGES and duration > frozen_after:
                found["frozen"] = (
                    f"image has not changed for {duration:.1f} s ({self._identical_count} identical images): "
                    "the camera is frozen, or the scene is static and free of noise"
                )
        return found

    def snapshot(self, now: float, frozen_after: float) -> StreamSnapshot:
        """Summarize the findings; see `anomalies` for the arguments."""
        last = self.last
        counts = {name: self.counts[name] for name in (self.REPEATED, self.BACKWARD, self.CHANGED)}
        return StreamSnapshot(self.anomalies(now, frozen_after), counts, None if last is None else last.age)

    def _note(self, name: str, arrival: Arrival, text: str) -> None:
        self._noted[name] = (arrival.at, text)

    def _compare_stamps(self, last: Arrival, arrival: Arrival) -> None:
        step = arrival.stamp_ns - last.stamp_ns
        self._stamp_count = 1 if step else self._stamp_count + 1
        if not (arrival.stamp_ns and last.stamp_ns):
            return
        if step == 0:
            self.counts[self.REPEATED] += 1
            seconds, nanoseconds = divmod(arrival.stamp_ns, 10**9)
            self._note(
                "repeated",
                arrival,
                f"{self._stamp_count} consecutive images have the stamp {seconds}.{nanoseconds:09d}: "
                "the camera is frozen, or its driver does not update the stamp",
            )
        elif step < 0:
            self.counts[self.BACKWARD] += 1
            self._note(
                "backward",
                arrival,
                f"stamps jumped back by {format_duration(-step / 1e9)}: a recording restarted, simulated time was reset, "
                "or two cameras publish on the topic",
            )

    def _compare_images(self, last: Arrival, arrival: Arrival) -> None:
        self._period = arrival.at - last.at
        if are_identical(last.data, arrival.data):
            self._identical_count += 1
        else:
            self._identical_count, self._identical_since = 1, arrival.at
        if last.form != arrival.form:
            self.counts[self.CHANGED] += 1
            self._note("changed", arrival, f"images changed from {last.form} to {arrival.form}")

    def _compare_with_clock(self, arrival: Arrival) -> None:
        age, clock = arrival.age, "simulated time" if arrival.simulated else "the node's clock"
        if arrival.stamp_ns == 0:
            self._note("zero", arrival, "stamps are zero: the driver does not set them")
        elif arrival.simulated and arrival.clock_ns == 0:
            self._note("clock", arrival, "use_sim_time is set, but nothing was received on /clock yet")
        elif age < -MAX_AHEAD:
            reason = "they are not based on /clock" if arrival.simulated else "the clocks of camera and node differ"
            self._note("clock", arrival, f"stamps are {format_duration(-age)} ahead of {clock}: {reason}")
        elif age > MAX_BEHIND:
            self._note("clock", arrival, f"stamps are {format_duration(age)} behind {clock}: {_explain_delay(arrival)}")


def _explain_delay(arrival: Arrival) -> str:
    if arrival.latched and arrival.stamp_ns >= EARLIEST_STAMP:
        return "a transient local publisher published it earlier, or images are delayed"
    if arrival.simulated:
        return "images are delayed, or their stamps are not based on /clock"
    if arrival.stamp_ns < EARLIEST_STAMP:
        return "they are simulated time (set use_sim_time) or count from the start of the camera"
    if arrival.age > DAY:
        return "a recording is played (publish /clock and set use_sim_time, or restamp it), or the camera's clock was never set"
    return "images are delayed, or the clocks of camera and node differ"


def are_identical(a: bytes | array[int], b: bytes | array[int]) -> bool:
    """Return whether two images have the same bytes. Because of sensor noise, a sample of the bytes usually suffices."""
    first, second = np.asarray(memoryview(a)), np.asarray(memoryview(b))
    if first.shape != second.shape:
        return False
    step = max(len(first) // SAMPLE_BYTES, 1)
    if not np.array_equal(first[::step], second[::step]):
        return False
    # Words of eight bytes, because a static simulated camera must not cost the executor milliseconds per image.
    words = len(first) // 8 * 8
    return np.array_equal(first[:words].view(np.uint64), second[:words].view(np.uint64)) and np.array_equal(
        first[words:], second[words:]
    )


def format_duration(seconds: float) -> str:
    """Format a duration in a human-readable unit."""
    for size, unit in ((365.25 * DAY, "years"), (DAY, "days"), (3600.0, "hours")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds:.3f} s"
