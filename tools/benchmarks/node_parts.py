"""Parts of node.py: camera and listener, run in processes of their own, and a node with a clock."""

from __future__ import annotations

import argparse
import json
import statistics
import struct
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header

from mtl_perception.camera.model import Calibration, CameraModel
from mtl_perception.messages.encode import camera_info_fields, image_fields
from mtl_perception.messages.topics import CAMERA_INFO, IMAGE, OUTPUT_TOPICS
from mtl_perception.ros import camera as camera_module
from mtl_perception.ros.convert import MESSAGE_TYPES, to_message
from mtl_perception.ros.environment import initialize
from mtl_perception.ros.node import PerceptionNode

FOUR = ("segmentation/image", "segmentation/labels", "depth/image", "points")
FIVE = ("segmentation/image", "segmentation/overlay", "segmentation/labels", "depth/image", "points")
"""The five large ones of the usual outputs."""


def kind_of(output: str) -> str:
    """ROS type name of an output."""
    return next(row.type for row in OUTPUT_TOPICS if row.name == output)


# The camera and the listener.


def run_camera(args: argparse.Namespace) -> None:
    """Publish pictures of noise, stamped now, on all topics at once, and leave the stamps in a file."""
    initialize(["camera"])
    node = rclpy.create_node("camera")
    width, height = map(int, args.size.split("x"))
    picture = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    info = camera_info_fields(Calibration.of(CameraModel(width, height, 0.58 * width, 0.58 * width, width / 2, height / 2)))
    quality = QoSProfile(depth=5, reliability=ReliabilityPolicy.RELIABLE)
    images = {topic: node.create_publisher(Image, topic, quality) for topic in args.topics}
    infos = [node.create_publisher(CameraInfo, f"{topic.rpartition('/')[0]}/camera_info", quality) for topic in args.topics]
    while any(publisher.get_subscription_count() < 1 for publisher in (*images.values(), *infos)):
        time.sleep(0.05)
    # The other side has yet to see us, and to adapt its reliability.
    time.sleep(1.5)
    sent: dict[str, list[int]] = {topic: [] for topic in args.topics}
    due = time.monotonic()
    for _ in range(args.count):
        if args.on_demand:
            if not sys.stdin.readline():
                break
        else:
            time.sleep(max(0.0, due - time.monotonic()))
            due += 1 / args.rate
        for (topic, publisher), calibrations in zip(images.items(), infos, strict=True):
            stamp = time.time_ns()
            header = Header(frame_id="camera")
            header.stamp.sec, header.stamp.nanosec = divmod(stamp, 10**9)
            calibrations.publish(to_message(CAMERA_INFO, info, header))
            publisher.publish(to_message(IMAGE, image_fields(picture, "bgr8"), header))
            sent[topic].append(stamp)
    if not args.on_demand:
        # For the last one to be received before its publisher is gone.
        time.sleep(1.0)
    if args.out:
        args.out.write_text(json.dumps(sent))


