"""What is odd about the pictures that a camera sends, one after the other. Knows nothing of ROS."""

from __future__ import annotations

from array import array
from collections import Counter
from dataclasses import dataclass

import numpy as np

AHEAD = 0.5
"""Seconds that a stamp may be ahead of the node's clock: simulated time moves in steps, and is heard later than pictures."""
BEHIND = 1.0
"""Seconds that a picture may be old when it comes."""
LINGER = 3.0
"""Seconds for which something that happened once is told."""
FROZEN_PICTURES = 3
"""So many pictures must be the same before that is odd: a slow camera sends no more for a while."""
SAMPLE_BYTES = 1024
DAY = 86400.0
EARLIEST_STAMP = 946_684_800 * 10**9
"""2000-01-01, before there was ROS: stamps that are earlier count from something else."""


@dataclass(frozen=True)
class Arrival:
    """A picture as it came.

    Attributes:
        stamp_ns: Its stamp, nanoseconds.
        at: When it came, seconds of a clock that never jumps.
        clock_ns: What the node's clock said then, nanoseconds.
        simulated: Whether that clock follows /clock.
        form: Size and encoding, in words.
        data: Its bytes; kept until the next picture comes.
    """

    stamp_ns: int
    at: float
    clock_ns: int
    simulated: bool
    form: str
    data: bytes | array[int]

    @property
    def age(self) -> float:
        """Seconds from its stamp to its coming; negative if it is from the future."""
        return (self.clock_ns - self.stamp_ns) / 1e9


class StreamWatch:
    """Is told of each picture of a camera, and tells what is odd.

    Attributes:
        counts: How often each of REPEATED, BACK and CHANGED was seen.
        last: The latest picture, None before the first.
    """

    REPEATED, BACK, CHANGED = "stamps repeated", "stamps that went back", "changes of size or encoding"

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.last: Arrival | None = None
        self._noted: dict[str, tuple[float, str]] = {}
        self._stamp_count = 0
        self._same_count, self._same_since = 0, 0.0
        self._period = 0.0

    def saw(self, arrival: Arrival) -> None:
        """A picture came."""
        last, self.last = self.last, arrival
        if last is None:
            self._stamp_count, self._same_count, self._same_since = 1, 1, arrival.at
        else:
            self._compare_stamps(last, arrival)
            self._compare_pictures(last, arrival)
        self._compare_clocks(arrival)

    def oddities(self, now: float, patience: float) -> dict[str, str]:
        """What is odd now or was lately, in words, by a name that stays the same while it lasts.

        Args:
            now: By the clock of `Arrival.at`.
            patience: Seconds for which pictures may be the same.
        """
        found = {name: text for name, (at, text) in list(self._noted.items()) if now - at < LINGER}
        # A slow camera's next picture may be long in coming.
        if self.last is not None and now - self.last.at < max(LINGER, 2 * self._period):
            same_for = self.last.at - self._same_since
            if self._same_count >= FROZEN_PICTURES and same_for > patience:
                found["frozen"] = (
                    f"the picture has not changed for {same_for:.1f} s ({self._same_count} pictures with the same bytes): "
                    "the camera is frozen, or a scene without noise stands still"
                )
        return found

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
                f"{self._stamp_count} pictures running have the stamp {seconds}.{nanoseconds:09d}: "
                "the camera is frozen, or its driver does not move the stamp",
            )
        elif step < 0:
            self.counts[self.BACK] += 1
            self._note(
                "back",
                arrival,
                f"stamps went back by {span(-step / 1e9)}: a recording began anew, simulated time was reset, "
                "or two cameras send at once",
            )

    def _compare_pictures(self, last: Arrival, arrival: Arrival) -> None:
        self._period = arrival.at - last.at
        if same_bytes(last.data, arrival.data):
            self._same_count += 1
        else:
            self._same_count, self._same_since = 1, arrival.at
        if last.form != arrival.form:
            self.counts[self.CHANGED] += 1
            self._note("changed", arrival, f"pictures changed from {last.form} to {arrival.form}")

    def _compare_clocks(self, arrival: Arrival) -> None:
        age, clock = arrival.age, "simulated time" if arrival.simulated else "the node's clock"
        if arrival.stamp_ns == 0:
            self._note("zero", arrival, "stamps are zero: the driver does not stamp its pictures")
        elif arrival.simulated and arrival.clock_ns == 0:
            self._note("clock", arrival, "use_sim_time is set, but nothing came on /clock yet")
        elif age < -AHEAD:
            reason = "they are not of /clock" if arrival.simulated else "the clocks of camera and node differ"
            self._note("clock", arrival, f"stamps are {span(-age)} ahead of {clock}: {reason}")
        elif age > BEHIND:
            self._note("clock", arrival, f"stamps are {span(age)} behind {clock}: {_why_behind(arrival)}")


def _why_behind(arrival: Arrival) -> str:
    if arrival.simulated:
        return "pictures wait on their way, or are not of /clock"
    if arrival.stamp_ns < EARLIEST_STAMP:
        return "they are simulated time (set use_sim_time), or count from the camera's start"
    if arrival.age > DAY:
        return "a recording (give /clock and set use_sim_time, or give it new stamps), or the camera's clock was never set"
    return "pictures wait on their way, or the clocks of camera and node differ"


def same_bytes(a: bytes | array[int], b: bytes | array[int]) -> bool:
    """Whether two pictures' bytes are the same. A sensor has noise, so a few bytes tell as a rule that they are not."""
    first, second = np.asarray(memoryview(a)), np.asarray(memoryview(b))
    if first.shape != second.shape:
        return False
    step = max(len(first) // SAMPLE_BYTES, 1)
    if not np.array_equal(first[::step], second[::step]):
        return False
    # Eight bytes at once: a camera that is lawfully still, as in simulation, must not cost the executor milliseconds.
    words = len(first) // 8 * 8
    return np.array_equal(first[:words].view(np.uint64), second[:words].view(np.uint64)) and np.array_equal(
        first[words:], second[words:]
    )


def span(seconds: float) -> str:
    """A length of time as people say it."""
    for size, unit in ((365.25 * DAY, "years"), (DAY, "days"), (3600.0, "hours")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds:.3f} s"
