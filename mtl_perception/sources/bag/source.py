"""Bags as sources of frames: ROS 1 .bag, ROS 2 folders, bare .mcap and .db3."""

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
from mtl_perception.camera.transforms import StaticTransform, link_transforms
from mtl_perception.errors import CameraError, FrameError, SourceError
from mtl_perception.messages.decode import decode_camera_info, decode_compressed_image, decode_image, stamp_ns
from mtl_perception.messages.topics import CAMERA_INFO, IMAGE
from mtl_perception.sources.bag.reader import Bag, deserialize, open_bag
from mtl_perception.sources.bag.scan import BagMessage
from mtl_perception.sources.bag.topics import COMPRESSED_IMAGE, base_topic, choose_image_topic, find_topic
from mtl_perception.sources.base import WHOLE, CameraResolver, TimeSlice, median_rate_hz
from mtl_perception.types import Frame

RATE_SAMPLES = 10
TRANSFORM_TOPICS = ("/tf_static", "tf_static")

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
        self.image_topic = find_topic(path, self._bag, image_topic, (IMAGE, COMPRESSED_IMAGE), "--image")
        self.image_topic = self.image_topic or choose_image_topic(path, self._bag)
        self.camera_info_topic = find_topic(path, self._bag, camera_info_topic, (CAMERA_INFO,), "--camera-info")
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

    def static_transforms(self) -> list[StaticTransform]:
        """Return the latest static transform of each frame, and those of the images' frame if none contains it."""
        frame_id = next((message.header.frame_id for _, message in self._images()), "")
        return _static_transforms(self._bag, frame_id)

    def timed_frames(self, part: TimeSlice = WHOLE) -> Iterator[tuple[int, Frame]]:
        """Return an iterator over bag time (time of recording, nanoseconds) and frame.

        Args:
            part: Only these frames, by bag time; images before and after them are not decoded.

        Raises:
            SourceError: The bag is damaged; raised after the frames before the damage.
        """
        self.rejected.clear()
        cameras = CameraResolver(self.name, self.rectified, self.image_topic)
        calibration = self._calibration or self._first_calibration(cameras)
        bounds: tuple[int, float] | None = None
        for message in self._bag.messages({self.image_topic, self.camera_info_topic}):
            if message.topic == self.camera_info_topic:
                calibration = self._read_calibration(message, cameras)
                continue
            start, end = bounds = bounds or part.bounds_ns(message.time_ns)
            if message.time_ns >= end:
                return
            if message.time_ns < start:
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
        message = deserialize(record)
        return Frame(_decode(record.type, message), None, stamp_ns(message.header), message.header.frame_id)

    def _read_calibration(self, message: BagMessage, cameras: CameraResolver) -> Calibration | None:
        try:
            return decode_camera_info(deserialize(message))
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
                    yield record, deserialize(record)
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


def _static_transforms(bag: Bag, frame_id: str) -> list[StaticTransform]:
    """Return the latest static transform of each frame.

    If none contains the frame of the images, `link_transforms` of that frame are added.

    Args:
        bag: The bag; damage ends the reading.
        frame_id: Frame of the images.
    """
    found: dict[str, StaticTransform] = {}
    topics = [
        topic for topic in TRANSFORM_TOPICS if topic in bag.topics and bag.topics[topic].type.lower().endswith("/tfmessage")
    ]
    try:
        for record in bag.messages(topics) if topics else ():
            for entry in deserialize(record).transforms:
                # tf2 refuses names with a leading slash, which ROS 1 allowed.
                parent, child = (name.lstrip("/") for name in (entry.header.frame_id, entry.child_frame_id))
                moved, turned = entry.transform.translation, entry.transform.rotation
                found[child] = StaticTransform(
                    parent, child, (moved.x, moved.y, moved.z), (turned.x, turned.y, turned.z, turned.w)
                )
    except (FrameError, SourceError) as error:
        logger.debug("static transforms after this one were not read: %s", error)
    transforms = list(found.values())
    known = {name for transform in transforms for name in (transform.parent, transform.child)}
    return transforms if frame_id in known else [*transforms, *link_transforms(frame_id)]
