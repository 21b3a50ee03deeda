"""Bags as sources: ROS 1 .bag, ROS 2 folders, bare .mcap and .db3. Nothing here needs ROS."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from mtl_perception.camera.calibration import load_calibration
from mtl_perception.camera.model import Calibration
from mtl_perception.errors import CameraError, FrameError, SourceError, one_line
from mtl_perception.messages.decode import decode_camera_info, decode_compressed_image, decode_image, stamp_ns
from mtl_perception.messages.topics import NODE_NAME
from mtl_perception.sources.bag.records import Bag, deserialize, open_bag
from mtl_perception.sources.bag.scan import BagMessage
from mtl_perception.sources.base import CameraResolver, median_rate_hz
from mtl_perception.types import Frame

IMAGE = "sensor_msgs/msg/Image"
COMPRESSED_IMAGE = "sensor_msgs/msg/CompressedImage"
CAMERA_INFO = "sensor_msgs/msg/CameraInfo"
PREFERRED_NAMES = ("image_rect_color", "image_rect", "image_raw", "color")
DEPTH_NAMES = ("depth", "disparity")
DEPTH_ENCODINGS = ("mono16", "16UC1", "16SC1", "32FC1", "32SC1", "64FC1")
OWN_TOPICS = f"/{NODE_NAME}/"
RATE_SAMPLES = 10

logger = logging.getLogger(__name__)


class BagSource:
    """One camera of a bag. See `Source`.

    A message that is no picture is left out, counted in `rejected` by its reason, and the first of each reason warned of.
    The latest camera_info holds, as in the node: after one that cannot be used, frames have no camera until the next. Pictures
    before the first one have the first one that can be used.

    Args:
        path: The bag.
        rectified: See `CameraResolver`.
        camera_file: Calibration instead of the bag's.
        image_topic: Topic of type Image or CompressedImage; empty: found by type and name (see `choose_image_topic`).
        camera_info_topic: Topic of type CameraInfo; empty: the image topic's sibling.

    Attributes:
        image_topic: The topic that is read.
        camera_info_topic: The topic that is read, or "" when there is none.

    Raises:
        SourceError: Not a bag, damaged from the start, or without such topics. Damage further on raises when the frames
            before it have been given.
        CameraError: The camera file cannot be used.
    """

    def __init__(
        self,
        path: Path,
        *,
        rectified: bool = True,
        camera_file: Path | None = None,
        image_topic: str = "",
        camera_info_topic: str = "",
    ) -> None:
        self.name = path.absolute().name
        self.path = path
        self.rectified = rectified
        self.rejected: Counter[str] = Counter()
        self._bag = open_bag(path)
        self.image_topic = _checked(path, self._bag, image_topic, (IMAGE, COMPRESSED_IMAGE), "--image")
        self.image_topic = self.image_topic or choose_image_topic(path, self._bag)
        self.camera_info_topic = _checked(path, self._bag, camera_info_topic, (CAMERA_INFO,), "--camera-info")
        self._calibration: Calibration | None = None
        if camera_file is not None:
            self._calibration = load_calibration(camera_file, size=self._first_size())
            self.camera_info_topic = ""
        elif not self.camera_info_topic:
            self.camera_info_topic = self._sibling_camera_info()
        self.rate_hz = self._rate()

    def __len__(self) -> int:
        return self._bag.topics[self.image_topic].count

    def __iter__(self) -> Iterator[Frame]:
        for _, frame in self.records():
            yield frame

    def records(self) -> Iterator[tuple[int, Frame]]:
        """The frames with their bag times, nanoseconds: when they were recorded, not when they were taken.

        Raises:
            SourceError: The bag is damaged; the frames before the damage have been given.
        """
        self.rejected.clear()
        fit = CameraResolver(self.name, self.rectified)
        calibration = self._calibration or self._first_calibration(fit)
        for record in self._bag.records({self.image_topic, self.camera_info_topic}):
            if record.topic == self.camera_info_topic:
                calibration = self._read_calibration(record, fit)
                continue
            try:
                frame = self._read_frame(record)
            except FrameError as error:
                self.rejected[error.reason] += 1
                if self.rejected[error.reason] == 1:
                    logger.warning("%s: left out, and others like it: %s", self.name, error)
                continue
            height, width = frame.image.shape[:2]
            yield record.time_ns, replace(frame, camera=fit.camera(calibration, width, height))

    def _read_frame(self, record: BagMessage) -> Frame:
        message = deserialize(record, self._bag.is_ros1)
        return Frame(_decode(record.type, message), None, stamp_ns(message.header), message.header.frame_id)

    def _read_calibration(self, record: BagMessage, fit: CameraResolver) -> Calibration | None:
        try:
            return decode_camera_info(deserialize(record, self._bag.is_ros1))
        except (CameraError, FrameError) as error:
            fit.warn(f"camera_info cannot be used, so frames have no camera until the next one: {error}")
            return None

    def _first_calibration(self, fit: CameraResolver) -> Calibration | None:
        if not self.camera_info_topic:
            return None
        try:
            for record in self._bag.records([self.camera_info_topic]):
                calibration = self._read_calibration(record, fit)
                if calibration is not None:
                    return calibration
        except SourceError as error:
            # The pictures will tell of the damage, at its place.
            logger.debug("%s: looking for camera_info: %s", self.name, error)
        return None

    def _sibling_camera_info(self) -> str:
        topic = base_topic(self.image_topic).rpartition("/")[0] + "/camera_info"
        topics = self._bag.topics
        name = next((name for name in (topic, topic.lstrip("/")) if name in topics), None)
        if name is not None and topics[name].type == CAMERA_INFO and topics[name].count:
            return name
        hint = "give --camera-info TOPIC or --camera FILE"
        logger.warning("%s: no camera_info on %s: frames have no camera (%s)", self.name, topic, hint)
        return ""

    def _messages(self) -> Iterator[tuple[BagMessage, Any]]:
        """The image topic's messages, undecoded, those that are none left out, damage taken for the end."""
        try:
            for record in self._bag.records([self.image_topic]):
                try:
                    yield record, deserialize(record, self._bag.is_ros1)
                except FrameError as error:
                    logger.debug("%s: %s", self.name, error)
        except SourceError as error:
            logger.debug("%s: %s", self.name, error)

    def _rate(self) -> float:
        """From the first stamps; from the bag times, where the stamps are not set."""
        samples = [(stamp_ns(message.header), record.time_ns) for record, message in islice(self._messages(), RATE_SAMPLES)]
        stamps = [stamp for stamp, _ in samples]
        return median_rate_hz(stamps if any(stamps) else [time_ns for _, time_ns in samples])

    def _first_size(self) -> tuple[int, int] | None:
        """Width and height of the first picture that can be read."""
        for record, message in self._messages():
            try:
                height, width = _decode(record.type, message).shape[:2]
            except FrameError as error:
                logger.debug("%s: %s", self.name, error)
            else:
                return width, height
        return None


