"""Files of labels, depth and colors."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from mtl_perception.errors import SourceError
from mtl_perception.visualization.files import replacing

DEPTH_SCALE = 256
"""Depth images store meters times this value, as KITTI's do; 0 = invalid."""


def depth_to_png(depth: np.ndarray) -> np.ndarray:
    """Encode depth in meters as KITTI's uint16: meters x 256, rounded, clipped to 1..65535; 0 where not finite."""
    finite = np.isfinite(depth)
    scaled = np.clip(np.rint(np.where(finite, depth, 0) * DEPTH_SCALE), 1, 65535)
    return np.where(finite, scaled, 0).astype(np.uint16)


def write_image(path: Path, pixels: np.ndarray) -> None:
    """Write a PNG, or a JPEG of quality 95, replaced atomically.

    Args:
        path: Output file; its suffix selects the format.
        pixels: H x W uint8 or uint16, or H x W x 3 uint8 RGB.

    Raises:
        SourceError: The file cannot be written.
    """
    bgr = cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGB2BGR) if pixels.ndim == 3 else pixels
    encoded, data = cv2.imencode(path.suffix, bgr)
    if not encoded:
        raise SourceError(f"cannot write {path}: OpenCV cannot encode an image of {pixels.dtype} {pixels.shape}")
    with replacing(path) as part:
        part.write_bytes(data.tobytes())
