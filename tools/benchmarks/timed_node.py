"""A perception node that records the times of its frames."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from mtl_perception.messages.topics import OUTPUT_TOPICS
from mtl_perception.ros import camera as camera_module
from mtl_perception.ros.convert import to_message
from mtl_perception.ros.node import PerceptionNode


@dataclass
class FrameTimes:
    """Times of one frame, seconds of the system clock, and durations of encoding and publishing, seconds.

    Attributes:
        received: Reception by the middleware.
        called: Start of the subscription's callback.
        began: Start of the pipeline.
        ended: End of the pipeline.
        published: End of the last publication.
        encoding: Duration of all encodings.
        publishing: Duration of all publications.
        result: Result of the pipeline.
    """

    received: float = 0.0
    called: float = 0.0
    began: float = 0.0
    ended: float = 0.0
    published: float = 0.0
    encoding: float = 0.0
    publishing: float = 0.0
    result: Any = field(default=None, repr=False)

    def parts(self) -> dict[str, float]:
        """Return the duration of each part, seconds."""
        pipeline, total = self.ended - self.began, self.published - self.received
        return {
            "reception to callback (executor, conversion)": self.called - self.received,
            "callback to pipeline (mailbox, decoding)": self.began - self.called,
            "pipeline": pipeline,
            "encoding": self.encoding,
            "filling messages and the rest after the pipeline": self.published - self.ended - self.encoding - self.publishing,
            "publishing": self.publishing,
            "total: reception to last publication": total,
            "node overhead: total without pipeline": total - pipeline,
        }


def timed_node() -> Any:
    """Return a node, not yet configured, that appends the FrameTimes of its frames to `frames`."""

    class TimedNode(PerceptionNode):
        def __init__(self) -> None:
            self.frames: list[FrameTimes] = []
            self.now = FrameTimes()
            super().__init__()

        def create_subscription(self, kind: Any, topic: str, callback: Any, *args: Any, **options: Any) -> Any:
            if kind in (Image, CompressedImage):
                inner = callback

                def callback(message: Any, info: dict[str, int]) -> None:
                    self.now = FrameTimes(called=time.time(), received=info["received_timestamp"] / 1e9)
                    inner(message)

            return super().create_subscription(kind, topic, callback, *args, **options)

        def on_activate(self, state: Any) -> Any:
            self.session.pipeline = TimedPipeline(self.session.pipeline, self)
            camera_module.OUTPUT_TOPICS = tuple(replace(row, encode=self.timed_encode(row.encode)) for row in OUTPUT_TOPICS)
            camera = self.session.cameras[0]
            for publisher in camera._publishers.values():
                publisher.publish = self.timed_publish(publisher.publish)
            count = camera.statistics.count_processed

            def count_processed(latency: float, age: float) -> None:
                self.now.published = time.time()
                count(latency, age)
                self.frames.append(self.now)

            camera.statistics.count_processed = count_processed
            return super().on_activate(state)

        def timed_encode(self, encode: Any) -> Any:
            return lambda *args: _add_duration(self, "encoding", lambda: encode(*args))

        def timed_publish(self, publish: Any) -> Any:
            return lambda message: _add_duration(self, "publishing", lambda: publish(message))

    return TimedNode()


def _add_duration(node: Any, part: str, call: Callable[[], Any]) -> Any:
    started = time.perf_counter()
    try:
        return call()
    finally:
        setattr(node.now, part, getattr(node.now, part) + time.perf_counter() - started)


class TimedPipeline:
    """Wrapper of the pipeline that records start and end of each call."""

    def __init__(self, pipeline: Any, node: Any) -> None:
        self._pipeline, self._node = pipeline, node

    def batch(self, *args: Any) -> Any:
        self._node.now.began = time.time()
        results = self._pipeline.batch(*args)
        self._node.now.ended = time.time()
        self._node.now.result = results[0]
        return results

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pipeline, name)


def republish(node: Any, outputs: list[str]) -> dict[str, float]:
    """Fill and publish the messages of the last frame again, in a thread as in the node, from fields encoded before.

    Returns:
        Duration by output, seconds, and their sum as "all": the lower bound of the node's overhead.
    """
    camera, result = node.session.cameras[0], node.now.result
    # These publications must not count for the last frame.
    node.now = FrameTimes(result=result)
    rows = [row for row in OUTPUT_TOPICS if row.name in outputs]
    fields = {row: row.encode(node.session.encoder, result) for row in rows}
    times: dict[str, float] = {}

    def publish() -> None:
        for row in rows:
            started = time.perf_counter()
            camera._publishers[row.name].publish(to_message(row.type, fields[row], Header()))
            times[row.name] = time.perf_counter() - started

    thread = threading.Thread(target=publish)
    thread.start()
    thread.join()
    return {**times, "all": sum(times.values())}
