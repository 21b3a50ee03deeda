"""Worker thread: decoding, inference and publishing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from mtl_perception.errors import DeviceError, FrameError, describe_error
from mtl_perception.messages.topics import OutputTopic
from mtl_perception.result import Result
from mtl_perception.runtime.interfaces import Camera, Logger
from mtl_perception.runtime.session import Session
from mtl_perception.types import Frame

YIELD = 1e-4
"""Seconds for which the executor yields to the worker after each image."""
LOG_PERIOD = 5.0
"""Minimum seconds between two log lines about dropped frames."""
Item = TypeVar("Item")


class Mailbox(Generic[Item]):
    """Pass items from several senders to another thread, holding at most one item per sender.

    Args:
        senders: Number of senders, which are numbered from 0.
    """

    def __init__(self, senders: int = 1) -> None:
        self._condition = threading.Condition()
        self._items: dict[int, Item] = {}
        # Least recently served first, so that a fast sender cannot starve the others.
        self._order = list(range(senders))
        self._closed = False

    def put(self, item: Item, sender: int = 0) -> bool:
        """Store an item.

        Returns:
            Whether an item was lost: the sender's previous one was replaced, or the mailbox is closed.
        """
        with self._condition:
            if self._closed:
                return True
            replaced = sender in self._items
            self._items[sender] = item
            self._condition.notify()
            return replaced

    def take(self, limit: int = 1) -> list[tuple[int, Item]]:
        """Wait for items and remove those of up to `limit` senders, least recently served first.

        Returns:
            Pairs of sender and item; empty once the mailbox is closed.
        """
        with self._condition:
            self._condition.wait_for(lambda: self._items or self._closed)
            senders = [sender for sender in self._order if sender in self._items][:limit]
            self._order = [sender for sender in self._order if sender not in senders] + senders
            return [(sender, self._items.pop(sender)) for sender in senders]

    def close(self) -> list[int]:
        """Wake up all waiting threads and accept no more items.

        Returns:
            Senders whose items were discarded.
        """
        with self._condition:
            self._closed = True
            discarded = list(self._items)
            self._items.clear()
            self._condition.notify_all()
            return discarded


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
        self._publisher = ThreadPoolExecutor(1, "publishing") if session.pipeline.result_sets > 1 else None
        self._publishing: list[Future[None]] = []

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
                self._publisher.shutdown()

    def _prepare(self, camera: Camera, message: Any, received_at: float) -> PendingFrame | None:
        """Decode an image; None if no output has a subscriber or the image is rejected."""
        with self._rejecting(camera):
            outputs = camera.subscribed_outputs()
            if outputs:
                frame = camera.to_frame(message, self._session.config.input_rectified)
                return PendingFrame(camera, message, received_at, frame, outputs)
            if not camera.statistics.unwanted:
                self._log.info(f"images{_of_camera(camera)} are not processed until an output has a subscriber")
            camera.statistics.count_unwanted()
        return None

    def _process(self, frames: list[PendingFrame]) -> None:
        """Compute the outputs of frames and publish them, here or in the publisher thread."""
        if not frames:
            return
        pipeline, recovery = self._session.pipeline, self._session.recovery
        try:
            results = recovery.run(pipeline, [frame.frame for frame in frames], [frame.needs for frame in frames])
        except Exception as error:
            # The failed call may have used a set of results, so the next call would overwrite the set being published.
            wait(self._publishing)
            if len(frames) == 1:
                self._reject(frames[0].camera, error)
                return
            self._log.warning(
                f"batch of {len(frames)} images failed; retrying one by one: {error}", throttle_duration_sec=LOG_PERIOD
            )
        else:
            if self._publisher is None:
                self._publish(frames, results)
                return
            # One task at a time, because the next call but one overwrites the results that it reads.
            wait(self._publishing)
            self._publishing = [self._publisher.submit(self._publish, frames, results)]
            if pipeline.result_sets == 1:
                # The pipeline moved to a device that keeps the results of one call only.
                wait(self._publishing)
            return
        # Outside the handler, because the traceback keeps the memory of the failed batch alive.
        for frame in frames:
            self._process([frame])

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
        except Exception as error:
            self._reject(camera, error)

    def _reject(self, camera: Camera, error: Exception) -> None:
        reason = error.reason if isinstance(error, (FrameError, DeviceError)) else "internal"
        if reason == "internal" and self._is_shut_down():
            # After a shutdown of ROS every call fails, which is not worth reporting.
            return
        text = describe_error(error)
        camera.statistics.count_rejected(reason, text)
        self._log.warning(f"frame{_of_camera(camera)} dropped: {text}", throttle_duration_sec=LOG_PERIOD)


def _of_camera(camera: Camera) -> str:
    return f" of camera {camera.name}" if camera.name else ""
