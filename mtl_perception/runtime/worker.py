"""Worker thread: decoding, inference and publishing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from mtl_perception.errors import DeviceError, FrameError
from mtl_perception.messages.topics import OutputTopic
from mtl_perception.result import Result
from mtl_perception.runtime.interfaces import Camera, Logger
from mtl_perception.runtime.mailbox import Mailbox
from mtl_perception.runtime.publisher_thread import PublisherThread
from mtl_perception.runtime.session import Session
from mtl_perception.types import Frame

YIELD = 1e-4
"""Seconds for which the executor yields to the worker after each image."""
LOG_PERIOD = 5.0
"""Minimum seconds between two log lines about dropped frames."""


@dataclass(frozen=True)
class PendingFrame:
    """A decoded image and the outputs to publish for it."""

    camera: Camera
    message: Any
    received_at: float
    frame: Frame
    outputs: list[OutputTopic]

    @property
    def needs(self) -> frozenset[str]:
        """Results from which the outputs are made; see types.OUTPUTS."""
        return frozenset().union(*(output.needs for output in self.outputs))


class Worker(threading.Thread):
    """Process the newest image of each camera, in turn, as many together as the pipeline gains from.

    If the pipeline keeps the results of two calls, another thread publishes one frame while the next one is computed. A CPU
    pipeline keeps one, because both threads would compete for the same cores.

    Args:
        session: Pipeline and cameras; only this thread uses the pipeline.
        now_ns: Returns the time of the node's clock in nanoseconds.
        is_shut_down: Returns whether ROS is shut down; errors after that are not reported.
        log: Logger of the node.
    """

    def __init__(self, session: Session[Any], now_ns: Callable[[], int], is_shut_down: Callable[[], bool], log: Logger) -> None:
        super().__init__(name="perception", daemon=True)
        self._session, self._now_ns, self._is_shut_down, self._log = session, now_ns, is_shut_down, log
        self._mailbox: Mailbox[tuple[Any, float]] = Mailbox(len(session.cameras))
        self._publisher = PublisherThread("publishing") if session.pipeline.result_sets > 1 else None

    def put(self, camera: int, message: Any) -> None:
        """Store an image of the camera with this index; called by the executor's thread."""
        statistics = self._session.cameras[camera].statistics
        statistics.count_received()
        if self._mailbox.put((message, time.monotonic()), camera):
            statistics.count_replaced()
        # Release the interpreter lock, so that the worker starts before the executor waits again.
        time.sleep(YIELD)

    def close(self) -> None:
        """Accept no more images; the thread ends after the frames in progress."""
        for camera in self._mailbox.close():
            self._session.cameras[camera].statistics.count_replaced()

    def run(self) -> None:
        """Process images until closed."""
        try:
            while taken := self._mailbox.take(self._session.batch_limit):
                frames = [self._prepare(self._session.cameras[camera], *item) for camera, item in taken]
                self._process([frame for frame in frames if frame is not None])
        finally:
            if self._publisher is not None:
                self._publisher.close()

    def _prepare(self, camera: Camera, message: Any, received_at: float) -> PendingFrame | None:
        """Decode an image; None if no output has a subscriber or the image is rejected."""
        with self._rejecting(camera):
            outputs = camera.subscribed_outputs()
            if outputs:
                frame = camera.to_frame(message, self._session.config.input_rectified)
                return PendingFrame(camera, message, received_at, frame, outputs)
            camera.statistics.count_unwanted()
        return None

    def _process(self, frames: list[PendingFrame]) -> None:
        if len(frames) > 1:
            try:
                self._infer_and_publish(frames)
                return
            except Exception as error:
                # One by one, so that only the frames at fault are dropped.
                self._log.warning(
                    f"batch of {len(frames)} images failed; retrying one by one: {error}", throttle_duration_sec=LOG_PERIOD
                )
        for frame in frames:
            with self._rejecting(frame.camera):
                self._infer_and_publish([frame])

    def _infer_and_publish(self, frames: list[PendingFrame]) -> None:
        session = self._session
        try:
            results = session.recovery.run(
                session.pipeline, [frame.frame for frame in frames], [frame.needs for frame in frames]
            )
        except Exception:
            # The failed call may have used a set of results, so the next call would overwrite the set being published.
            if self._publisher is not None:
                self._publisher.wait()
            raise
        if self._publisher is None:
            self._publish(frames, results)
            return
        self._publisher.submit(lambda: self._publish(frames, results))
        if session.pipeline.result_sets == 1:
            # The pipeline moved to a device that keeps the results of one call only.
            self._publisher.wait()

    def _publish(self, frames: list[PendingFrame], results: list[Result]) -> None:
        for frame, result in zip(frames, results, strict=True):
            with self._rejecting(frame.camera):
                frame.camera.publish(frame.outputs, self._session.encoder, result, frame.message.header)
                age = (self._now_ns() - frame.frame.stamp_ns) / 1e9
                frame.camera.statistics.count_processed(time.monotonic() - frame.received_at, age)

    @contextmanager
    def _rejecting(self, camera: Camera) -> Iterator[None]:
        """Count and log the frame as rejected if the block raises."""
        try:
            yield
        except (FrameError, DeviceError) as error:
            self._reject(camera, error.reason, str(error))
        except Exception as error:
            # After a shutdown of ROS every call fails, which is not worth reporting.
            if not self._is_shut_down():
                self._reject(camera, "internal", f"{type(error).__name__}: {error}")

    def _reject(self, camera: Camera, reason: str, text: str) -> None:
        camera.statistics.count_rejected(reason, text)
        source = f" of camera {camera.name}" if camera.name else ""
        self._log.warning(f"frame{source} dropped: {text}", throttle_duration_sec=LOG_PERIOD)
