"""Recovery from failures of the inference device."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from mtl_perception.config import Config
from mtl_perception.errors import DeviceError, describe_error
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


@dataclass
class _Outage:
    """Failures since the device worked last, replaced as a whole when it works again.

    Attributes:
        failures: Number of consecutive failures of frames and of rebuild attempts.
        error: The latest of them.
        failed_sizes: Image sizes that failed since the last rebuild.
        trouble: Why the device counts as failed; empty while it does not.
        attempts: Number of rebuild attempts.
        backoff: Seconds from the latest attempt to the next.
        next_attempt: Monotonic time before which there is no other attempt, seconds.
        is_rebuilt: Whether the latest attempt succeeded.
    """

    failures: int = 0
    error: str = ""
    failed_sizes: set[Size] = field(default_factory=set)
    trouble: str = ""
    attempts: int = 0
    backoff: float = 0.0
    next_attempt: float = 0.0
    is_rebuilt: bool = False

    def update_trouble(self) -> None:
        """Describe the latest failure, of a device that counts as failed."""
        self.trouble = self.error
        if self.attempts:
            self.trouble += f"; rebuild attempt {self.attempts} failed; retrying on the next image after {self.backoff:g} s"
        if self.attempts >= RESTART_ATTEMPTS:
            self.trouble += "; if this persists, restart the node: some GPU errors last until the process ends"


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
        note: How the pipeline differs from its configuration since a recovery; empty if it does not.
    """

    def __init__(self, policy: str, on_stop: Callable[[str], None], log: Logger) -> None:
        self.policy = policy
        self._on_stop, self._log = on_stop, log
        self.failures = self.recoveries = 0
        self.note = ""
        self._outage = _Outage()
        self._remaining_retries = 0
        self._worked_at: dict[Size, float] = {}
        # The device before the first rebuild, and why it failed; None while the pipeline runs as configured.
        self._failed_device: tuple[str, str] | None = None

    @property
    def trouble(self) -> str:
        """Why the device does not work at present; empty if it works."""
        return self._outage.trouble

    def run(self, pipeline: Pipeline, frames: Sequence[Frame], outputs: Sequence[Collection[str]]) -> list[Result]:
        """Compute the results of frames; rebuild the pipeline first if that is due. See `Pipeline.batch`.

        The caller retries the frames of a failed batch one by one; batch and retries count as a single failure.

        Raises:
            DeviceError: The device failed, or it failed earlier and the next rebuild attempt is not due.
        """
        sizes: set[Size] = {frame.image.shape for frame in frames}
        is_retry, self._remaining_retries = self._remaining_retries > 0, max(self._remaining_retries - 1, 0)
        outage = self._outage
        if outage.trouble and not (outage.is_rebuilt and sizes.isdisjoint(outage.failed_sizes)):
            self._rebuild(pipeline)
        before = pipeline.config
        try:
            results = pipeline.batch(frames, outputs)
            if not before.min_depth and any(has_only_empty_cloud(result) for result in results):
                # Only depth tells a non-finite cloud from one beyond max_depth. It is computed in this rare case only.
                results = pipeline.batch(frames, [{*requested, "depth"} for requested in outputs])
            _check_finite(results, pipeline, before)
        except DeviceError as error:
            outage.failures += not is_retry
            if len(frames) > 1:
                # Which frame caused the failure is known only after the retries.
                self._remaining_retries = len(frames)
            else:
                self._on_failure(error, sizes)
            raise
        self._on_success(pipeline, sizes)
        return results

    def _rebuild(self, pipeline: Pipeline) -> None:
        policy, outage = self.policy, self._outage
        if policy == "stop":
            self._on_stop(outage.error)
        if policy == "stop" or time.monotonic() < outage.next_attempt:
            raise DeviceError(outage.trouble)
        outage.attempts += 1
        outage.backoff = min(max(2 * outage.backoff, MIN_BACKOFF), MAX_BACKOFF)
        outage.is_rebuilt = False
        self._failed_device = self._failed_device or (str(pipeline.device), outage.error)
        try:
            pipeline.rebuild("cpu" if policy == "cpu" else "")
        except Exception as error:
            self.failures += 1
            outage.failures += 1
            outage.error = describe_error(error)
            outage.update_trouble()
            raise DeviceError(outage.trouble) from error
        finally:
            outage.next_attempt = time.monotonic() + outage.backoff
        outage.is_rebuilt = True
        outage.failed_sizes.clear()

    def _on_failure(self, error: DeviceError, sizes: set[Size]) -> None:
        outage = self._outage
        self.failures += 1
        outage.error = str(error)
        outage.failed_sizes |= sizes
        for size in sizes:
            self._worked_at.pop(size, None)
        if outage.trouble:
            outage.update_trouble()
        elif outage.failures >= MAX_FAILURES and not self._works_for_other_sizes(error):
            outage.update_trouble()
            self._log.error(f"inference device failed: {outage.error}; on_device_error is {self.policy}")
            if self.policy == "stop":
                self._on_stop(outage.error)

    def _works_for_other_sizes(self, error: DeviceError) -> bool:
        # Corrupt weights affect all sizes, although images of other sizes may only use the other head.
        return error.reason != NOT_FINITE and any(time.monotonic() - at < WORKING_TIME for at in self._worked_at.values())

    def _on_success(self, pipeline: Pipeline, sizes: set[Size]) -> None:
        for size in sizes:
            # Insert again, so that the least recent size comes first.
            self._worked_at.pop(size, None)
            self._worked_at[size] = time.monotonic()
        while len(self._worked_at) > MAX_WORKING_SIZES:
            self._worked_at.pop(next(iter(self._worked_at)))
        outage = self._outage
        if not outage.failures:
            return
        self._outage = _Outage()
        if outage.trouble:
            self.recoveries += 1
            self._log.warning(f"inference works again on {pipeline.device} after {outage.failures} failures")
        if self._failed_device is not None:
            device, reason = self._failed_device
            if str(pipeline.device) == device:
                self._failed_device = None
            else:
                self.note = f"running on {pipeline.device} until the next configuration, because {device} failed: {reason}"


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
