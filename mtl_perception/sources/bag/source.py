"""Bags as sources of frames: ROS 1 .bag, ROS 2 folders, bare .mcap and .db3."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from mtl_perception.camera.calibration import load_calibration
from mtl_perception.camera.model import Calibration
from mtl_perception.errors import CameraError, FrameError, SourceError, one_line
from mtl_perception.messages.decode import decode_camera_info, decode_compressed_image, decode_image, stamp_ns
from mtl_perception.messages.topics import CAMERA_INFO, IMAGE, NODE_NAME
from mtl_perception.sources.bag.reader import Bag, deserialize, open_bag
from mtl_perception.sources.bag.scan import BagMessage
from mtl_perception.sources.base import CameraResolver, median_rate_hz
from mtl_perception.types import Frame

COMPRESSED_IMAGE = "sensor_msgs/msg/CompressedImage"
PREFERRED_NAMES = ("image_rect_color", "image_rect", "image_raw", "color")
DEPTH_NAMES = ("depth", "disparity")
DEPTH_ENCODINGS = ("mono16", "16UC1", "16SC1", "32FC1", "32SC1", "64FC1")
OWN_TOPICS = f"/{NODE_NAME}/"
RATE_SAMPLES = 10

logger = logging.getLogger(__name__)


class BagSource:
    """Source of one camera of a bag; see `Source`.

    Malformed image messages are skipped and counted in `rejected` by reason, with a warning for the first of each reason.
    The latest camera_info is used, as in the node; after a malformed one, frames have no camera until the next. Images before
    the first camera_info use the first valid one.

    Args:
        path: The bag.
        rectified: See `CameraResolver`.
        camera_file: Calibration file to use instead of the bag's camera_info.
        image_topic: Topic of type Image or CompressedImage; empty: see `choose_image_topic`.
        camera_info_topic: Topic of type CameraInfo; empty: the image topic's sibling.

    Attributes:
        image_topic: Image topic that is read.
        camera_info_topic: CameraInfo topic that is read, or "".

    Raises:
        SourceError: The path is not a bag, is damaged at the start, or lacks these topics. Later damage raises during
            iteration, after the frames before it.
        CameraError: The camera file cannot be used.
        DependencyError: rosbags is not installed.
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
        self.image_topic = _find_topic(path, self._bag, image_topic, (IMAGE, COMPRESSED_IMAGE), "--image")
        self.image_topic = self.image_topic or choose_image_topic(path, self._bag)
        self.camera_info_topic = _find_topic(path, self._bag, camera_info_topic, (CAMERA_INFO,), "--camera-info")
        self._calibration: Calibration | None = None
        if camera_file is not None:
            self._calibration = load_calibration(camera_file, size=self._first_size())
            self.camera_info_topic = ""
        elif not self.camera_info_topic:
            self.camera_info_topic = self._sibling_camera_info()
        self.rate_hz = self._estimate_rate()

    def __len__(self) -> int:
        return self._bag.topics[self.image_topic].count

    def __iter__(self) -> Iterator[Frame]:
        for _, frame in self.timed_frames():
            yield frame

    def timed_frames(self) -> Iterator[tuple[int, Frame]]:
        """Return an iterator over bag time (time of recording, nanoseconds) and frame.

        Raises:
            SourceError: The bag is damaged; raised after the frames before the damage.
        """
        self.rejected.clear()
        cameras = CameraResolver(self.name, self.rectified, self.image_topic)
        calibration = self._calibration or self._first_calibration(cameras)
        for message in self._bag.messages({self.image_topic, self.camera_info_topic}):
            if message.topic == self.camera_info_topic:
                calibration = self._read_calibration(message, cameras)
                continue
            try:
                frame = self._read_frame(message)
            except FrameError as error:
                self.rejected[error.reason] += 1
                if self.rejected[error.reason] == 1:
                    logger.warning("%s: frame skipped, further ones with this reason silently: %s", self.name, error)
                continue
            height, width = frame.image.shape[:2]
            yield message.time_ns, replace(frame, camera=cameras.camera(calibration, width, height))

    def _read_frame(self, record: BagMessage) -> Frame:
        message = deserialize(record, self._bag.is_ros1)
        return Frame(_decode(record.type, message), None, stamp_ns(message.header), message.header.frame_id)

    def _read_calibration(self, message: BagMessage, cameras: CameraResolver) -> Calibration | None:
        try:
            return decode_camera_info(deserialize(message, self._bag.is_ros1))
        except (CameraError, FrameError) as error:
            cameras.warn(f"frames have no camera until the next camera_info: {error}")
            return None

    def _first_calibration(self, cameras: CameraResolver) -> Calibration | None:
        if not self.camera_info_topic:
            return None
        try:
            for message in self._bag.messages([self.camera_info_topic]):
                calibration = self._read_calibration(message, cameras)
                if calibration is not None:
                    return calibration
        except SourceError as error:
            # Iteration over the frames reports the damage.
            logger.debug("%s: no valid camera_info before the damage: %s", self.name, error)
        return None

    def _sibling_camera_info(self) -> str:
        topic = base_topic(self.image_topic).rpartition("/")[0] + "/camera_info"
        topics = self._bag.topics
        name = next((name for name in (topic, topic.lstrip("/")) if name in topics), None)
        if name is not None and topics[name].type == CAMERA_INFO and topics[name].count:
            return name
        hint = "give --camera-info TOPIC or --camera FILE"
        logger.warning("%s: frames have no camera: no camera_info on %s; %s", self.name, topic, hint)
        return ""

    def _images(self) -> Iterator[tuple[BagMessage, Any]]:
        """Return an iterator over the deserialized image messages up to the first damage, without malformed ones."""
        try:
            for record in self._bag.messages([self.image_topic]):
                try:
                    yield record, deserialize(record, self._bag.is_ros1)
                except FrameError as error:
                    logger.debug("%s: %s", self.name, error)
        except SourceError as error:
            logger.debug("%s: %s", self.name, error)

    def _estimate_rate(self) -> float:
        """Return the frame rate from the first stamps, or from bag times if no stamp is set."""
        samples = [(stamp_ns(message.header), record.time_ns) for record, message in islice(self._images(), RATE_SAMPLES)]
        stamps = [stamp for stamp, _ in samples]
        return median_rate_hz(stamps if any(stamps) else [time_ns for _, time_ns in samples])

    def _first_size(self) -> tuple[int, int] | None:
        """Return width and height of the first image that can be decoded."""
        for record, message in self._images():
            try:
                height, width = _decode(record.type, message).shape[:2]
            except FrameError as error:
                logger.debug("%s: %s", self.name, error)
            else:
                return width, height
        return None


