"""What is done about a device that fails while the node works."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from typing import Any, TypeAlias

from mtl_perception.config import Config
from mtl_perception.errors import DeviceError, PerceptionError
from mtl_perception.inference.finite import find_nonfinite_head, has_only_empty_cloud
from mtl_perception.pipeline import Pipeline
from mtl_perception.types import Frame, Result

FAILURES = 2
"""So many in a row, and the device is taken for failed: one alone, such as a moment without memory, passes by itself."""
WITNESS, WITNESSES = 5.0, 32
"""Seconds for which a picture size that worked says that the device works, though another fails; and how many are known."""
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0
"""Seconds between two attempts to make the pipeline anew; each pause is twice the one before."""
MANY_ATTEMPTS = 3
"""After so many in vain it may be that only another process helps."""
NOT_FINITE = "not_finite"
"""The reason of a frame without numbers."""

Size: TypeAlias = tuple[int, ...]


class Recovery:
    """Runs the pipeline, and brings it back where its device fails; see the parameter `on_device_error`. For one thread.

    A size of pictures that alone fails, as where it is too large, is not the device's failure while others work.

    Args:
        policy: Gives retry, cpu or stop, as it is at the time.
        give_up: Called with the reason where the policy is to stop, again with each picture until it is done.
        log: The node's logger.

    Attributes:
        failures: Frames and attempts that failed by the device, since the node was configured.
        recoveries: How often it worked again after it was taken for failed.
        trouble: Why it does not work at present, for people; empty: it does.
        note: What is not as it was configured, for people; empty: nothing.
    """

    def __init__(self, policy: Callable[[], str], give_up: Callable[[str], None], log: Any) -> None:
        self._policy, self._give_up, self._log = policy, give_up, log
        self.failures = self.recoveries = 0
        self.trouble = self.note = ""
        self._in_row = self._attempts = 0
        self._retries = 0
        self._error = ""
        self._home: tuple[str, str] | None = None
        self._pause = self._not_before = 0.0
        self._worked: dict[Size, float] = {}
        self._renewed = False
        self._failing: set[Size] = set()

    def run(self, pipeline: Pipeline, frames: Sequence[Frame], outputs: Sequence[Collection[str]]) -> list[Result]:
        """One result a frame, of the pipeline, which is made anew before where that is due; see `Pipeline.batch`.

        Several frames that failed together are to be tried one by one next: all of it counts as one failure.

        Raises:
            DeviceError: The device failed; or it has, and its next attempt is not due.
        """
        sizes: set[Size] = {frame.image.shape for frame in frames}
        is_retry, self._retries = self._retries > 0, max(self._retries - 1, 0)
        if self.trouble and not (self._renewed and sizes.isdisjoint(self._failing)):
            self._renew(pipeline)
        try:
            results = _numbers(pipeline, frames, outputs)
        except DeviceError as error:
            self._in_row += not is_retry
            if len(frames) > 1:
                # Whose fault it was is known when each was tried.
                self._retries = len(frames)
            else:
                self._frame_failed(error, sizes)
            raise
        self._works(pipeline, sizes)
        return results

    def _renew(self, pipeline: Pipeline) -> None:
        policy = self._policy()
        if policy == "stop":
            self._give_up(self._error)
        if policy == "stop" or time.monotonic() < self._not_before:
            raise DeviceError(self.trouble)
        self._attempts += 1
        self._pause = min(max(2 * self._pause, FIRST_PAUSE), LONGEST_PAUSE)
        self._home = self._home or (str(pipeline.device), self._error)
        self._renewed = False
        try:
            pipeline.rebuild("cpu" if policy == "cpu" else "")
        except Exception as error:
            self.failures += 1
            self._in_row += 1
            self._error = str(error) if isinstance(error, PerceptionError) else f"{type(error).__name__}: {error}"
            self._describe()
            raise DeviceError(self.trouble) from error
        finally:
            self._not_before = time.monotonic() + self._pause
        self._renewed = True
        self._failing.clear()

    def _frame_failed(self, error: DeviceError, sizes: set[Size]) -> None:
        self.failures += 1
        self._error = str(error)
        self._failing |= sizes
        for size in sizes:
            self._worked.pop(size, None)
        if self.trouble:
            self._describe()
        elif self._in_row >= FAILURES and not self._works_for_others(error):
            self._describe()
            policy = self._policy()
            self._log.error(f"the device failed, on_device_error is {policy}: {self._error}")
            if policy == "stop":
                self._give_up(self._error)

    def _works_for_others(self, error: DeviceError) -> bool:
        # Weights that are spoilt are so for all sizes, though others may want another head's outputs.
        return error.reason != NOT_FINITE and any(time.monotonic() - at < WITNESS for at in self._worked.values())

    def _describe(self) -> None:
        self.trouble = self._error
        if self._attempts:
            self.trouble += f"; made anew in vain, attempt {self._attempts}, the next with a picture after {self._pause:g} s"
        if self._attempts >= MANY_ATTEMPTS:
            self.trouble += "; should it last, restart the node: some errors of a GPU end only with the process"

    def _works(self, pipeline: Pipeline, sizes: set[Size]) -> None:
        for size in sizes:
            # Last again: the one that did not work for the longest time is first.
            self._worked.pop(size, None)
            self._worked[size] = time.monotonic()
        while len(self._worked) > WITNESSES:
            self._worked.pop(next(iter(self._worked)))
        if not self._in_row:
            return
        if self.trouble:
            self.recoveries += 1
            self._log.warning(f"works again, on {pipeline.device}, after {self._in_row} failures")
        if self._home is not None:
            device, why = self._home
            if str(pipeline.device) == device:
                self._home = None
            else:
                self.note = f"on {pipeline.device} since {device} failed, until cleaned up and configured: {why}"
        self.trouble = ""
        self._renewed = False
        self._in_row = self._attempts = 0
        self._pause = self._not_before = 0.0
        self._failing.clear()


def _numbers(pipeline: Pipeline, frames: Sequence[Frame], outputs: Sequence[Collection[str]]) -> list[Result]:
    before = pipeline.config
    results = _compute(pipeline, frames, outputs)
    if not before.min_depth and any(has_only_empty_cloud(result) for result in results):
        # Rare, and so once more with depth: it would cost each frame to have it always.
        results = _compute(pipeline, frames, [{*wanted, "depth"} for wanted in outputs])
    _check_numbers(results, pipeline, before)
    return results


def _compute(pipeline: Pipeline, frames: Sequence[Frame], outputs: Sequence[Collection[str]]) -> list[Result]:
    return [pipeline(frames[0], outputs[0])] if len(frames) == 1 else pipeline.batch(frames, outputs)


def _check_numbers(results: list[Result], pipeline: Pipeline, before: Config) -> None:
    # Parameters may have changed while it ran: with those of before or after, a picture may rightly be empty.
    min_confidence = max(before.min_confidence, pipeline.config.min_confidence)
    min_depth = max(before.min_depth, pipeline.config.min_depth)
    for result in results:
        head = find_nonfinite_head(result, min_confidence, min_depth)
        if head:
            raise DeviceError(
                f"device {pipeline.device}, {pipeline.precision}: the network gave no number for the {head} of a whole picture",
                NOT_FINITE,
            )
