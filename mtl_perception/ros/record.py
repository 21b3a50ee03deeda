"""The command `record`: record topics into an mcap bag without `ros2 bag`."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import sys
import time
from pathlib import Path

import rclpy
from rclpy.clock import Clock, ClockType
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.qos import DurabilityPolicy

from mtl_perception.errors import SourceError
from mtl_perception.messages.topics import NODE_NAME, OUTPUT_TOPICS
from mtl_perception.ros.environment import initialize
from mtl_perception.ros.parameters import creation_errors
from mtl_perception.ros.qos import matching_profile
from mtl_perception.ros.signals import Answer, StopSignals
from mtl_perception.sources.bag.writer import BagWriter

DEFAULT_TOPICS = ("/image", "/camera_info", f"/{NODE_NAME}/", "/diagnostics", "/tf_static")
REDUNDANT_SUFFIXES = tuple(f"/{row.name}" for row in OUTPUT_TOPICS if row.redundant)
"""Ends of the topics that a prefix does not select."""
DISCOVERY_PERIOD = 0.2
"""Seconds between two checks for new topics."""
FLUSH_PERIOD = 1.0
"""Seconds of small messages that a killed recorder loses at most."""
QUEUE_SIZE = 50


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "topics", nargs="*", metavar="TOPIC", help="topic, or a prefix that ends in /; default: outputs and inputs of the node"
    )
    parser.add_argument("--out", required=True, type=Path, metavar="BAG", help="output: NAME.mcap, or a bag folder")
    parser.add_argument("--force", action="store_true", help="overwrite an existing bag")
    parser.add_argument(
        "--start-on",
        default="",
        metavar="TOPIC",
        help="start with the first message on TOPIC; of the other topics, the latest message before it is included, "
        "and all of transient local ones",
    )


def run(args: argparse.Namespace) -> int:
    """Record until SIGINT or SIGTERM."""
    signals = StopSignals(Answer.INTERRUPT)
    count = 0
    try:
        initialize([sys.argv[0], *args.ros_arguments])
        with BagWriter(args.out, force=args.force) as writer:
            recorder = Recorder(writer, args.topics or DEFAULT_TOPICS, args.start_on)
            executor = SingleThreadedExecutor()
            executor.add_node(recorder.node)
            # From here on a signal ends spinning instead of interrupting a write.
            signals.answer = Answer.NONE
            with contextlib.suppress(ExternalShutdownException):
                executor.spin()
            count = writer.count
    except KeyboardInterrupt:
        pass
    finally:
        signals.ignore()
        rclpy.try_shutdown()
    print(f"{count} messages -> {args.out}")
    return 0


class Recorder:
    """Record serialized messages of topics as they appear, with QoS that matches their publishers.

    Args:
        writer: An open BagWriter.
        topics: Full names, or prefixes that end in a slash.
        start_on: Topic whose first message starts the recording; empty: it starts at once.
    """

    def __init__(self, writer: BagWriter, topics: tuple[str, ...] | list[str], start_on: str = "") -> None:
        self._writer = writer
        self._start_on = start_on
        # Class names, transforms and calibration often arrive before the first image and only once.
        self._earlier: dict[str, tuple[str, list[bytes]]] = {}
        self._topics = tuple(topics)
        self._subscribed: set[str] = set()
        with creation_errors():
            self.node = rclpy.create_node("recorder")
        clock = Clock(clock_type=ClockType.STEADY_TIME)
        self.node.create_timer(DISCOVERY_PERIOD, self._discover, clock=clock)
        self.node.create_timer(FLUSH_PERIOD, writer.flush, clock=clock)

    def _is_selected(self, topic: str) -> bool:
        if topic in self._topics:
            return True
        prefixes = tuple(name for name in self._topics if name.endswith("/"))
        return topic.startswith(prefixes) and not topic.endswith(REDUNDANT_SUFFIXES)

    def _discover(self) -> None:
        for topic, kinds in self.node.get_topic_names_and_types():
            if topic not in self._subscribed and self._is_selected(topic):
                self._subscribe(topic, kinds[0])

    def _subscribe(self, topic: str, kind: str) -> None:
        profile = matching_profile(self.node.get_publishers_info_by_topic(topic), QUEUE_SIZE, "auto")
        if profile is None:  # It has no publishers yet.
            return
        self._subscribed.add(topic)
        package, folder, name = kind.split("/")
        try:
            message_class = getattr(importlib.import_module(f"{package}.{folder}"), name)
            latched = profile.durability == DurabilityPolicy.TRANSIENT_LOCAL
            self._writer.add_topic(topic, kind, latched=latched)
        except (ImportError, AttributeError, SourceError) as error:
            self.node.get_logger().warning(f"cannot record {topic}: {error}")
            return
        self.node.create_subscription(
            message_class, topic, lambda data: self._write(topic, kind, data, latched), profile, raw=True
        )
        self.node.get_logger().info(f"recording {topic}")

    def _write(self, topic: str, kind: str, data: bytes, latched: bool) -> None:
        if self._start_on and topic != self._start_on:
            _, earlier = self._earlier.setdefault(topic, (kind, []))
            if not latched:
                # Several nodes may have published different parts of a latched topic, such as /tf_static.
                earlier.clear()
            earlier.append(data)
            return
        self._start_on, now = "", time.time_ns()
        for name, (earlier_kind, messages) in self._earlier.items():
            for message in messages:
                self._writer.write(name, earlier_kind, message, now)
        self._earlier.clear()
        self._writer.write(topic, kind, data, now)