def _decode(type_name: str, message: Any) -> np.ndarray:
    return decode_image(message) if type_name == IMAGE else decode_compressed_image(message)


def base_topic(topic: str) -> str:
    """Return an image topic without its transport: /camera/image_raw for /camera/image_raw/compressed."""
    return topic.removesuffix("/compressed")


def choose_image_topic(path: Path, bag: Bag) -> str:
    """Select the topic of color or gray images.

    Depth topics (by name or encoding) and topics of this package are ignored. The best name of `PREFERRED_NAMES` wins, then a
    name with "color" in it, then raw over compressed.

    Raises:
        SourceError: There is no such topic, or several are equally good; the message lists them.
    """
    topics = {name: topic for name, topic in bag.topics.items() if topic.type in (IMAGE, COMPRESSED_IMAGE)}
    if not topics:
        found = one_line(", ".join(sorted({topic.type for topic in bag.topics.values()})[:5]) or "no messages")
        raise SourceError(f"bag {path} has no images (sensor_msgs Image or CompressedImage), but {found}")
    candidates = [name for name, topic in topics.items() if topic.count and OWN_TOPICS not in name and not _is_depth(bag, name)]
    if not candidates:
        raise SourceError(f"bag {path} has no color or gray images, but {_list(topics)}; select one with --image TOPIC")
    best = min(map(_rank, candidates))
    chosen = [name for name in candidates if _rank(name) == best]
    if len({base_topic(name) for name in chosen}) > 1:
        raise SourceError(f"bag {path} has images of several cameras: {_list(candidates)}; select one with --image TOPIC")
    return min(chosen, key=lambda name: topics[name].type != IMAGE)


def _rank(topic: str) -> tuple[int, bool]:
    name = next((i for i, name in enumerate(PREFERRED_NAMES) if name in topic), len(PREFERRED_NAMES))
    return name, "color" not in topic


def _is_depth(bag: Bag, topic: str) -> bool:
    """Return whether a topic carries depth, by its name or its first message's encoding."""
    if any(name in topic.lower() for name in DEPTH_NAMES):
        return True
    if bag.topics[topic].type == COMPRESSED_IMAGE:
        return False
    try:
        message = deserialize(next(bag.messages([topic])), bag.is_ros1)
    except (FrameError, SourceError, StopIteration):
        return False
    return message.encoding in DEPTH_ENCODINGS


def _find_topic(path: Path, bag: Bag, topic: str, types: tuple[str, ...], option: str) -> str:
    """Return the bag's name of a topic that the user gave; "" if none was given.

    Raises:
        SourceError: The bag has no messages of these types on it.
    """
    if not topic:
        return ""
    for name in (topic, "/" + topic, topic.lstrip("/")):
        if name in bag.topics and bag.topics[name].type in types and bag.topics[name].count:
            return name
    candidates = [name for name, found in bag.topics.items() if found.type in types and found.count]
    kind = " or ".join(name.rpartition("/")[2] for name in types)
    raise SourceError(f"bag {path} has no {kind} messages on {topic}; candidates for {option}: {_list(candidates) or 'none'}")


def _list(topics: Iterable[str]) -> str:
    return one_line(", ".join(sorted(topics)), 400)
