"""Recovery from failures of the inference device."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from typing import TypeAlias

from mtl_perception.config import Config
from mtl_perception.errors import DeviceError, PerceptionError
from mtl_perception.inference.finite import find_nonfinite_head, has_only_empty_cloud
from mtl_perception.pipeline import Pipeline
from mtl_perception.result import Result
from mtl_perception.runtime.interfaces import Logger
from mtl_perception.types import Frame

MAX_FAILURES = 2
"""Consecutive failures after which the device counts as failed; a single one, such as a moment without memory, may pass."""
WORKING_TIME, MAX_WORKING_SIZES = 5.0, 32
"""Seconds for which an image size that worked shows that the device works though another size fails, and how many are kept."""
MIN_BACKOFF, MAX_BACKOFF = 1.0, 30.0
"""Seconds between two attempts to rebuild the pipeline; doubled with each attempt."""
RESTART_ATTEMPTS = 3
"""Failed attempts after which diagnostics suggest a restart of the process."""
NOT_FINITE = "not_finite"
"""Reason of a frame whose outputs are non-finite."""

Size: TypeAlias = tuple[int, ...]


class Recovery:
    """Run the pipeline, and rebuild it when its device fails; see the parameter `on_device_error`. For use by one thread.

    If only images of one size fail, because they are too large for example, the device does not count as failed as long as
    images of other sizes work.

    Args:
        policy: Value of on_device_error: retry, cpu or stop.
        on_stop: Called with the reason if the policy is to stop, again for every frame until the node has stopped.
        log: Logger of the node.

    Attributes:
        policy: May change at any time.
        failures: Number of frames and rebuild attempts that failed because of the device.
        recoveries: Number of times that the device worked again after it counted as failed.
        trouble: Why the device does not work at present; empty if it works.
        note: How the pipeline differs from its configuration since a recovery; empty if it does not.
    """

    def __init__(self, policy: str, on_stop: Callable[[str], None], log: Logger) -> None:
        self.policy = policy
        self._on_stop, self._log = on_stop, log
        self.failures = self.recoveries = 0
        self.trouble = self.note = ""
        self._consecutive = self._attempts = 0
        self._remaining_retries = 0
        self._error = ""
        self._configured_device: tuple[str, str] | None = None
        self._backoff = self._not_before = 0.0
        self._worked_at: dict[Size, float] = {}
        self._rebuilt = False
        self._failing: set[Size] = set()

    def run(self, pipeline: Pipeline, frames: Sequence[Frame], outputs: Sequence[Collection[str]]) -> list[Result]:
        """Compute the results of frames; rebuild the pipeline first if that is due. See `Pipeline.batch`.

        The caller retries the frames of a failed batch one by one; batch and retries count as a single failure.

        Raises:
            DeviceError: The device failed, or it failed earlier and the next rebuild attempt is not due.
        """
        sizes: set[Size] = {frame.image.shape for frame in frames}
        is_retry, self._remaining_retries = self._remaining_retries > 0, max(self._remaining_retries - 1, 0)
        if self.trouble and not (self._rebuilt and sizes.isdisjoint(self._failing)):
            self._rebuild(pipeline)
        try:
            results = _infer(pipeline, frames, outputs)
        except DeviceError as error:
            self._consecutive += not is_retry
            if len(frames) > 1:
                # Which frame caused the failure is known only after the retries.
                self._remaining_retries = len(frames)
            else:
                self._on_failure(error, sizes)
            raise
        self._on_success(pipeline, sizes)
        return results

    def _rebuild(self, pipeline: Pipeline) -> None:
        policy = self.policy
        if policy == "stop":
            self._on_stop(self._error)
        if policy == "stop" or time.monotonic() < self._not_before:
            raise DeviceError(self.trouble)
        self._attempts += 1
        self._backoff = min(max(2 * self._backoff, MIN_BACKOFF), MAX_BACKOFF)
        self._configured_device = self._configured_device or (str(pipeline.device), self._error)
        self._rebuilt = False
        try:
            pipeline.rebuild("cpu" if policy == "cpu" else "")
        except Exception as error:
            self.failures += 1
            self._consecutive += 1
            self._error = str(error) if isinstance(error, PerceptionError) else f"{type(error).__name__}: {error}"
            self._update_trouble()
            raise DeviceError(self.trouble) from error
        finally:
            self._not_before = time.monotonic() + self._backoff
        self._rebuilt = True
        self._failing.clear()

    def _on_failure(self, error: DeviceError, sizes: set[Size]) -> None:
        self.failures += 1
        self._error = str(error)
        self._failing |= sizes
        for size in sizes:
            self._worked_at.pop(size, None)
        if self.trouble:
            self._update_trouble()
        elif self._consecutive >= MAX_FAILURES and not self._works_for_other_sizes(error):
            self._update_trouble()
            self._log.error(f"inference device failed: {self._error}; on_device_error is {self.policy}")
            if self.policy == "stop":
                self._on_stop(self._error)

    def _works_for_other_sizes(self, error: DeviceError) -> bool:
        # Corrupt weights affect all sizes, although images of other sizes may only use the other head.
        return error.reason != NOT_FINITE and any(time.monotonic() - at < WORKING_TIME for at in self._worked_at.values())

    def _update_trouble(self) -> None:
        self.trouble = self._error
        if self._attempts:
            self.trouble += f"; rebuild attempt {self._attempts} failed; retrying on the next image after {self._backoff:g} s"
        if self._attempts >= RESTART_ATTEMPTS:
            self.trouble += "; if this persists, restart the node: some GPU errors last until the process ends"

    def _on_success(self, pipeline: Pipeline, sizes: set[Size]) -> None:
        for size in sizes:
            # Insert again, so that the least recent size comes first.
            self._worked_at.pop(size, None)
            self._worked_at[size] = time.monotonic()
        while len(self._worked_at) > MAX_WORKING_SIZES:
            self._worked_at.pop(next(iter(self._worked_at)))
        if not self._consecutive:
            return
        if self.trouble:
            self.recoveries += 1
            self._log.warning(f"inference works again on {pipeline.device} after {self._consecutive} failures")
        if self._configured_device is not None:
            device, reason = self._configured_device
            if str(pipeline.device) == device:
                self._configured_device = None
            else:
                self.note = f"running on {pipeline.device} until the next configuration, because {device} failed: {reason}"
        self.trouble = ""
        self._rebuilt = False
        self._consecutive = self._attempts = 0
        self._backoff = self._not_before = 0.0
        self._failing.clear()


def _infer(pipeline: Pipeline, frames: Sequence[Frame], outputs: Sequence[Collection[str]]) -> list[Result]:
    before = pipeline.config
    results = pipeline.batch(frames, outputs)
    if not before.min_depth and any(has_only_empty_cloud(result) for result in results):
        # Only depth tells a non-finite cloud from one beyond max_depth. It is computed in this rare case, not for each frame.
        results = pipeline.batch(frames, [{*requested, "depth"} for requested in outputs])
    _check_finite(results, pipeline, before)
    return results


def _check_finite(results: list[Result], pipeline: Pipeline, before: Config) -> None:
    # Parameters may have changed during inference; the old or the new ones may make an image legitimately empty.
    min_confidence = max(before.min_confidence, pipeline.config.min_confidence)
    min_depth = max(before.min_depth, pipeline.config.min_depth)
    for result in results:
        head = find_nonfinite_head(result, min_confidence, min_depth)
        if head:
            raise DeviceError(
                f"device {pipeline.device}, {pipeline.precision}: {head} output is non-finite for every pixel", NOT_FINITE
            )
