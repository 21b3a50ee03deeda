"""Decoders of ROS messages: Image and CompressedImage to RGB, CameraInfo to a calibration.

Messages may come from rclpy or from a bag; only their attributes are used. Every field is validated first because a driver can
send anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from mtl_perception.camera.model import Calibration, calibration_from_camera_info
from mtl_perception.errors import CameraError, FrameError, truncated_repr
from mtl_perception.image.files import check_size, decode_image_bytes
from mtl_perception.types import CLOUD_DTYPE


@dataclass(frozen=True)
class PixelLayout:
    """Memory layout of an encoding.

    Attributes:
        channels: Channels per pixel.
        item_bytes: Bytes per channel.
        to_rgb: OpenCV's color conversion to RGB; None for RGB.
    """

    channels: int
    item_bytes: int
    to_rgb: int | None


# OpenCV names a Bayer pattern by the second and third pixel of the second row, ROS by the first two rows: RGGB is OpenCV's BG.
_BAYER = {
    "rggb": cv2.COLOR_BayerBG2RGB,
    "bggr": cv2.COLOR_BayerRG2RGB,
    "gbrg": cv2.COLOR_BayerGR2RGB,
    "grbg": cv2.COLOR_BayerGB2RGB,
}
_COLOR = {
    "rgb": (3, None),
    "bgr": (3, cv2.COLOR_BGR2RGB),
    "rgba": (4, cv2.COLOR_RGBA2RGB),
    "bgra": (4, cv2.COLOR_BGRA2RGB),
    "mono": (1, cv2.COLOR_GRAY2RGB),
}
PIXEL_LAYOUTS: dict[str, PixelLayout] = {
    **{f"{name}{8 * size}": PixelLayout(c, size, code) for name, (c, code) in _COLOR.items() for size in (1, 2)},
    **{f"bayer_{name}{8 * size}": PixelLayout(1, size, code) for name, code in _BAYER.items() for size in (1, 2)},
    # Generic encodings are in OpenCV's channel order.
    **{f"{bits}UC1": PixelLayout(1, bits // 8, cv2.COLOR_GRAY2RGB) for bits in (8, 16)},
    **{f"{bits}UC3": PixelLayout(3, bits // 8, cv2.COLOR_BGR2RGB) for bits in (8, 16)},
    **{f"{bits}UC4": PixelLayout(4, bits // 8, cv2.COLOR_BGRA2RGB) for bits in (8, 16)},
    **{name: PixelLayout(2, 1, cv2.COLOR_YUV2RGB_UYVY) for name in ("yuv422", "uyvy")},
    **{name: PixelLayout(2, 1, cv2.COLOR_YUV2RGB_YUY2) for name in ("yuv422_yuy2", "yuyv")},
}


def decode_image(message: Any) -> np.ndarray:
    """Decode a sensor_msgs/Image.

    Args:
        message: Object with height, width, encoding, is_bigendian, step and data.

    Returns:
        H x W x 3 uint8, RGB; 16-bit values are scaled by 255 / 65535 and rounded as in cv_bridge. The array may share the
        message's memory: do not write to it.

    Raises:
        FrameError: Size, encoding, step and data length do not match; `reason` names the field.
    """
    height, width, step = int(message.height), int(message.width), int(message.step)
    check_size(width, height)
    layout = PIXEL_LAYOUTS.get(message.encoding)
    if layout is None:
        if not message.encoding:
            raise FrameError("image has no encoding", "encoding")
        raise FrameError(
            f"unsupported image encoding {truncated_repr(message.encoding)} (supported: {', '.join(PIXEL_LAYOUTS)})",
            "encoding",
        )
    pixel_bytes = layout.channels * layout.item_bytes
    if step < width * pixel_bytes:
        raise FrameError(
            f"image step {step} is too small: {width} pixels of {message.encoding} need {width * pixel_bytes} bytes", "step"
        )
    if len(message.data) != step * height:
        raise FrameError(
            f"image has {len(message.data)} bytes of data, but height {height} x step {step} = {step * height}", "data_length"
        )
    if layout.to_rgb in (cv2.COLOR_YUV2RGB_UYVY, cv2.COLOR_YUV2RGB_YUY2) and width % 2:
        raise FrameError(f"image encoding {truncated_repr(message.encoding)} needs an even width, not {width}", "size")
    if message.encoding.startswith("bayer_") and min(width, height) < 3:
        # Without neighbors to interpolate from, OpenCV returns black pixels.
        raise FrameError(
            f"image encoding {truncated_repr(message.encoding)} needs at least 3x3 pixels, not {width}x{height}", "size"
        )
    kind = "u1" if layout.item_bytes == 1 else (">u2" if message.is_bigendian else "<u2")
    shape = (height, width) if layout.channels == 1 else (height, width, layout.channels)
    strides = (step, pixel_bytes, layout.item_bytes)[: len(shape)]
    pixels: np.ndarray = np.ndarray(shape, np.dtype(kind), memoryview(message.data), strides=strides)
    return _to_rgb(pixels, layout)


def _to_rgb(pixels: np.ndarray, layout: PixelLayout) -> np.ndarray:
    if layout.to_rgb is not None:
        pixels = np.ascontiguousarray(pixels, pixels.dtype.newbyteorder("="))
        pixels = cv2.cvtColor(pixels, layout.to_rgb)
    if layout.item_bytes == 2:
        pixels = cv2.convertScaleAbs(np.ascontiguousarray(pixels, np.uint16), alpha=255 / 65535)
    return pixels


def decode_compressed_image(message: Any) -> np.ndarray:
    """Decode a sensor_msgs/CompressedImage with JPEG, PNG, TIFF, BMP, WebP or GIF data.

    Args:
        message: Object with format and data.

    Returns:
        H x W x 3 uint8, RGB, in the sensor's orientation: a rotation in EXIF is ignored.

    Raises:
        FrameError: The data are empty, depth, or not a valid image.
    """
    if "compressedDepth" in message.format:
        raise FrameError(
            f"compressed image of format {truncated_repr(message.format)} contains depth, not color or gray", "encoding"
        )
    if len(message.data) == 0:
        raise FrameError("compressed image has no data", "data_length")
    try:
        return decode_image_bytes(bytes(memoryview(message.data)))
    except FrameError as error:
        raise FrameError(f"compressed image of format {truncated_repr(message.format)}: {error}", error.reason) from error


def decode_camera_info(message: Any) -> Calibration:
    """Decode a sensor_msgs/CameraInfo of ROS 2 (fields k, d, r, p) or ROS 1 (K, D, R, P).

    Raises:
        CameraError: The values are invalid.
    """

    def matrix(name: str) -> list[float]:
        values = getattr(message, name, None)
        return [float(v) for v in (getattr(message, name.upper()) if values is None else values)]

    roi = message.roi
    try:
        return calibration_from_camera_info(
            int(message.width),
            int(message.height),
            matrix("k"),
            matrix("d"),
            str(message.distortion_model),
            matrix("r"),
            matrix("p"),
            binning=(int(message.binning_x), int(message.binning_y)),
            roi=(int(roi.x_offset), int(roi.y_offset), int(roi.width), int(roi.height)),
        )
    except (AttributeError, TypeError, ValueError) as error:
        raise CameraError(f"camera_info cannot be read: {error}") from error


def stamp_ns(header: Any) -> int:
    """Return the stamp of a header in nanoseconds."""
    return int(header.stamp.sec) * 1_000_000_000 + int(header.stamp.nanosec)


def decode_depth(message: Any) -> np.ndarray:
    """Decode a 32FC1 sensor_msgs/Image.

    Returns:
        H x W float32, meters.

    Raises:
        FrameError: The encoding differs, or the data length does not match the size.
    """
    height, width, step = int(message.height), int(message.width), int(message.step)
    if message.encoding != "32FC1":
        raise FrameError(f"depth image has encoding {truncated_repr(message.encoding)}, not 32FC1", "encoding")
    if step < 4 * width or len(message.data) != step * height:
        raise FrameError(f"depth image of {width}x{height}, step {step}, has {len(message.data)} bytes", "data_length")
    kind = ">f4" if message.is_bigendian else "<f4"
    depth: np.ndarray = np.ndarray((height, width), np.dtype(kind), memoryview(message.data), strides=(step, 4))
    return depth.astype(np.float32)


def decode_cloud(message: Any) -> np.ndarray:
    """Decode a sensor_msgs/PointCloud2 that this package published.

    Returns:
        H x W array of types.CLOUD_DTYPE.

    Raises:
        FrameError: The fields differ, or the data length does not match the size.
    """
    height, width = int(message.height), int(message.width)
    found = [(field.name, int(field.offset)) for field in message.fields]
    wanted = [(name, int(column[1])) for name, column in (CLOUD_DTYPE.fields or {}).items()]
    if found != wanted or message.point_step != CLOUD_DTYPE.itemsize:
        raise FrameError(f"cloud has fields {found} and point step {message.point_step}, not {wanted}", "encoding")
    if len(message.data) != height * width * CLOUD_DTYPE.itemsize:
        raise FrameError(f"cloud of {width}x{height} points has {len(message.data)} bytes", "data_length")
    return np.frombuffer(memoryview(message.data), CLOUD_DTYPE).reshape(height, width)
