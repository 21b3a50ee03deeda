"""Camera and listener processes of the node benchmark."""

from __future__ import annotations

import argparse
import json
import statistics
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

from mtl_perception.benchmark.inputs import example_camera
from mtl_perception.camera.model import Calibration
from mtl_perception.messages.encode import camera_info_fields, image_fields
from mtl_perception.messages.topics import CAMERA_INFO, IMAGE
from mtl_perception.ros.convert import MESSAGE_TYPES, to_message
from mtl_perception.ros.environment import initialize


def run_camera(args: argparse.Namespace) -> None:
    """Publish noise images with current stamps on all topics, and write the stamps to a file."""
    initialize(["camera"])
    node = rclpy.create_node("camera")
    width, height = map(int, args.size.split("x"))
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    info = camera_info_fields(Calibration.of(example_camera(width, height)))
    qos = QoSProfile(depth=5, reliability=ReliabilityPolicy.RELIABLE)
    images = {topic: node.create_publisher(Image, topic, qos) for topic in args.topics}
    infos = [node.create_publisher(CameraInfo, f"{topic.rpartition('/')[0]}/camera_info", qos) for topic in args.topics]
    while any(publisher.get_subscription_count() < 1 for publisher in (*images.values(), *infos)):
        time.sleep(0.05)
    # The node still has to discover these publishers and to match their reliability.
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
            publisher.publish(to_message(IMAGE, image_fields(image, "bgr8"), header))
            sent[topic].append(stamp)
    if not args.on_demand:
        # The last image must arrive before its publisher is destroyed.
        time.sleep(1.0)
    if args.out:
        args.out.write_text(json.dumps(sent))


def run_listener(args: argparse.Namespace) -> None:
    """Subscribe best effort without deserialization, and write stamp and arrival time of each message to a file."""
    initialize(["listener"])
    node = rclpy.create_node("listener")
    received: dict[str, list[tuple[int, int]]] = {topic: [] for topic in args.topics}
    qos = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)

    def recorder(topic: str) -> Callable[[bytes], None]:
        def on_message(data: bytes) -> None:
            # All of these messages start with their header, after four bytes of CDR encapsulation.
            seconds, nanoseconds = struct.unpack_from("<iI", data, 4)
            received[topic].append((seconds * 10**9 + nanoseconds, time.time_ns()))

        return on_message

    for topic, kind in zip(args.topics, args.kinds, strict=True):
        node.create_subscription(MESSAGE_TYPES[kind], topic, recorder(topic), qos, raw=True)
    try:
        rclpy.spin(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        args.out.write_text(json.dumps(received))


def delivery(sent: list[int], received: list[tuple[int, int]]) -> dict[str, Any]:
    """Return counts and latencies of a topic.

    Args:
        sent: Stamps of the published images, nanoseconds.
        received: Stamp and arrival time of each received message, nanoseconds.
    """
    stamps = set(sent)
    arrivals = {stamp: arrival for stamp, arrival in received if stamp in stamps}
    latencies = sorted((arrival - stamp) / 1e6 for stamp, arrival in arrivals.items())
    row: dict[str, Any] = {"sent": len(sent), "lost": len(sent) - len(arrivals)}
    if not latencies:
        return {**row, "median_ms": "-", "p99_ms": "-", "p99_over_median": "-"}
    median, high = statistics.median(latencies), latencies[min(int(0.99 * len(latencies)), len(latencies) - 1)]
    row |= {"median_ms": round(median, 1), "p99_ms": round(high, 1), "p99_over_median": round(high / median, 2)}
    return {**row, "max_ms": round(latencies[-1], 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    roles = parser.add_subparsers(dest="role", required=True)
    camera = roles.add_parser("camera")
    camera.add_argument("--size", required=True)
    camera.add_argument("--rate", type=float, default=10.0)
    camera.add_argument("--count", type=int, required=True)
    camera.add_argument("--on-demand", action="store_true", help="publish one image per line on standard input")
    listener = roles.add_parser("listen")
    listener.add_argument("--kinds", nargs="+", required=True)
    for role in (camera, listener):
        role.add_argument("--topics", nargs="+", required=True)
        role.add_argument("--out", type=Path)
    args = parser.parse_args()
    (run_camera if args.role == "camera" else run_listener)(args)


if __name__ == "__main__":
    main()
