"""The camera of tools/soak/soak.py: 30 Hz of small pictures, and all that cameras do wrong, at random but reproducibly.

Every picture's number and time of sending are in its frame_id, which the node hands on: so each output tells which picture it
is of, also where the camera's stamps stand still or go back. Each picture is in the journal before it is sent.
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
"""Width and height; the first is the usual one. Few, as a network is compiled for each."""
ENCODINGS = {"rgb8": (3, 1), "bgr8": (3, 1), "mono8": (1, 1), "rgba8": (4, 1), "mono16": (1, 2), "yuv422_yuy2": (2, 1)}
"""Channels, bytes a channel; the first is the usual one."""
BROKEN = {"short": "data_length", "long": "data_length", "step": "step", "encoding": "encoding", "empty": "size"}
"""What can be wrong with a picture, and the reason by which the node must refuse it."""
CALIBRATIONS = ("good", "uncalibrated", "nan", "none")
JOURNAL = ("number", "sent_ns", "stamp_ns", "width", "height", "encoding", "broken", "calibration", "run")
QUEUE = 100
"""History depth: a burst fits in, so nothing is lost in the camera."""
MEAN_SECONDS = {
    "pause": 60.0,
    "burst": 30.0,
    "freeze": 45.0,
    "back": 60.0,
    "size": 40.0,
    "encoding": 40.0,
    "broken": 5.0,
    "streak": 90.0,
    "calibration": 30.0,
    "leave": 300.0,
    "die": 400.0,
}
"""Mean time between two faults of a kind."""


@dataclass(frozen=True)
class Shot:
    """One picture to send.

    Attributes:
        wait: Seconds since the one before.
        stamp: "now", "same" as the one before, or "back": half a second old.
        size: Width and height, pixels.
        encoding: A key of ENCODINGS.
        broken: A key of BROKEN, or "" for a picture without fault.
        calibration: Which camera_info goes with it, one of CALIBRATIONS.
        end: "" to go on; after this picture "leave" ends the process in order, "die" kills it.
    """

    wait: float
    stamp: str = "now"
    size: tuple[int, int] = SIZES[0]
    encoding: str = next(iter(ENCODINGS))
    broken: str = ""
    calibration: str = CALIBRATIONS[0]
    end: str = ""


def shots(seed: int, rate: float, faults: float) -> Iterator[Shot]:
    """What the camera does, without end.

    Args:
        seed: The same makes the same.
        rate: Pictures a second while nothing is wrong.
        faults: How often faults come, relative to MEAN_SECONDS.
    """
    chance = random.Random(seed)
    left = dict.fromkeys(MEAN_SECONDS, 0)
    size, encoding, calibration = SIZES[0], next(iter(ENCODINGS)), CALIBRATIONS[0]
    while True:
        begun = {kind for kind, mean in MEAN_SECONDS.items() if chance.random() < faults / (mean * rate)}
        wait = chance.uniform(0.2, 4.0) if "pause" in begun else 1 / rate
        for kind, longest in (("burst", 20), ("freeze", 30), ("back", 3), ("size", 150), ("encoding", 150), ("streak", 60)):
            left[kind] = chance.randint(1, longest) if kind in begun else max(left[kind] - 1, 0)
        left["calibration"] = chance.randint(10, 100) if "calibration" in begun else max(left["calibration"] - 1, 0)
        size = chance.choice(SIZES[1:]) if "size" in begun else (size if left["size"] else SIZES[0])
        encoding = chance.choice(list(ENCODINGS)) if "encoding" in begun else (encoding if left["encoding"] else "rgb8")
        calibration = (
            chance.choice(CALIBRATIONS[1:]) if "calibration" in begun else (calibration if left["calibration"] else "good")
        )
        yield Shot(
            wait=0.0 if left["burst"] else wait,
            stamp="same" if left["freeze"] else ("back" if left["back"] else "now"),
            size=size,
            encoding=encoding,
            broken=chance.choice(list(BROKEN)) if "broken" in begun or left["streak"] else "",
            calibration=calibration,
            end="die" if "die" in begun else ("leave" if "leave" in begun else ""),
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--journal", type=Path, required=True)
    parser.add_argument("--first", type=int, required=True, help="number of the first picture")
    parser.add_argument("--run", type=int, required=True, help="how often the camera was started before")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--faults", type=float, required=True)
    args = parser.parse_args()
    camera = Camera(args.journal, args.first, args.run)
    due = time.monotonic()
    with contextlib.suppress(KeyboardInterrupt):
        for shot in shots(args.seed + args.run, args.rate, args.faults):
            # What is late is not made up for: the only bursts are those that were meant.
            due = max(due + shot.wait, time.monotonic() - 1 / args.rate)
            time.sleep(max(0.0, due - time.monotonic()))
            camera.send(shot)
            if shot.end == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            if shot.end == "leave":
                break
    camera.close()


class Camera:
    """Sends shots.

    Args:
        journal: Where each one is written down before it is sent.
        first: Number of the first.
        run: Written down, too.
    """

    def __init__(self, journal: Path, first: int, run: int) -> None:
        import rclpy
        from sensor_msgs.msg import CameraInfo, Image

        from mtl_perception.ros.environment import initialize
        from mtl_perception.ros.qos import keep_last

        initialize(["camera"])
        # As any program that is told to stop: the loop ends.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.default_int_handler)
        self._node = rclpy.create_node(f"soak_camera_{run}")
        self._images = self._node.create_publisher(Image, "image", keep_last(QUEUE, reliable=True))
        self._infos = self._node.create_publisher(CameraInfo, "camera_info", keep_last(QUEUE, reliable=True))
        self._journal = journal.open("a", buffering=1)
        self._number, self._run = first, run
        self._stamp = time.time_ns()
        noise = np.random.default_rng(run)
        self._noise = noise.integers(0, 256, 2 * 4 * max(width * height for width, height in SIZES), np.uint8)

    def send(self, shot: Shot) -> None:
        """Publish camera_info, unless there is none, and the picture, with the same header."""
        from sensor_msgs.msg import CameraInfo, Image
        from std_msgs.msg import Header

        now = time.time_ns()
        self._stamp = {"now": now, "same": self._stamp, "back": now - 500_000_000}[shot.stamp]
        (width, height), number = shot.size, self._number
        header = Header(frame_id=f"soak/{number}/{now}")
        header.stamp.sec, header.stamp.nanosec = divmod(self._stamp, 10**9)
        row = (number, now, self._stamp, width, height, shot.encoding, shot.broken, shot.calibration, self._run)
        self._journal.write(",".join(map(str, row)) + "\n")
        self._number += 1
        if shot.calibration != "none":
            focal = {"good": 0.6 * width, "uncalibrated": 0.0, "nan": float("nan")}[shot.calibration]
            info = CameraInfo(header=header, width=width, height=height, distortion_model="plumb_bob", d=[0.0] * 5)
            info.k = [focal, 0.0, width / 2, 0.0, focal, height / 2, 0.0, 0.0, 1.0]
            info.r = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
            info.p = [focal, 0.0, width / 2, 0.0, 0.0, focal, height / 2, 0.0, 0.0, 0.0, 1.0, 0.0]
            self._infos.publish(info)
        channels, item = ENCODINGS[shot.encoding]
        step = width * channels * item
        size = {"short": step * height // 2, "long": step * height + 1, "empty": 0}.get(shot.broken, step * height)
        start = number % (len(self._noise) - size)
        self._images.publish(
            Image(
                header=header,
                width=0 if shot.broken == "empty" else width,
                height=height,
                encoding="hyperspectral8" if shot.broken == "encoding" else shot.encoding,
                step=step - 1 if shot.broken == "step" else step,
                data=self._noise[start : start + size].tobytes(),
            )
        )

    def close(self) -> None:
        """End in order: what was sent is delivered."""
        import rclpy

        with contextlib.suppress(KeyboardInterrupt):
            time.sleep(0.5)
        self._node.destroy_node()
        rclpy.try_shutdown()


if __name__ == "__main__":
    main()
