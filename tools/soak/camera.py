"""Camera of a soak run: publishes small images at 30 Hz with the faults of real cameras, reproducible by seed.

The frame_id of every image holds its number and the time of publication. The node copies it to all outputs, which identifies
the image of an output even while stamps stand still or go back. Each image is recorded in the journal before it is published.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

SIZES = ((160, 96), (96, 64), (200, 120))
"""Image sizes, width and height; the first one is the usual. Few, because the network is compiled for each."""
ENCODINGS = {"rgb8": (3, 1), "bgr8": (3, 1), "mono8": (1, 1), "rgba8": (4, 1), "mono16": (1, 2), "yuv422_yuy2": (2, 1)}
"""Channels and bytes per channel of each encoding; the first one is the usual."""
MALFORMED = {"short": "data_length", "long": "data_length", "step": "step", "encoding": "encoding", "empty": "size"}
"""Ways in which an image is malformed, and the reason with which the node must reject it."""
CALIBRATIONS = ("good", "uncalibrated", "nan", "none")
JOURNAL = ("number", "sent_ns", "stamp_ns", "width", "height", "encoding", "malformed", "calibration", "run")
QUEUE_SIZE = 100
"""Queue size of the publishers: a burst fits, so the camera drops nothing."""
MEAN_SECONDS = {
    "pause": 60.0,
    "burst": 30.0,
    "freeze": 45.0,
    "back": 60.0,
    "size": 40.0,
    "encoding": 40.0,
    "malformed": 5.0,
    "streak": 90.0,
    "calibration": 30.0,
    "shutdown": 300.0,
    "kill": 400.0,
}
"""Mean time between two faults of a kind."""


@dataclass(frozen=True)
class ImagePlan:
    """One image to publish.

    Attributes:
        wait: Seconds after the previous image.
        stamp: "now", "same" as that of the previous image, or "back": half a second in the past.
        size: Width and height, pixels.
        encoding: A key of ENCODINGS.
        malformed: A key of MALFORMED, or "" for a valid image.
        calibration: The CameraInfo that accompanies it, one of CALIBRATIONS.
        exit: What the process does after this image: "" continues, "shutdown" exits normally, "kill" sends itself SIGKILL.
    """

    wait: float
    stamp: str = "now"
    size: tuple[int, int] = SIZES[0]
    encoding: str = next(iter(ENCODINGS))
    malformed: str = ""
    calibration: str = CALIBRATIONS[0]
    exit: str = ""


def plan_images(seed: int, rate: float, faults: float) -> Iterator[ImagePlan]:
    """Yield the images to publish, without end.

    Args:
        seed: Seed of all faults.
        rate: Image rate without faults, Hz.
        faults: Frequency of the faults relative to MEAN_SECONDS.
    """
    rng = random.Random(seed)
    left = dict.fromkeys(MEAN_SECONDS, 0)
    size, encoding, calibration = SIZES[0], next(iter(ENCODINGS)), CALIBRATIONS[0]
    while True:
        begun = {kind for kind, mean in MEAN_SECONDS.items() if rng.random() < faults / (mean * rate)}
        wait = rng.uniform(0.2, 4.0) if "pause" in begun else 1 / rate
        for kind, longest in (("burst", 20), ("freeze", 30), ("back", 3), ("size", 150), ("encoding", 150), ("streak", 60)):
            left[kind] = rng.randint(1, longest) if kind in begun else max(left[kind] - 1, 0)
        left["calibration"] = rng.randint(10, 100) if "calibration" in begun else max(left["calibration"] - 1, 0)
        size = rng.choice(SIZES[1:]) if "size" in begun else (size if left["size"] else SIZES[0])
        encoding = rng.choice(list(ENCODINGS)) if "encoding" in begun else (encoding if left["encoding"] else "rgb8")
        calibration = (
            rng.choice(CALIBRATIONS[1:]) if "calibration" in begun else (calibration if left["calibration"] else "good")
        )
        yield ImagePlan(
            wait=0.0 if left["burst"] else wait,
            stamp="same" if left["freeze"] else ("back" if left["back"] else "now"),
            size=size,
            encoding=encoding,
            malformed=rng.choice(list(MALFORMED)) if "malformed" in begun or left["streak"] else "",
            calibration=calibration,
            exit="kill" if "kill" in begun else ("shutdown" if "shutdown" in begun else ""),
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--journal", type=Path, required=True)
    parser.add_argument("--first", type=int, required=True, help="number of the first image")
    parser.add_argument("--run", type=int, required=True, help="number of earlier starts of the camera")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--faults", type=float, required=True)
    args = parser.parse_args()
    camera = Camera(args.journal, args.first, args.run)
    due = time.monotonic()
    with contextlib.suppress(KeyboardInterrupt):
        for plan in plan_images(args.seed + args.run, args.rate, args.faults):
            # Delays are not caught up: the planned bursts must remain the only ones.
            due = max(due + plan.wait, time.monotonic() - 1 / args.rate)
            time.sleep(max(0.0, due - time.monotonic()))
            camera.publish(plan)
            if plan.exit == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if plan.exit == "shutdown":
                break
    camera.close()


class Camera:
    """Publishes planned images.

    Args:
        journal: File in which each image is recorded before it is published.
        first: Number of the first image.
        run: Number of this start of the camera, recorded as well.
    """

    def __init__(self, journal: Path, first: int, run: int) -> None:
        import rclpy
        from sensor_msgs.msg import CameraInfo, Image

        from mtl_perception.ros.environment import initialize
        from mtl_perception.ros.qos import keep_last

        initialize(["camera"])
        # SIGTERM must end the loop as Ctrl-C does.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.default_int_handler)
        self._node = rclpy.create_node(f"soak_camera_{run}")
        self._images = self._node.create_publisher(Image, "image", keep_last(QUEUE_SIZE, reliable=True))
        self._infos = self._node.create_publisher(CameraInfo, "camera_info", keep_last(QUEUE_SIZE, reliable=True))
        self._journal = journal.open("a", buffering=1)
        self._number, self._run = first, run
        self._stamp = time.time_ns()
        noise = np.random.default_rng(run)
        self._noise = noise.integers(0, 256, 2 * 4 * max(width * height for width, height in SIZES), np.uint8)

    def publish(self, plan: ImagePlan) -> None:
        """Publish the CameraInfo, if there is one, and the image with the same header."""
        from sensor_msgs.msg import CameraInfo, Image
        from std_msgs.msg import Header

        now = time.time_ns()
        self._stamp = {"now": now, "same": self._stamp, "back": now - 500_000_000}[plan.stamp]
        (width, height), number = plan.size, self._number
        header = Header(frame_id=f"soak/{number}/{now}")
        header.stamp.sec, header.stamp.nanosec = divmod(self._stamp, 10**9)
        row = (number, now, self._stamp, width, height, plan.encoding, plan.malformed, plan.calibration, self._run)
        self._journal.write(",".join(map(str, row)) + "\n")
        self._number += 1
        if plan.calibration != "none":
            focal = {"good": 0.6 * width, "uncalibrated": 0.0, "nan": float("nan")}[plan.calibration]
            info = CameraInfo(header=header, width=width, height=height, distortion_model="plumb_bob", d=[0.0] * 5)
            info.k = [focal, 0.0, width / 2, 0.0, focal, height / 2, 0.0, 0.0, 1.0]
            info.r = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
            info.p = [focal, 0.0, width / 2, 0.0, 0.0, focal, height / 2, 0.0, 0.0, 0.0, 1.0, 0.0]
            self._infos.publish(info)
        channels, item = ENCODINGS[plan.encoding]
        step = width * channels * item
        size = {"short": step * height // 2, "long": step * height + 1, "empty": 0}.get(plan.malformed, step * height)
        start = number % (len(self._noise) - size)
        self._images.publish(
            Image(
                header=header,
                width=0 if plan.malformed == "empty" else width,
                height=height,
                encoding="hyperspectral8" if plan.malformed == "encoding" else plan.encoding,
                step=step - 1 if plan.malformed == "step" else step,
                data=self._noise[start : start + size].tobytes(),
            )
        )

    def close(self) -> None:
        """Shut down after the published messages have been delivered."""
        import rclpy

        with contextlib.suppress(KeyboardInterrupt):
            time.sleep(0.5)
        self._node.destroy_node()
        rclpy.try_shutdown()


if __name__ == "__main__":
    main()
