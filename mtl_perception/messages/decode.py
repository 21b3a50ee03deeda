"""Decoders of ROS messages: Image and CompressedImage to RGB, CameraInfo to a calibration.

Messages may come from rclpy or from a bag; only their attributes are used. Every field is validated first because a driver can
send anything.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from mtl_perception.camera.camera_info import calibration_from_camera_info
from mtl_perception.camera.model import Calibration
from mtl_perception.errors import CameraError, FrameError, truncated_repr
from mtl_perception.image.files import check_size, decode_image_bytes
from mtl_perception.messages.encodings import PIXEL_LAYOUTS, SEMIPLANAR_LAYOUTS, SemiplanarLayout, find_refusal, refuse
from mtl_perception.types import CLOUD_DTYPE

VIDEO_FORMATS = ("h264", "h.264", "avc", "h265", "h.265", "hevc", "vp8", "vp9", "av1", "mpeg4")
"""Formats of drivers that send each frame of a video as a CompressedImage; most frames depend on others."""
DARK = 64
"""Brightest 8-bit value of an image whose 16-bit samples have 14 bits or fewer."""
FLAT = 16
"""Range of 8-bit values of an image whose 16-bit samples are temperatures: 41 K in hundredths of a kelvin."""

# Y, U, V (BT.601, video range) to RGB, as in OpenCV's conversion of YUV 4:2:0 (color_yuv.simd.hpp).
_YUV_TO_RGB = np.array(
    [
        [1.164, 0.0, 1.596, -1.164 * 16 - 1.596 * 128],
        [1.164, -0.391, -0.813, -1.164 * 16 + (0.391 + 0.813) * 128],
        [1.164, 2.018, 0.0, -1.164 * 16 - 2.018 * 128],
    ]
)


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
    semiplanar = SEMIPLANAR_LAYOUTS.get(message.encoding)
    if semiplanar is not None:
        return _decode_semiplanar(message, semiplanar)
    layout = PIXEL_LAYOUTS.get(message.encoding)
    if layout is None:
        raise refuse(message.encoding)
    pixel_bytes = layout.channels * layout.item_bytes
    if step < width * pixel_bytes:
        raise FrameError(
            f"image step {step} is too small: {width} pixels of {message.encoding} need {width * pixel_bytes} bytes; let the "
            "publisher set step to the length of a row in bytes",
            "step",
        )
    if len(message.data) != step * height:
        raise FrameError(
            f"image has {len(message.data)} bytes of data, but height {height} x step {step} = {step * height}", "data_length"
        )
    if layout.to_rgb in (cv2.COLOR_YUV2RGB_UYVY, cv2.COLOR_YUV2RGB_YUY2) and width % 2:
        raise FrameError(f"image encoding {truncated_repr(message.encoding)} needs an even width, not {width}", "size")
    _check_mosaic(message.encoding, width, height)
    kind = "u1" if layout.item_bytes == 1 else (">u2" if message.is_bigendian else "<u2")
    shape = (height, width) if layout.channels == 1 else (height, width, layout.channels)
    strides = (step, pixel_bytes, layout.item_bytes)[: len(shape)]
    pixels: np.ndarray = np.ndarray(shape, np.dtype(kind), memoryview(message.data), strides=strides)
    return _to_rgb(pixels, layout.to_rgb)


def _check_mosaic(encoding: str, width: int, height: int) -> None:
    if encoding.startswith("bayer_") and min(width, height) < 3:
        # Without neighbors to interpolate from, OpenCV returns black pixels.
        raise FrameError(f"image encoding {truncated_repr(encoding)} needs at least 3x3 pixels, not {width}x{height}", "size")


def _to_rgb(pixels: np.ndarray, conversion: int | None) -> np.ndarray:
    """Convert 8 or 16-bit samples to 8-bit RGB; see `PixelLayout.to_rgb`."""
    if conversion is not None:
        pixels = np.ascontiguousarray(pixels, pixels.dtype.newbyteorder("="))
        pixels = cv2.cvtColor(pixels, conversion)
    if pixels.dtype.itemsize == 2:
        pixels = cv2.convertScaleAbs(np.ascontiguousarray(pixels, np.uint16), alpha=255 / 65535)
    return pixels


def original_encoding(message: Any) -> str:
    """Return the encoding of an Image, or that before compression in the format of a CompressedImage, if it has one."""
    if hasattr(message, "encoding"):
        return str(message.encoding)
    return str(message.format).partition(";")[0].strip()


def describe_dark_samples(encoding: str, image: np.ndarray) -> str:
    """Describe that 16-bit samples use little of their range, as of sensors of 10 to 14 bits, thermal cameras, and depth.

    Args:
        encoding: Encoding of the image before compression.
        image: The decoded image, uint8.

    Returns:
        A message for the user; empty if there is nothing to report.
    """
    layout = PIXEL_LAYOUTS.get(encoding)
    if layout is None or layout.item_bytes == 1:
        return ""
    darkest, brightest = int(image.min()), int(image.max())
    if brightest > DARK:
        if brightest - darkest > FLAT:
            return ""
        return (
            f"images of {encoding} have nearly no contrast: values from about {darkest * 257} to {brightest * 257} of 65535, "
            "as of thermal cameras; let the driver scale them to 16 bits, or send 8 bits"
        )
    return (
        f"images of {encoding} are nearly black: values up to about {brightest * 257} of 65535; let the driver scale them "
        "to 16 bits, or send 8 bits (depth images cannot be used)"
    )


def _decode_semiplanar(message: Any, layout: SemiplanarLayout) -> np.ndarray:
    """Decode a plane of Y, followed by one of U and V.

    As in V4L2, a row of Y takes `step` bytes, and both planes have the same padding. In some drivers `step` covers the samples
    of all planes (1.5, 2 or 3 bytes per pixel); the planes then have no padding.
    """
    height, width, step = int(message.height), int(message.width), int(message.step)
    encoding, rows = message.encoding, layout.rows(height)
    if width % layout.subsampling or height % layout.subsampling:
        raise FrameError(f"image encoding {encoding} needs an even width and height, not {width}x{height}", "size")
    if step < width:
        raise FrameError(f"image step {step} is too small: {width} pixels of {encoding} need {width} bytes", "step")
    if encoding == "yuv444" and step >= 3 * width and len(message.data) == step * height:
        raise FrameError("unsupported image encoding 'yuv444' with interleaved channels, whose order is unknown", "encoding")
    data = np.frombuffer(memoryview(message.data), np.uint8)
    stride = next((stride for stride in (step, width) if stride * rows == data.size), None)
    if stride is None:
        needed = f"{rows / height:g} x height {height} x step {step} = {step * rows}"
        raise FrameError(f"image has {data.size} bytes of data, but {encoding} has {needed}", "data_length")
    if layout.to_rgb is not None:
        return np.asarray(cv2.cvtColor(np.ascontiguousarray(data.reshape(rows, stride)[:, :width]), layout.to_rgb))
    yuv = np.empty((height, width, 3), np.uint8)
    yuv[..., 0] = data[: stride * height].reshape(height, stride)[:, :width]
    yuv[..., 1:] = data[stride * height :].reshape(height, stride, 2)[:, :width]
    return np.asarray(cv2.transform(yuv, _YUV_TO_RGB))


def decode_compressed_image(message: Any) -> np.ndarray:
    """Decode a sensor_msgs/CompressedImage with JPEG, PNG, TIFF, BMP, WebP or GIF data.

    The format is `ENCODING; CODEC compressed STORED`, where ENCODING is that of the original image, and STORED, if present, the
    one that was passed to OpenCV's encoder (CompressedImage.msg, compressed_subscriber.cpp). Other texts are ignored.

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
    if message.format.lower().startswith(VIDEO_FORMATS):
        raise FrameError(
            f"compressed image of format {truncated_repr(message.format)} is video, which is not read; let the camera send "
            "JPEG, or decode it with image_transport's republish",
            "encoding",
        )
    original, _, rest = message.format.partition(";")
    encoding = original.strip()
    _, compressed, stored = rest.partition("compressed")
    stored = stored.strip() or encoding
    if find_refusal(encoding):
        raise refuse(encoding)
    if len(message.data) == 0:
        raise FrameError("compressed image has no data", "data_length")
    data = bytes(memoryview(message.data))
    try:
        if encoding.startswith("bayer_") and encoding in PIXEL_LAYOUTS and stored not in ("mono8", "mono16"):
            return _decode_mosaic(data, encoding)
        image = decode_image_bytes(data)
    except FrameError as error:
        raise FrameError(f"compressed image of format {truncated_repr(message.format)}: {error}", error.reason) from error
    # OpenCV's encoders take every image for BGR, so red and blue of images passed to them as RGB are swapped in the file.
    return np.ascontiguousarray(image[..., ::-1]) if compressed and stored.startswith("rgb") else image


def _decode_mosaic(data: bytes, encoding: str) -> np.ndarray:
    """Decode a compressed image of a Bayer sensor: usually the mosaic itself, as gray."""
    pixels = decode_image_bytes(data, as_stored=True)
    if pixels.ndim == 3:
        # The driver has demosaiced the image.
        return decode_image_bytes(data)
    _check_mosaic(encoding, pixels.shape[1], pixels.shape[0])
    if pixels.dtype not in (np.uint8, np.uint16):
        raise FrameError(f"it has {pixels.dtype} samples, not those of a Bayer pattern", "compressed")
    return _to_rgb(pixels, PIXEL_LAYOUTS[encoding].to_rgb)


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
