"""Decoding of image files, bounded against malformed ones."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from mtl_perception.errors import FrameError
from mtl_perception.image.header import IMAGE_FORMATS, image_size, is_truncated
from mtl_perception.placeholders import HEAD_BYTES, describe_placeholder

MAX_PIXELS = 2**25
"""Limit of 33.6 megapixels; larger images could exhaust the memory and no vehicle camera produces them."""


def read_image_file(path: str | Path) -> np.ndarray:
    """Read an image file in the sensor's orientation: a rotation in EXIF is ignored because calibrations do not include it.

    Returns:
        H x W x 3 uint8, RGB. Gray is replicated, 16 bits are scaled to 8, transparency is dropped.

    Raises:
        FrameError: The file is missing or not a supported image (reason "unreadable").
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        # ValueError: the path contains a null byte.
        reason = error.strerror if isinstance(error, OSError) else error
        raise FrameError(f"image {path} cannot be read: {reason}", "unreadable") from None
    placeholder = describe_placeholder(data[:HEAD_BYTES])
    if placeholder:
        raise FrameError(f"image {path} is {placeholder}", "unreadable")
    try:
        return decode_image_bytes(data)
    except FrameError as error:
        raise FrameError(f"image {path}: {error}", "unreadable") from error


def decode_image_bytes(data: bytes, as_stored: bool = False) -> np.ndarray:
    """Decode the content of a JPEG, PNG, TIFF, BMP, WebP or GIF file; the first frame of an animation.

    Args:
        data: Content of the file.
        as_stored: Return the samples as the file has them: H x W for gray, otherwise BGR(A), 8 or 16 bits.

    Returns:
        H x W x 3 uint8, RGB; 16 bits are scaled to 8, transparency is dropped, a rotation in EXIF is ignored.

    Raises:
        FrameError: The image is damaged, truncated, too large, or of an unsupported format.
    """
    size = image_size(data)
    if size is None:
        raise FrameError(f"damaged or not a supported image ({len(data)} bytes); supported: {IMAGE_FORMATS}", "compressed")
    check_size(*size)
    if is_truncated(data):
        # OpenCV 4 would fill the missing part with gray.
        raise FrameError(f"truncated image ({len(data)} bytes)", "compressed")
    try:
        # Images as stored are never rotated.
        flags = cv2.IMREAD_UNCHANGED if as_stored else cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise FrameError(f"image cannot be decoded ({len(data)} bytes): {error.err}", "compressed") from error
    if pixels is None:
        raise FrameError(f"damaged or not a supported image ({len(data)} bytes)", "compressed")
    check_size(pixels.shape[1], pixels.shape[0])
    return pixels if as_stored else cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)


def check_size(width: int, height: int) -> None:
    """Raise FrameError if an image of this size is empty or exceeds MAX_PIXELS."""
    if width < 1 or height < 1:
        raise FrameError(f"image of {width}x{height} pixels is empty", "size")
    if width * height > MAX_PIXELS:
        raise FrameError(f"image of {width}x{height} pixels is larger than {MAX_PIXELS / 1e6:.1f} megapixels", "size")
