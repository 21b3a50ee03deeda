"""What is done about a device that fails while the node works."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from typing import Any

from mtl_perception.config import Config
from mtl_perception.engine.finite import head_without_numbers
from mtl_perception.errors import DeviceError, PerceptionError
from mtl_perception.pipeline import Pipeline
from mtl_perception.types import Frame, Result

FAILURES = 2
"""So many in a row, and the device is taken for failed: one alone, such as a moment without memory, passes by itself."""
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0
"""Seconds between two attempts to make the pipeline anew; each pause is twice the one before."""
MANY_ATTEMPTS = 3
"""After so many in vain it may be that only another process helps."""


class Recovery:
    """Runs the pipeline, and brings it back where its device fails; see the parameter `on_device_error`. For one thread.

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
        self._error = ""
        self._home: tuple[str, str] | None = None
        self._pause = self._not_before = 0.0

    def run(self, pipeline: Pipeline, frames: Sequence[Frame], outputs: Sequence[Collection[str]]) -> list[Result]:
        """One result a frame, of the pipeline, which is made anew before where that is due; see `Pipeline.batch`.

        Raises:
            DeviceError: The device failed; or it has, and its next attempt is not due.
        """
        if self._in_row >= FAILURES:
            self._renew(pipeline)
        try:
            before = pipeline.config
            one = len(frames) == 1
            results = [pipeline(frames[0], outputs[0])] if one else pipeline.batch(frames, outputs)
            _check_numbers(results, pipeline, before)
        except DeviceError as error:
            self._failed(error)
            raise
        if self._in_row:
            self._works(pipeline)
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
        try:
            pipeline.renew("cpu" if policy == "cpu" else "")
        except PerceptionError as error:
            self._failed(error)
            raise DeviceError(self.trouble) from error
        finally:
            self._not_before = time.monotonic() + self._pause

    def _failed(self, error: PerceptionError) -> None:
        self.failures += 1
        self._in_row += 1
        self._error = str(error)
        if self._in_row < FAILURES:
            return
        self.trouble = self._error
        if self._attempts:
            self.trouble += f"; made anew in vain, attempt {self._attempts}, the next with a picture after {self._pause:g} s"
        if self._attempts >= MANY_ATTEMPTS:
            self.trouble += "; should it last, restart the node: some errors of a GPU end only with the process"
        if self._in_row == FAILURES:
            policy = self._policy()
            self._log.error(f"the device failed, on_device_error is {policy}: {self._error}")
            if policy == "stop":
                self._give_up(self._error)

    def _works(self, pipeline: Pipeline) -> None:
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
        self._in_row = self._attempts = 0
        self._pause = self._not_before = 0.0


def _check_numbers(results: list[Result], pipeline: Pipeline, before: Config) -> None:
    # Parameters may have changed while it ran: with those of before or after, a picture may rightly be empty.
    min_confidence = max(before.min_confidence, pipeline.config.min_confidence)
    min_depth = max(before.min_depth, pipeline.config.min_depth)
    for result in results:
        head = head_without_numbers(result, min_confidence, min_depth)
        if head:
            raise DeviceError(
                f"device {pipeline.device}, {pipeline.precision}: the network gave no number for the {head} of a whole picture",
                "not_finite",
            )