def _decode(msgtype: str, message: Any) -> np.ndarray:
    return decode_image(message) if msgtype == IMAGE else decode_compressed_image(message)


def base_topic(topic: str) -> str:
    """The image topic without its transport: /camera/image_raw for /camera/image_raw/compressed."""
    return topic.removesuffix("/compressed")


def choose_image_topic(path: Path, bag: Bag) -> str:
    """The topic of color or gray pictures that is meant when none is given.

    Depth (by name or encoding) and what this package publishes are left aside. Of several, the best of PREFERRED_NAMES is
    taken, with "color" in its name before those without; raw before compressed.

    Raises:
        SourceError: None, or several that are equally good: all are listed.
    """
    topics = {name: topic for name, topic in bag.topics.items() if topic.type in (IMAGE, COMPRESSED_IMAGE)}
    if not topics:
        found = one_line(", ".join(sorted({topic.type for topic in bag.topics.values()})[:5]) or "no messages")
        raise SourceError(f"bag {path} has no pictures (sensor_msgs Image or CompressedImage), but {found}")
    candidates = [name for name, topic in topics.items() if topic.count and OWN_TOPICS not in name and not _is_depth(bag, name)]
    if not candidates:
        raise SourceError(f"bag {path} has no color or gray pictures, but {_listing(topics)}; say --image TOPIC to insist")
    best = min(map(_rank, candidates))
    chosen = [name for name in candidates if _rank(name) == best]
    if len({base_topic(name) for name in chosen}) > 1:
        raise SourceError(f"bag {path} has pictures of several cameras: {_listing(candidates)}; choose by --image TOPIC")
    return min(chosen, key=lambda name: topics[name].type != IMAGE)


def _rank(topic: str) -> tuple[int, bool]:
    name = next((i for i, name in enumerate(PREFERRED_NAMES) if name in topic), len(PREFERRED_NAMES))
    return name, "color" not in topic


def _is_depth(bag: Bag, topic: str) -> bool:
    """By the name, else by the first message's encoding."""
    if any(name in topic.lower() for name in DEPTH_NAMES):
        return True
    if bag.topics[topic].type == COMPRESSED_IMAGE:
        return False
    try:
        message = deserialize(next(bag.records([topic])), bag.is_ros1)
    except (FrameError, SourceError, StopIteration):
        return False
    return message.encoding in DEPTH_ENCODINGS


def _checked(path: Path, bag: Bag, topic: str, types: tuple[str, ...], option: str) -> str:
    """A topic given by the user, as the bag names it; "" when none was given.

    Raises:
        SourceError: The bag has no messages of these types on it.
    """
    if not topic:
        return ""
    for name in (topic, "/" + topic, topic.lstrip("/")):
        if name in bag.topics and bag.topics[name].type in types and bag.topics[name].count:
            return name
    fitting = [name for name, found in bag.topics.items() if found.type in types and found.count]
    kind = " or ".join(name.rpartition("/")[2] for name in types)
    raise SourceError(f"bag {path} has no {kind} messages on {topic}; {option} could be: {_listing(fitting) or 'none'}")


def _listing(topics: Any) -> str:
    return one_line(", ".join(sorted(topics)), 400)
