"""The thread that takes pictures through decoding, pipeline and publishing."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from mtl_perception.errors import DeviceError, FrameError
from mtl_perception.messages.topics import OutputTopic, needed_results
from mtl_perception.ros.camera import Camera
from mtl_perception.runtime.mailbox import Mailbox
from mtl_perception.runtime.publisher import Stage
from mtl_perception.types import Frame, Result

if TYPE_CHECKING:
    from mtl_perception.ros.node import PerceptionNode

YIELD = 1e-4
"""Seconds that the executor stands back for the worker after a picture came."""
LOG_PERIOD = 5.0
"""Seconds between two log lines on bad frames."""


@dataclass(frozen=True)
class Job:
    """A picture that outputs are wanted of."""

    camera: Camera
    message: Any
    arrived: float
    frame: Frame
    rows: list[OutputTopic]

    @property
    def needs(self) -> frozenset[str]:
        """The results that its outputs are made from."""
        return needed_results({row.name for row in self.rows})


class Worker(threading.Thread):
    """Serves all cameras of a node: of each the newest picture, in turn, as many together as the pipeline gains by.

    Where the pipeline keeps the results of two calls, a thread of its own encodes and publishes one frame while the next is
    computed. Where it keeps one, as on a CPU, the two would only take the cores from each other.

    Args:
        node: Its cameras are served by its pipeline.
    """

    def __init__(self, node: PerceptionNode) -> None:
        super().__init__(name="perception", daemon=True)
        self._node = node
        self._cameras = list(node.cameras)
        self._mailbox: Mailbox[tuple[Any, float]] = Mailbox(len(self._cameras))
        self._publishing = Stage("publishing") if self._overlaps() else None

    def put(self, sender: int, message: Any) -> None:
        """Leave a picture of the camera of this number; called in the executor's thread."""
        statistics = self._cameras[sender].statistics
        statistics.count_received()
        if self._mailbox.put((message, time.monotonic()), sender):
            statistics.count_replaced()
        # The worker has the interpreter at once, not only when the executor is back at its waiting.
        time.sleep(YIELD)

    def close(self) -> None:
        """Take no more pictures; the thread ends after those in work."""
        for sender in self._mailbox.close():
            self._cameras[sender].statistics.count_replaced()

    def run(self) -> None:
        """Work until closed."""
        try:
            while taken := self._mailbox.take(self._limit()):
                jobs = [self._prepare(self._cameras[sender], *item) for sender, item in taken]
                self._work([job for job in jobs if job is not None])
        finally:
            if self._publishing is not None:
                self._publishing.close()

    def _limit(self) -> int:
        """How many cameras are served together at most: one by one while the device is in trouble."""
        pipeline = self._node.pipeline
        return 1 if pipeline is None or self._node.recovery.trouble else pipeline.batch_limit

    def _overlaps(self) -> bool:
        return self._node.pipeline is not None and self._node.pipeline.result_sets > 1

    def _prepare(self, camera: Camera, message: Any, arrived: float) -> Job | None:
        """The job of a message; None where nobody wants it, or it was rejected."""
        with self._rejecting(camera):
            rows = camera.wanted()
            if rows:
                return Job(camera, message, arrived, camera.frame(message, self._node.config.input_rectified), rows)
            camera.statistics.count_unwanted()
        return None

    def _work(self, jobs: list[Job]) -> None:
        if len(jobs) > 1 and self._work_together(jobs):
            return
        for job in jobs:
            with self._rejecting(job.camera), self._settling():
                pipeline = self._node.pipeline
                if pipeline is not None:
                    self._finish([job], self._node.recovery.run(pipeline, [job.frame], [job.needs]))

    def _work_together(self, jobs: list[Job]) -> bool:
        """False if it failed: then each is tried by itself, so that one camera's fault is not the others'."""
        pipeline = self._node.pipeline
        try:
            if pipeline is not None:
                frames, needs = [job.frame for job in jobs], [job.needs for job in jobs]
                with self._settling():
                    self._finish(jobs, self._node.recovery.run(pipeline, frames, needs))
        except Exception as error:
            self._node.get_logger().warning(
                f"{len(jobs)} cameras' pictures failed together, each is tried alone: {error}", throttle_duration_sec=LOG_PERIOD
            )
            return False
        return True

    def _finish(self, jobs: list[Job], results: list[Result]) -> None:
        publish = partial(self._publish, jobs, results)
        if self._publishing is None:
            publish()
        else:
            self._publishing.hand_over(publish)
            if not self._overlaps():
                # The device was changed for one that keeps the results of one call.
                self._publishing.wait()

    def _publish(self, jobs: list[Job], results: list[Result]) -> None:
        encoder = self._node.encoder
        for job, result in zip(jobs, results, strict=True):
            with self._rejecting(job.camera):
                if encoder is not None:
                    job.camera.publish(job.rows, encoder, result, job.message.header)
                    age = (self._node.get_clock().now().nanoseconds - job.frame.stamp_ns) / 1e9
                    job.camera.statistics.count_processed(time.monotonic() - job.arrived, age)

    @contextmanager
    def _settling(self) -> Iterator[None]:
        """A failed call may have used up a set of results, and the next one would write to the set in publication."""
        try:
            yield
        except Exception:
            if self._publishing is not None:
                self._publishing.wait()
            raise

    @contextmanager
    def _rejecting(self, camera: Camera) -> Iterator[None]:
        """A frame that fails in the block is counted and named, and the node lives on."""
        try:
            yield
        except (FrameError, DeviceError) as error:
            self._reject(camera, error.reason, str(error))
        except Exception as error:
            # In a context that is shut down everything fails, and nothing is to be said of it.
            if self._node.context.ok():
                self._reject(camera, "internal", f"{type(error).__name__}: {error}")

    def _reject(self, camera: Camera, reason: str, text: str) -> None:
        camera.statistics.count_rejected(reason, text)
        of = f" of {camera.name}" if camera.name else ""
        self._node.get_logger().warning(f"frame dropped{of}: {text}", throttle_duration_sec=LOG_PERIOD)
