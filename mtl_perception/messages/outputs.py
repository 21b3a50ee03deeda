"""The one table of output topics, and how a result becomes the fields of their messages.

The node and `process` both encode through here and only fill their own kind of message from the fields, which is why
live and offline outputs are the same bytes.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from mtl_perception.camera.model import Calibration
from mtl_perception.labels import ClassSet
from mtl_perception.types import CLOUD_DTYPE, Result
from mtl_perception.visualization.colors import colorize_labels, overlay

Fields = dict[str, Any]
"""A message without its header: names and values; arrays are C-contiguous, nested messages are Fields again."""

NODE_NAME = "mtl_perception"
"""Outputs are published under this name."""

IMAGE = "sensor_msgs/msg/Image"
CAMERA_INFO = "sensor_msgs/msg/CameraInfo"
POINT_CLOUD = "sensor_msgs/msg/PointCloud2"
LABEL_INFO = "vision_msgs/msg/LabelInfo"


@dataclass(frozen=True)
class OutputTopic:
    """One row of the table.

    Attributes:
        name: Topic relative to the node's own name.
        type: ROS message type.
        content: What it carries, for people.
        needs: Results it is made from; see types.OUTPUTS.
        latched: Published once and kept for late subscribers (transient local) instead of with each frame.
    """

    name: str
    type: str
    content: str
    needs: frozenset[str]
    latched: bool = False


def _row(name: str, kind: str, content: str, *needs: str, latched: bool = False) -> OutputTopic:
    return OutputTopic(name, kind, content, frozenset(needs), latched)


OUTPUT_TOPICS = (
    _row("segmentation/image", IMAGE, "bgr8, class colors", "labels"),
    _row("segmentation/overlay", IMAGE, "bgr8, class colors blended over the picture", "labels", "image"),
    _row("segmentation/labels", IMAGE, "mono8, class ids, 255 = unlabeled", "labels"),
    _row("segmentation/confidence", IMAGE, "mono8, softmax maximum, 0 to 255", "confidence"),
    _row(
        "segmentation/label_info",
        LABEL_INFO,
        "class id to name, transient local; only where vision_msgs is installed",
        latched=True,
    ),
    _row("depth/image", IMAGE, "32FC1, meters along the optical Z axis; NaN = invalid, +Inf = beyond max_depth", "depth"),
    _row("depth/camera_info", CAMERA_INFO, "intrinsics of the depth image"),
    _row(
        "points",
        POINT_CLOUD,
        "organized cloud, one point a pixel: x, y, z (m), rgb, label; NaN where depth is not finite",
        "cloud",
    ),
)

_FLOAT32, _UINT32 = 7, 6  # sensor_msgs/PointField's constants
_POINT_FIELDS: list[Fields] = [
    # PCL's convention: rgb is three bytes in the bits of a float.
    {"name": name, "offset": offset, "datatype": _UINT32 if name == "label" else _FLOAT32, "count": 1}
    for name, (_, offset) in ((name, column[:2]) for name, column in (CLOUD_DTYPE.fields or {}).items())
]


def needed_results(topics: Collection[str]) -> frozenset[str]:
    """Which of types.OUTPUTS the topics of these names are made from."""
    return frozenset().union(*(row.needs for row in OUTPUT_TOPICS if row.name in topics))


class MessageEncoder:
    """Makes message fields of results.

    Args:
        class_set: Gives the colors.
        overlay_opacity: Weight of the class colors in the overlay, 0 to 1.
    """

    def __init__(self, class_set: ClassSet, overlay_opacity: float = 0.5) -> None:
        self.class_set = class_set
        self.overlay_opacity = overlay_opacity
        self._colored: tuple[Result | None, np.ndarray] = (None, np.empty(0))

    def encode(self, topic: str, result: Result) -> Fields | None:
        """Fields of the message for a topic of OUTPUT_TOPICS; None if this result has nothing for it."""
        if topic == "segmentation/label_info":
            return self.label_info()
        if topic == "depth/camera_info":
            return None if result.camera is None else camera_info_fields(Calibration.of(result.camera))
        if topic == "points":
            return None if result.cloud is None else cloud_fields(result.cloud)
        if topic == "depth/image":
            return None if result.depth is None else image_fields(result.depth, "32FC1")
        if topic == "segmentation/confidence":
            return None if result.confidence is None else image_fields(result.confidence, "mono8")
        if result.labels is None:
            return None
        if topic == "segmentation/labels":
            return image_fields(result.labels, "mono8")
        if topic == "segmentation/image":
            return image_fields(_bgr(self._colors(result, result.labels)), "bgr8")
        if topic == "segmentation/overlay" and result.image is not None:
            colors = self._colors(result, result.labels)
            blended = overlay(result.image, result.labels, self.class_set, self.overlay_opacity, colors=colors)
            return image_fields(_bgr(blended), "bgr8")
        return None

    def _colors(self, result: Result, labels: np.ndarray) -> np.ndarray:
        """The colors of a result's labels, made once for all topics."""
        if self._colored[0] is not result:
            self._colored = (result, colorize_labels(labels, self.class_set))
        return self._colored[1]

    def label_info(self) -> Fields:
        """Fields of a vision_msgs/LabelInfo: the classes by id."""
        classes = [{"class_id": i, "class_name": name} for i, name in enumerate(self.class_set.names)]
        return {"class_map": classes, "threshold": 0.0}


def image_fields(pixels: np.ndarray, encoding: str) -> Fields:
    """Fields of a sensor_msgs/Image without padding.

    Args:
        pixels: H x W or H x W x C, of the encoding's type, little endian.
        encoding: ROS name of the encoding.
    """
    pixels = np.ascontiguousarray(pixels)
    height, width = pixels.shape[:2]
    return {
        "height": height,
        "width": width,
        "encoding": encoding,
        "is_bigendian": 0,
        "step": pixels.nbytes // height,
        "data": _as_bytes(pixels),
    }


def cloud_fields(cloud: np.ndarray) -> Fields:
    """Fields of an organized sensor_msgs/PointCloud2 from an H x W array of CLOUD_DTYPE."""
    cloud = np.ascontiguousarray(cloud)
    height, width = cloud.shape
    return {
        "height": height,
        "width": width,
        "fields": _POINT_FIELDS,
        "is_bigendian": False,
        "point_step": CLOUD_DTYPE.itemsize,
        "row_step": CLOUD_DTYPE.itemsize * width,
        "data": _as_bytes(cloud),
        "is_dense": not bool(np.isnan(cloud["z"]).any()),
    }


def camera_info_fields(calibration: Calibration) -> Fields:
    """Fields of a sensor_msgs/CameraInfo; region of interest and binning are applied already, so there are none."""
    return {
        "height": calibration.height,
        "width": calibration.width,
        "distortion_model": calibration.distortion_model,
        "d": np.array(calibration.d, np.float64),
        "k": np.array(calibration.k, np.float64),
        "r": np.array(calibration.r, np.float64),
        "p": np.array(calibration.projection, np.float64),
        "binning_x": 0,
        "binning_y": 0,
        "roi": {"x_offset": 0, "y_offset": 0, "height": 0, "width": 0, "do_rectify": False},
    }


def _as_bytes(array: np.ndarray) -> np.ndarray:
    return array.reshape(-1).view(np.uint8)


def _bgr(rgb: np.ndarray) -> np.ndarray:
    return np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
