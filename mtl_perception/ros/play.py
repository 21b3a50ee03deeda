"""The command `play`: publish a drive, image folder or bag as a camera."""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import rclpy
from rclpy.duration import Duration
from rclpy.publisher import Publisher
from rclpy.qos import ReliabilityPolicy
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

from mtl_perception.camera.model import Calibration
from mtl_perception.camera.transforms import StaticTransform
from mtl_perception.errors import ConfigError, SourceError
from mtl_perception.messages.encode import camera_info_fields, image_fields
from mtl_perception.messages.topics import CAMERA_INFO, IMAGE
from mtl_perception.progress import progress_bar
from mtl_perception.ros.convert import to_message
from mtl_perception.ros.environment import initialize
from mtl_perception.ros.parameters import creation_errors
from mtl_perception.ros.qos import keep_last
from mtl_perception.ros.signals import Answer, StopSignals
from mtl_perception.ros.static_transforms import publish_static_transforms
from mtl_perception.sources.base import Source, rejection_note
from mtl_perception.sources.open import open_source
from mtl_perception.types import Frame

GAP_LIMIT = 5.0
"""Seconds; a longer gap between two stamps, or a jump back, is played as one frame period."""
INFO_TIMEOUT = 2.0
"""Seconds to wait for subscribers of camera_info."""
ACK_STEP = Duration(seconds=0.1)
DRAIN_TIMEOUT = 5.0
"""Seconds to wait until reliable subscribers have acknowledged the last messages."""
BEST_EFFORT_TIME = 1.0
"""Seconds to wait for best-effort subscribers."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "source", metavar="SOURCE", help="KITTI raw drive, image folder, video, bag, or synthetic[:FRAMES[:SEED]]"
    )
    parser.add_argument("--rate", type=float, default=1.0, metavar="R", help="playback speed; default 1, as recorded")
    parser.add_argument("--loop", action="store_true", help="repeat until interrupted; the stamps continue")
    parser.add_argument("--image", default="", metavar="TOPIC", help="image topic of the bag, if it has several")
    parser.add_argument(
        "--camera-info", default="", metavar="TOPIC", help="CameraInfo topic of the bag; default: sibling of the image topic"
    )
    parser.add_argument("--camera", type=Path, metavar="FILE", help="calibration file to use instead of that of the source")
    parser.add_argument(
        "--stamps",
        choices=("recorded", "now"),
        default="recorded",
        help="recorded stamps (default) or the time of publication",
    )
    parser.add_argument("--clock", action="store_true", help="publish the stamps on /clock, for nodes with use_sim_time")
    parser.add_argument("--no-tf", action="store_true", help="do not publish the static transforms of the source")
    parser.add_argument("--preload", action="store_true", help="load all frames first, for sources slower than their rate")
    parser.add_argument(
        "--subscribers", type=int, default=0, metavar="N", help="wait for N subscribers of the images; default 0"
    )
    parser.epilog = (
        "Publishes `image` and `camera_info`; remap them with --ros-args -r image:=/camera/image_raw. "
        "Publishes the static transforms that the source knows on /tf_static."
    )


def run(args: argparse.Namespace) -> int:
    """Publish until the end of the source, or until SIGINT or SIGTERM."""
    if not args.rate > 0:
        raise ConfigError(f"--rate must be above 0, not {args.rate}")
    source = open_source(args.source, camera_file=args.camera, image_topic=args.image, camera_info_topic=args.camera_info)
    if len(source) == 0:
        raise SourceError(f"{args.source} contains no images")
    frames: Iterable[Frame] = source
    if args.preload:
        frames = list(progress_bar(source, total=len(source), unit="frame", desc="loading"))
    signals = StopSignals(Answer.INTERRUPT)
    try:
        with signals.until_stopped():
            initialize([sys.argv[0], *args.ros_arguments])
            player = Player(args.clock, args.stamps == "now", [] if args.no_tf else source.static_transforms())
            player.wait_for_subscribers(args.subscribers)
            try:
                with progress_bar(total=None if args.loop else len(source), unit="frame") as shown:
                    for index, frame in enumerate(paced(repeated(source, frames, args.loop), source.rate_hz, args.rate)):
                        if index == 0:
                            player.start(source, frame, args.rate)
                        player.publish(frame)
                        shown.update()
            except SourceError:
                # The frames before the damage were published.
                player.drain()
                raise
            player.drain()
    finally:
        signals.ignore()
        rclpy.try_shutdown()
    return 0


def repeated(source: Source, frames: Iterable[Frame], loop: bool) -> Iterator[Frame]:
    """Yield the frames of a source, with `loop` again and again.

    The stamps of later rounds continue, because RViz and tf2 drop everything when time jumps back: one period lies between
    the last frame of a round and the first of the next.

    Raises:
        SourceError: No image can be read.
    """
    offset = 0
    for _ in itertools.count() if loop else range(1):
        first = last = None
        for frame in frames:
            first, last = frame.stamp_ns if first is None else first, frame.stamp_ns
            yield replace(frame, stamp_ns=frame.stamp_ns + offset)
        if first is None or last is None:
            raise SourceError(f"{source.name}: no frame was published{rejection_note(source)}")
        offset += max(last - first, 0) + round(1e9 / source.rate_hz)


def paced(frames: Iterable[Frame], rate_hz: float, speed: float) -> Iterator[Frame]:
    """Yield frames at the times given by their stamps; late frames immediately, but later ones not faster to catch up.

    Args:
        frames: Frames with stamps.
        rate_hz: Nominal rate, where gaps between stamps are implausible.
        speed: Playback speed; 1 is real time.
    """
    due = time.monotonic()
    previous: int | None = None
    for frame in frames:
        if previous is not None:
            gap = (frame.stamp_ns - previous) / 1e9
            due += (gap if 0 < gap <= GAP_LIMIT else 1 / rate_hz) / speed
        previous = frame.stamp_ns
        wait = due - time.monotonic()
        if wait > 0:
            time.sleep(wait)
        else:
            due -= wait
        yield frame


class Player:
    """Node that publishes frames as Image and CameraInfo.

    Args:
        clock: Whether to publish /clock as well.
        restamp: Whether to replace stamps by the time of publication.
        transforms: Static transforms to publish.
    """

    def __init__(self, clock: bool, restamp: bool, transforms: Iterable[StaticTransform]) -> None:
        with creation_errors():
            self._node = rclpy.create_node("player")
        self._images = self._node.create_publisher(Image, "image", keep_last(5, reliable=True))
        # Before the first frame, so that subscribers discover it in time.
        self._infos: Publisher | None = self._create_info_publisher()
        self._clock = self._node.create_publisher(Clock, "/clock", keep_last(1, reliable=True)) if clock else None
        self._restamp = restamp
        self._transforms = publish_static_transforms(self._node, transforms)

    def wait_for_subscribers(self, count: int) -> None:
        """Wait for subscribers of the images, and up to INFO_TIMEOUT for as many of camera_info."""
        if self._images.get_subscription_count() < count:
            self._node.get_logger().info(f"waiting for {count} subscribers on {self._images.topic_name}")
        while self._images.get_subscription_count() < count:
            rclpy.spin_once(self._node, timeout_sec=0.1)
        # A subscriber of images need not subscribe to camera_info.
        deadline = time.monotonic() + INFO_TIMEOUT
        while self._infos is not None and self._infos.get_subscription_count() < count and time.monotonic() < deadline:
            rclpy.spin_once(self._node, timeout_sec=0.1)
        # Discovery is not symmetric: the subscriber may not have discovered this publisher yet.
        if count:
            time.sleep(0.5)

    def start(self, source: Source, frame: Frame, speed: float) -> None:
        """Log what is published, from the first frame; without a calibration, withdraw camera_info."""
        if frame.camera is None and self._infos is not None:
            # A publisher that sends nothing looks like a fault to subscribers.
            self._node.destroy_publisher(self._infos)
            self._infos = None
        topics = [publisher.topic_name for publisher in (self._images, self._infos) if publisher is not None]
        height, width = frame.image.shape[:2]
        rate_hz = source.rate_hz * speed
        self._node.get_logger().info(f"publishing {source.name} ({width}x{height}, {rate_hz:.3g} Hz) on {' and '.join(topics)}")

    def publish(self, frame: Frame) -> None:
        """Publish CameraInfo, then the image, with the same header."""
        stamp = self._node.get_clock().now().nanoseconds if self._restamp else frame.stamp_ns
        header = Header(frame_id=frame.frame_id)
        header.stamp.sec, header.stamp.nanosec = stamp // 10**9, stamp % 10**9
        if self._clock is not None:
            self._clock.publish(Clock(clock=header.stamp))
        if frame.camera is not None:
            fields = camera_info_fields(Calibration.of(frame.camera))
            if self._infos is None:  # The calibration may fit later images only.
                self._infos = self._create_info_publisher()
            self._infos.publish(to_message(CAMERA_INFO, fields, header))
        self._images.publish(to_message(IMAGE, image_fields(frame.image, "rgb8"), header))

    def drain(self) -> None:
        """Wait until subscribers have received the last messages, before the publishers are destroyed."""
        deadline = time.monotonic() + DRAIN_TIMEOUT
        # In short steps, because signals are handled in between.
        publishers = [publisher for publisher in (self._clock, self._infos, self._images) if publisher is not None]
        while not all(publisher.wait_for_all_acked(ACK_STEP) for publisher in publishers) and time.monotonic() < deadline:
            pass
        readers = [self._node.get_subscriptions_info_by_topic(publisher.topic_name) for publisher in publishers]
        if any(reader.qos_profile.reliability == ReliabilityPolicy.BEST_EFFORT for reader in itertools.chain(*readers)):
            # They acknowledge nothing.
            time.sleep(BEST_EFFORT_TIME)

    def _create_info_publisher(self) -> Publisher:
        return self._node.create_publisher(CameraInfo, "camera_info", keep_last(5, reliable=True))