def run_listener(args: argparse.Namespace) -> None:
    """Subscribe best effort, take messages undecoded, and leave each one's stamp and time of arrival in a file."""
    initialize(["listener"])
    node = rclpy.create_node("listener")
    heard: dict[str, list[tuple[int, int]]] = {topic: [] for topic in args.topics}
    quality = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)

    def keep(topic: str) -> Callable[[bytes], None]:
        def on_message(data: bytes) -> None:
            # The header comes first in all of these messages, after four bytes that tell the encoding.
            seconds, nanoseconds = struct.unpack_from("<iI", data, 4)
            heard[topic].append((seconds * 10**9 + nanoseconds, time.time_ns()))

        return on_message

    for topic, kind in zip(args.topics, args.kinds, strict=True):
        node.create_subscription(MESSAGE_TYPES[kind], topic, keep(topic), quality, raw=True)
    try:
        rclpy.spin(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        args.out.write_text(json.dumps(heard))


def losses(sent: list[int], heard: list[tuple[int, int]]) -> dict[str, Any]:
    """Counts and latencies of a topic: stamps that were sent, stamps and arrivals that were heard."""
    arrivals = {stamp: arrival for stamp, arrival in heard if stamp in set(sent)}
    latencies = sorted((arrival - stamp) / 1e6 for stamp, arrival in arrivals.items())
    row: dict[str, Any] = {"sent": len(sent), "lost": len(sent) - len(arrivals)}
    if not latencies:
        return {**row, "median_ms": "-", "p99_ms": "-", "p99_over_median": "-"}
    median, high = statistics.median(latencies), latencies[min(int(0.99 * len(latencies)), len(latencies) - 1)]
    row |= {"median_ms": round(median, 1), "p99_ms": round(high, 1), "p99_over_median": round(high / median, 2)}
    return {**row, "max_ms": round(latencies[-1], 1)}


# The node with a clock.


@dataclass
class FrameTimes:
    """When a frame passed which point, seconds by one clock; and how long single calls took."""

    received: float = 0.0
    called: float = 0.0
    began: float = 0.0
    ended: float = 0.0
    published: float = 0.0
    encoding: float = 0.0
    publishing: float = 0.0
    result: Any = field(default=None, repr=False)

    def parts(self) -> dict[str, float]:
        """Seconds of each part."""
        pipeline, total = self.ended - self.began, self.published - self.received
        return {
            "reception to callback (executor, conversion)": self.called - self.received,
            "callback to pipeline (hand-over, decoding)": self.began - self.called,
            "pipeline": pipeline,
            "encoding": self.encoding,
            "filling, and all else after the pipeline": self.published - self.ended - self.encoding - self.publishing,
            "publishing": self.publishing,
            "total: reception to last output published": total,
            "node's share: all but pipeline": total - pipeline,
        }


def timed_node() -> Any:
    """A perception node, not yet configured, that notes the times of its frames in `frames`."""

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
            self.pipeline = TimedPipeline(self.pipeline, self)
            camera_module.OUTPUT_TOPICS = tuple(replace(row, encode=self.timed_encode(row.encode)) for row in OUTPUT_TOPICS)
            camera = self.cameras[0]
            for publisher in camera._outputs.values():
                publisher.publish = self.timed_publish(publisher.publish)
            count = camera.statistics.count_processed

            def count_processed(latency: float, age: float) -> None:
                self.now.published = time.time()
                count(latency, age)
                self.frames.append(self.now)

            camera.statistics.count_processed = count_processed
            return super().on_activate(state)

        def timed_encode(self, encode: Any) -> Any:
            return lambda *args: add_time(self, "encoding", lambda: encode(*args))

        def timed_publish(self, publish: Any) -> Any:
            return lambda message: add_time(self, "publishing", lambda: publish(message))

    return TimedNode()


def add_time(node: Any, part: str, call: Callable[[], Any]) -> Any:
    started = time.perf_counter()
    try:
        return call()
    finally:
        setattr(node.now, part, getattr(node.now, part) + time.perf_counter() - started)


class TimedPipeline:
    """Stands before the pipeline and notes when it is called."""

    def __init__(self, pipeline: Any, node: Any) -> None:
        self._pipeline, self._node = pipeline, node

    def __call__(self, *args: Any) -> Any:
        self._node.now.began = time.time()
        result = self._pipeline(*args)
        self._node.now.ended = time.time()
        self._node.now.result = result
        return result

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pipeline, name)


def publish_again(node: Any, outputs: list[str]) -> dict[str, float]:
    """Seconds to fill and publish the last frame's messages, their fields made before, in a thread as the node's: the floor."""
    camera, result = node.cameras[0], node.now.result
    # What is noted now belongs to no frame.
    node.now = FrameTimes(result=result)
    rows = [row for row in OUTPUT_TOPICS if row.name in outputs]
    fields = {row: row.encode(node.encoder, result) for row in rows}
    times: dict[str, float] = {}

    def publish() -> None:
        for row in rows:
            started = time.perf_counter()
            camera._outputs[row.name].publish(to_message(row.type, fields[row], Header()))
            times[row.name] = time.perf_counter() - started

    thread = threading.Thread(target=publish)
    thread.start()
    thread.join()
    return {**times, "all": sum(times.values())}


def main() -> None:
    """Be a camera or a listener."""
    parser = argparse.ArgumentParser(description=__doc__)
    roles = parser.add_subparsers(dest="role", required=True)
    camera = roles.add_parser("camera")
    camera.add_argument("--size", required=True)
    camera.add_argument("--rate", type=float, default=10.0)
    camera.add_argument("--count", type=int, required=True)
    camera.add_argument("--on-demand", action="store_true", help="a picture for each line on standard input")
    listener = roles.add_parser("listen")
    listener.add_argument("--kinds", nargs="+", required=True)
    for role in (camera, listener):
        role.add_argument("--topics", nargs="+", required=True)
        role.add_argument("--out", type=Path)
    args = parser.parse_args()
    (run_camera if args.role == "camera" else run_listener)(args)


if __name__ == "__main__":
    main()
