"""Messages to and from the node, written and read by their definitions alone."""

from __future__ import annotations

import array
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs rclpy")
from diagnostic_msgs.msg import DiagnosticStatus
from sensor_msgs.msg import CameraInfo, Image, PointCloud2

OUTPUTS = {
    "segmentation/image": Image,
    "segmentation/overlay": Image,
    "segmentation/labels": Image,
    "segmentation/confidence": Image,
    "depth/image": Image,
    "depth/camera_info": CameraInfo,
    "points": PointCloud2,
}
POINT = np.dtype([("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("rgb", "<u4"), ("label", "<u4")])


def stamp_of(message: Any) -> int:
    return int(message.header.stamp.sec) * 10**9 + int(message.header.stamp.nanosec)


def put_header(message: Any, stamp_ns: int, frame_id: str) -> None:
    message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp_ns, 10**9)
    message.header.frame_id = frame_id


def set_data(message: Any, data: bytes) -> Any:
    message.data = array.array("B", data)
    return message


def image(pixels: np.ndarray, encoding: str = "rgb8", padding: int = 0, is_bigendian: bool = False, **fields: Any) -> Image:
    """Return an Image with pixels in the layout of the encoding; `fields` override correct values."""
    rows = np.ascontiguousarray(pixels).reshape(len(pixels), -1)
    if rows.dtype.itemsize > 1:
        rows = rows.astype(rows.dtype.newbyteorder(">" if is_bigendian else "<"))
    rows = rows.view(np.uint8)
    rows = np.pad(rows, ((0, 0), (0, padding)), constant_values=173)
    message = Image(height=pixels.shape[0], width=pixels.shape[1], encoding=encoding, step=rows.shape[1])
    message.is_bigendian = int(is_bigendian)
    set_data(message, rows.tobytes())
    for name, value in fields.items():
        setattr(message, name, value)
    return message


def camera_info(
    width: int, height: int, fx: float = 60.0, fy: float = 62.0, cx: float | None = None, cy: float | None = None, **fields: Any
) -> CameraInfo:
    """Return the CameraInfo of a rectified camera, whose K differs from its P."""
    cx = width / 2 - 1.25 if cx is None else cx
    cy = height / 2 + 0.75 if cy is None else cy
    message = CameraInfo(width=width, height=height, distortion_model="plumb_bob", d=[0.0] * 5)
    message.k = [fx + 3, 0.0, cx + 1, 0.0, fy + 3, cy + 1, 0.0, 0.0, 1.0]
    message.r = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
    message.p = [fx, 0.0, cx, 0.0, 0.0, fy, cy, 0.0, 0.0, 0.0, 1.0, 0.0]
    for name, value in fields.items():
        setattr(message, name, value)
    return message


# Reading.


def values_of(status: DiagnosticStatus) -> dict[str, str]:
    return {entry.key: entry.value for entry in status.values}


def labels_of(message: Image) -> np.ndarray:
    assert (message.encoding, message.step, message.is_bigendian) == ("mono8", message.width, 0)
    return np.frombuffer(message.data, np.uint8).reshape(message.height, message.width)


def colors_of(message: Image) -> np.ndarray:
    """Return the pixels as RGB."""
    assert (message.encoding, message.step, message.is_bigendian) == ("bgr8", 3 * message.width, 0)
    return np.frombuffer(message.data, np.uint8).reshape(message.height, message.width, 3)[..., ::-1]


def depth_of(message: Image) -> np.ndarray:
    assert (message.encoding, message.step, message.is_bigendian) == ("32FC1", 4 * message.width, 0)
    return np.frombuffer(message.data, "<f4").reshape(message.height, message.width)


def cloud_of(message: PointCloud2) -> np.ndarray:
    found = [(field.name, field.offset, field.datatype, field.count) for field in message.fields]
    float32, uint32 = 7, 6
    kinds = {"x": float32, "y": float32, "z": float32, "rgb": float32, "label": uint32}
    assert found == [(name, 4 * i, kind, 1) for i, (name, kind) in enumerate(kinds.items())]
    assert (message.point_step, message.row_step, message.is_bigendian) == (20, 20 * message.width, False)
    assert len(message.data) == message.row_step * message.height
    return np.frombuffer(message.data, POINT).reshape(message.height, message.width)


def colors_of_cloud(cloud: np.ndarray) -> np.ndarray:
    """Return the RGB colors of the packed field."""
    return np.stack([cloud["rgb"] >> 16 & 255, cloud["rgb"] >> 8 & 255, cloud["rgb"] & 255], axis=-1).astype(np.uint8)


def assert_same(outputs: dict[str, Any], expected: dict[str, Any]) -> None:
    """Check that two sets of outputs are equal."""
    assert set(outputs) == set(OUTPUTS)
    for topic in OUTPUTS:
        if topic != "depth/camera_info":
            assert outputs[topic].data == expected[topic].data, topic
