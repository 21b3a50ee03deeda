"""What it costs a picture that cameras and devices are watched: the time of each watching part, and its share of the picture's.

    python -m tools.benchmarks.monitoring --size 1242x375

The parts are those that every good picture goes through and would not, if faults were nobody's concern: what comes is compared
with what came before, results are looked at for numbers, the device's record is kept, frames are counted. All are timed in turn
with the pipeline, in one process: medians, and medians of the shares of each turn. What the node does by timers, pictures or
none, is given as a share of a core's time. Exit code 1 if the sum is above 1 %.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

os.environ["ROS_DOMAIN_ID"] = os.environ.get("MEASURE_DOMAIN", str(101 + os.getpid() % 100))
os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"

import numpy as np
import rclpy
from sensor_msgs.msg import Image

from mtl_perception.camera.model import CameraModel
from mtl_perception.inference.machine import device_name
from mtl_perception.messages.encode import image_fields
from mtl_perception.messages.topics import IMAGE
from mtl_perception.network.description import KITTI_CAMERA
from mtl_perception.ros.camera import Camera
from mtl_perception.ros.camera_input import LOOK_PERIOD
from mtl_perception.ros.convert import to_message
from mtl_perception.ros.environment import initialize
from mtl_perception.ros.health import CHECK_PERIOD
from mtl_perception.ros.node import PerceptionNode
from mtl_perception.runtime.recovery import Recovery
from mtl_perception.types import Frame, Result

PERCENT = 1.0
CALLS = 20
"""Of a part in a turn: it takes microseconds."""


class Ready:
    """Stands in for the pipeline: what is left is the time of whoever calls it."""

    def __init__(self, pipeline: Any, result: Result) -> None:
        self.config, self.device, self.precision, self._result = pipeline.config, pipeline.device, pipeline.precision, result

    def __call__(self, frame: Frame, outputs: Any) -> Result:
        return self._result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", default="1242x375", help="of the pictures; default 1242x375")
    parser.add_argument("--weights", default="street", help="of the node; default street")
    parser.add_argument("--turns", type=int, default=40, help="default 40")
    args = parser.parse_args()
    width, height = map(int, args.size.split("x"))
    initialize(["measure", "--ros-args", "-p", f"weights:={args.weights}"])
    node = PerceptionNode([])
    try:
        node.trigger_configure()
        node.trigger_activate()
        print(f"pictures of {width} x {height} on {device_name(node.pipeline.device)}; medians of {args.turns} turns\n")
        return report(*measure(node, width, height, args.turns), by_timers(node, args.turns))
    finally:
        node.close()
        node.destroy_node()
        rclpy.try_shutdown()


def measure(node: PerceptionNode, width: int, height: int, turns: int) -> tuple[list[float], dict[str, list[float]]]:
    """Seconds of the pipeline, and of each part for a picture, turn by turn."""
    rng = np.random.default_rng(0)
    camera_model = CameraModel(**{**KITTI_CAMERA, "width": width, "height": height})
    frames = [
        Frame(rng.integers(0, 256, (height, width, 3), dtype=np.uint8), camera_model, i * 10**8, "camera") for i in range(CALLS)
    ]
    messages = [to_message(IMAGE, image_fields(frame.image, "rgb8"), header(node, frame)) for frame in frames]
    pipeline, camera = node.pipeline, Camera(node)
    outputs = {"labels", "depth", "cloud"}
    result = pipeline(frames[0], outputs)
    ready, recovery = Ready(pipeline, result), Recovery(lambda: "retry", print, node.get_logger())

    def compare(i: int) -> None:
        camera.watch.saw(camera._arrival(messages[i]))

    def keep_record(i: int) -> None:
        recovery.run(ready, [frames[i]], [outputs])

    def count(i: int) -> None:
        camera.statistics.count_received()
        camera.statistics.count_processed(0.1, 0.1)

    parts = {
        "the picture beside the one before (stamps, bytes, clock, size)": compare,
        "the result's numbers, the device's record": keep_record,
        "counts and latencies": count,
    }
    whole: list[float] = []
    found: dict[str, list[float]] = {name: [] for name in parts}
    for turn in range(turns):
        whole.append(seconds(lambda turn=turn: pipeline(frames[turn % CALLS], outputs)))
        for name, part in parts.items():
            found[name].append(seconds(lambda part=part: [part(i) for i in range(CALLS)]) / CALLS)
    return whole, found


def by_timers(node: PerceptionNode, turns: int) -> dict[str, float]:
    """Percent of a core's time that goes into what timers do."""
    camera = node.cameras[0]
    works = {
        f"diagnostics, looked for news every {CHECK_PERIOD:g} s": (node._publish_diagnostics, CHECK_PERIOD),
        f"publishers and their offers, every {LOOK_PERIOD:g} s": (camera.input._look, LOOK_PERIOD),
    }
    return {
        name: 100 * statistics.median(seconds(work) for _ in range(turns)) / period for name, (work, period) in works.items()
    }


def header(node: PerceptionNode, frame: Frame) -> Any:
    """A picture's, of the present but for a few milliseconds."""
    message = Image().header
    message.stamp = node.get_clock().now().to_msg()
    message.stamp.nanosec = message.stamp.nanosec // 10**6 * 10**6 + frame.stamp_ns // 10**8
    message.frame_id = frame.frame_id
    return message


def seconds(work: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def report(whole: list[float], parts: dict[str, list[float]], timers: dict[str, float]) -> int:
    """A table for docs/benchmarks.md."""
    print("| part | a picture | of the pipeline's time |\n|---|---|---|")
    print(f"| labels, depth and cloud | {1e3 * statistics.median(whole):.0f} ms | |")
    total = 0.0
    for name, times in parts.items():
        share = 100 * statistics.median(part / all_ for part, all_ in zip(times, whole, strict=True))
        total += share
        print(f"| {name} | {1e6 * statistics.median(times):.1f} us | {share:.4f} % |")
    for name, share in timers.items():
        total += share
        print(f"| {name} | | {share:.4f} % of a core |")
    print(f"| together | | {total:.3f} % |")
    return 0 if total < PERCENT else 1


if __name__ == "__main__":
    sys.exit(main())
