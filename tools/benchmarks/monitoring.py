"""Cost of monitoring: time that the checks for faults of camera and device take per image, relative to the pipeline.

    python -m tools.benchmarks.monitoring --size 1242x375

Covers what every valid image passes through only because faults are possible: comparison with the previous image, the check for
non-finite outputs, the record of device errors, and counts. All parts are timed interleaved with the pipeline in one process;
reported are medians, and medians of the ratios of each round. Periodic work of the node's timers is reported as a fraction of
one core. The exit code is 1 if the sum exceeds 1 %.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from typing import Any

os.environ["ROS_DOMAIN_ID"] = os.environ.get("MEASURE_DOMAIN", str(101 + os.getpid() % 100))
os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"

import numpy as np
import rclpy
from sensor_msgs.msg import Image

from mtl_perception.benchmark.timing import elapsed
from mtl_perception.camera.model import CameraModel
from mtl_perception.inference.machine import device_name
from mtl_perception.messages.encode import image_fields
from mtl_perception.messages.topics import IMAGE
from mtl_perception.network.description import KITTI_CAMERA
from mtl_perception.result import Result
from mtl_perception.ros.camera import Camera
from mtl_perception.ros.convert import to_message
from mtl_perception.ros.diagnostics import CHECK_PERIOD
from mtl_perception.ros.environment import initialize
from mtl_perception.ros.node import PerceptionNode
from mtl_perception.ros.subscriptions import MATCH_PERIOD
from mtl_perception.runtime.recovery import Recovery
from mtl_perception.types import Frame

MAX_PERCENT = 1.0
CALLS = 20
"""Calls of a part per round, because each takes only microseconds."""


class ConstantPipeline:
    """Replacement of the pipeline that returns a result at once, which leaves the time of its caller."""

    def __init__(self, pipeline: Any, result: Result) -> None:
        self.config, self.device, self.precision, self._result = pipeline.config, pipeline.device, pipeline.precision, result

    def batch(self, frames: Any, outputs: Any) -> list[Result]:
        return [self._result] * len(frames)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", default="1242x375", help="image size (default: %(default)s)")
    parser.add_argument("--weights", default="street", help="weights of the node (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=40, help="measured rounds (default: %(default)s)")
    args = parser.parse_args()
    width, height = map(int, args.size.split("x"))
    initialize(["measure", "--ros-args", "-p", f"weights:={args.weights}"])
    node = PerceptionNode([])
    try:
        node.trigger_configure()
        node.trigger_activate()
        print(f"{width} x {height} images on {device_name(node.session.pipeline.device)}; medians of {args.rounds} rounds\n")
        return report(*measure(node, width, height, args.rounds), timer_load(node, args.rounds))
    finally:
        node.close()
        node.destroy_node()
        rclpy.try_shutdown()


def measure(node: PerceptionNode, width: int, height: int, rounds: int) -> tuple[list[float], dict[str, list[float]]]:
    """Return the time of the pipeline and of each part per image, seconds, for each round."""
    rng = np.random.default_rng(0)
    camera_model = CameraModel(**{**KITTI_CAMERA, "width": width, "height": height})
    frames = [
        Frame(rng.integers(0, 256, (height, width, 3), dtype=np.uint8), camera_model, i * 10**8, "camera") for i in range(CALLS)
    ]
    messages = [to_message(IMAGE, image_fields(frame.image, "rgb8"), header(node, frame)) for frame in frames]
    pipeline, camera = node.session.pipeline, Camera(node)
    outputs = {"labels", "depth", "cloud"}
    result = pipeline(frames[0], outputs)
    ready, recovery = ConstantPipeline(pipeline, result), Recovery("retry", print, node.get_logger())

    def compare(i: int) -> None:
        camera.monitor.observe(camera._arrival(messages[i]))

    def keep_record(i: int) -> None:
        recovery.run(ready, [frames[i]], [outputs])

    def count(i: int) -> None:
        camera.statistics.count_received()
        camera.statistics.count_processed(0.1, 0.1)

    parts = {
        "comparison with the previous image (stamp, data, clock, size)": compare,
        "non-finite outputs, device errors": keep_record,
        "counts and latencies": count,
    }
    whole: list[float] = []
    found: dict[str, list[float]] = {name: [] for name in parts}
    for index in range(rounds):
        whole.append(elapsed(lambda index=index: pipeline(frames[index % CALLS], outputs)))
        for name, part in parts.items():
            found[name].append(elapsed(lambda part=part: [part(i) for i in range(CALLS)]) / CALLS)
    return whole, found


def timer_load(node: PerceptionNode, rounds: int) -> dict[str, float]:
    """Return the time of periodic work in percent of one core."""
    camera = node.session.cameras[0]
    works = {
        f"diagnostics, checked for changes every {CHECK_PERIOD:g} s": (node._diagnostics.update, CHECK_PERIOD),
        f"publishers and their QoS, every {MATCH_PERIOD:g} s": (camera.subscriptions.update, MATCH_PERIOD),
    }
    return {
        name: 100 * statistics.median(elapsed(work) for _ in range(rounds)) / period for name, (work, period) in works.items()
    }


def header(node: PerceptionNode, frame: Frame) -> Any:
    """Return the header of an image with a stamp of now, up to a few milliseconds."""
    message = Image().header
    message.stamp = node.get_clock().now().to_msg()
    message.stamp.nanosec = message.stamp.nanosec // 10**6 * 10**6 + frame.stamp_ns // 10**8
    message.frame_id = frame.frame_id
    return message


def report(whole: list[float], parts: dict[str, list[float]], timers: dict[str, float]) -> int:
    """Print the table of docs/benchmarks.md and return the exit code."""
    print("| part | per image | of the pipeline's time |\n|---|---|---|")
    print(f"| labels, depth and cloud | {1e3 * statistics.median(whole):.0f} ms | |")
    total = 0.0
    for name, times in parts.items():
        share = 100 * statistics.median(part / all_ for part, all_ in zip(times, whole, strict=True))
        total += share
        print(f"| {name} | {1e6 * statistics.median(times):.1f} us | {share:.4f} % |")
    for name, share in timers.items():
        total += share
        print(f"| {name} | | {share:.4f} % of a core |")
    print(f"| total | | {total:.3f} % |")
    return 0 if total < MAX_PERCENT else 1


if __name__ == "__main__":
    sys.exit(main())
