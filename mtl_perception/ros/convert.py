"""rclpy messages to plain values and back."""

from __future__ import annotations

import array
from typing import Any

import numpy as np
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2, PointField, RegionOfInterest
from std_msgs.msg import Header

from mtl_perception.errors import FrameError
from mtl_perception.messages import topics
from mtl_perception.messages.decode import decode_compressed_image, decode_image
from mtl_perception.messages.encode import Fields

try:
    from cv_bridge import CvBridge
except ImportError:
    CvBridge = None

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
"""Message class by ROS type name; None where its package is not installed."""


def to_rgb(message: Image | CompressedImage) -> np.ndarray:
    """The picture of a message: H x W x 3 uint8, RGB.

    Raises:
        FrameError: It holds none that can be read.
    """
    if isinstance(message, CompressedImage):
        return decode_compressed_image(message)
    try:
        return decode_image(message)
    except FrameError as error:
        if error.reason != "encoding" or CvBridge is None:
            raise
        try:
            # The encodings that we do not know, where someone who may know them is installed.
            return np.asarray(CvBridge().imgmsg_to_cv2(message, "rgb8"))
        except Exception:
            raise error from None


def to_message(kind: str, fields: Fields, header: Header) -> Any:
    """A message of fields.

    Args:
        kind: ROS type name.
        fields: As made by messages.encode; big arrays are not copied where rclpy lets us, so publish before they change.
        header: Taken over as it is.
    """
    message = MESSAGE_TYPES[kind]()
    message.header = header
    for name, value in fields.items():
        if name == "data":
            fill(message, value)
        elif name == "d":
            # Distributions that check fields take no NumPy array for a sequence of open length.
            message.d = array.array("d", value.tolist())
        elif name == "roi":
            message.roi = RegionOfInterest(**value)
        elif name == "fields":
            message.fields = [PointField(**field) for field in value]
        elif name == "class_map":
            message.class_map = [VisionClass(**entry) for entry in value]
        else:
            setattr(message, name, value)
    return message


def fill(message: Any, data: np.ndarray) -> None:
    """Set a uint8[] field `data` from bytes in an array.

    The public setter checks arrays byte by byte (hundreds of ms for a picture) unless it is given an array.array, which
    costs a copy. Setting what lies behind it costs nothing, and is done only where it was seen to give the same message.
    """
    if _can_fill_privately():
        message._data = data
    else:
        copied = array.array("B")
        copied.frombytes(data.tobytes())
        message.data = copied


_private_fill: bool | None = None


def _can_fill_privately() -> bool:
    global _private_fill
    if _private_fill is None:
        _private_fill = _try_private_fill()
    return _private_fill


def _try_private_fill() -> bool:
    from rclpy.serialization import deserialize_message, serialize_message

    expected = bytes(range(256))
    message = Image()
    try:
        message._data = np.frombuffer(expected, np.uint8)
        read = deserialize_message(serialize_message(message), Image)
    except Exception:
        return False
    return bytes(read.data) == expected
