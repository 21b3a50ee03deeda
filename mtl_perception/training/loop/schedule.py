"""How far a run has come, by steps and by wall time, and the learning rate that follows from it."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field

from mtl_perception.errors import PerceptionError
from mtl_perception.training.config import Optimizer

FINAL_RATE = 0.01
"""Learning rate at the end of the schedule, as a share of the highest one."""
FINISH_SECONDS, FINISH_SHARE = 45.0, 0.25
"""Part of the time limit that is reserved for calibration, evaluation and writing: the smaller of the two."""


def learning_rate(step: int, progress: float, optimizer: Optimizer) -> float:
    """Return the factor on the learning rates: a linear warm-up over steps, then half a cosine over progress.

    Args:
        step: Steps done.
        progress: Completed share of the run, 0..1.
        optimizer: States the warm-up.
    """
    warm_up = min((step + 1) / max(optimizer.warm_up, 1), 1.0)
    return warm_up * (FINAL_RATE + (1 - FINAL_RATE) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0))))


@dataclass(frozen=True)
class TimeLimit:
    """Wall time that a run may take, its start and its final files included.

    Attributes:
        minutes: The limit; 0: none.
        started: Value of `time.monotonic()` at the start of the command, seconds.
    """

    minutes: float = 0.0
    started: float = field(default_factory=time.monotonic)

    @property
    def end(self) -> float:
        """Value of `time.monotonic()` at which everything must be written; +Inf without a limit."""
        return self.started + 60 * self.minutes if self.minutes > 0 else math.inf

    @property
    def last_step(self) -> float:
        """Value of `time.monotonic()` at which training must end so that its results can still be written."""
        return self.end - min(FINISH_SECONDS, FINISH_SHARE * 60 * self.minutes)


class Schedule:
    """Progress of a run: the larger of the shares of its steps and of its time.

    Args:
        steps: Optimizer steps of the whole run.
        limit: Time limit of this session.
        progress: Progress of the sessions before this one, 0..1. The remaining progress is spread over this session's time.

    Raises:
        PerceptionError: The time is up before the first step.
    """

    def __init__(self, steps: int, limit: TimeLimit, progress: float = 0.0) -> None:
        self._steps = steps
        self._first = progress
        self._began, self._end = time.monotonic(), limit.last_step
        if self._began >= self._end:
            raise PerceptionError(
                f"no time is left to train: preparations took {(self._began - limit.started) / 60:.1f} of "
                f"{limit.minutes:g} min; raise the limit"
            )

    def time_share(self) -> float:
        """Return the progress that the clock states, 0..1; 0 without a time limit."""
        if math.isinf(self._end):
            return 0.0
        passed = (time.monotonic() - self._began) / (self._end - self._began)
        return min(self._first + (1 - self._first) * passed, 1.0)

    def progress(self, step: int, time_share: float) -> float:
        """Return the progress after `step` steps, 0..1.

        Args:
            step: Steps done.
            time_share: `time_share()`, or with several processes the largest one of them.
        """
        return max(step / self._steps, time_share)
