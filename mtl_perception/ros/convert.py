"""Conversion between ROS messages and plain values."""

from __future__ import annotations

import array
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2, PointField, RegionOfInterest
from std_msgs.msg import Header

from mtl_perception.errors import FrameError
from mtl_perception.messages import topics
from mtl_perception.messages.decode import decode_compressed_image, decode_image
from mtl_perception.messages.encode import Fields
from mtl_perception.ros.compat import fill_data

try:
    from vision_msgs.msg import LabelInfo, VisionClass
except ImportError:
    LabelInfo = VisionClass = None

MESSAGE_TYPES: dict[str, Any] = {
    topics.IMAGE: Image,
    topics.CAMERA_INFO: CameraInfo,
    topics.POINT_CLOUD: PointCloud2,
    topics.LABEL_INFO: LabelInfo,
}
"""Message class by ROS type name; None if its package is not installed."""

_TO_ROS: dict[str, Callable[[Any], Any]] = {
    # Distributions that check fields accept no NumPy array for an unbounded sequence.
    "d": lambda coefficients: array.array("d", coefficients.tolist()),
    "roi": lambda fields: RegionOfInterest(**fields),
    "fields": lambda fields: [PointField(**field) for field in fields],
    "class_map": lambda entries: [VisionClass(**entry) for entry in entries],
}
"""Conversion by name of the message field; other fields are assigned as they are."""


def to_rgb(message: Image | CompressedImage) -> np.ndarray:
    """Decode an image message.

    Encodings that this package does not decode are left to cv_bridge if it is installed.

    Returns:
        H x W x 3 uint8, RGB.

    Raises:
        FrameError: The message is malformed or its encoding is not supported.
    """
    if isinstance(message, CompressedImage):
        return decode_compressed_image(message)
    try:
        return decode_image(message)
    except FrameError as error:
        bridge = load_cv_bridge() if error.reason == "encoding" else None
        if bridge is None:
            raise
        try:
            return np.asarray(bridge.imgmsg_to_cv2(message, "rgb8"))
        except Exception:
            raise error from None


@cache
def load_cv_bridge() -> Any:
    """Return a CvBridge, or None if it is not installed or cannot be imported.

    It is imported when an encoding needs it: one that was compiled for another version of NumPy prints pages of warnings,
    raises AttributeError (_ARRAY_API not found) or crashes the process.
    """
    try:
        from cv_bridge import CvBridge

        return CvBridge()
    except Exception:
        return None


def to_message(kind: str, fields: Fields, header: Header) -> Any:
    """Build a message.

    Args:
        kind: ROS type name.
        fields: Fields as built by messages.encode; large arrays are not copied if possible, so publish before they change.
        header: Header, used without a copy.
    """
    message = MESSAGE_TYPES[kind]()
    message.header = header
    for name, value in fields.items():
        if name == "data":
            fill_data(message, value)
        else:
            setattr(message, name, _TO_ROS[name](value) if name in _TO_ROS else value)
    return message
