"""Image and PLY files of a result."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from mtl_perception.errors import SourceError
from mtl_perception.labels import ClassSet
from mtl_perception.types import Result
from mtl_perception.visualization.cloud import write_ply
from mtl_perception.visualization.colors import colorize_labels, overlay
from mtl_perception.visualization.files import replacing

DEPTH_SCALE = 256
"""Depth images store meters times this value, as KITTI's do; 0 = invalid."""


def save_result(folder: Path, stem: str, result: Result, class_set: ClassSet, opacity: float) -> None:
    """Write `<stem>.labels.png`, `.depth.png`, `.color.png`, `.overlay.png` and, with a cloud, `<stem>.ply`.

    Args:
        folder: Output folder.
        stem: First part of the file names.
        result: Result with labels, depth and image.
        class_set: Classes of the labels.
        opacity: Weight of the class colors in the overlay, 0..1.

    Raises:
        SourceError: A file cannot be written.
    """
    assert result.labels is not None
    assert result.depth is not None
    assert result.image is not None
    colors = colorize_labels(result.labels, class_set)
    blended = overlay(result.image, result.labels, class_set, opacity, colors=colors)
    _write_png(folder / f"{stem}.labels.png", result.labels)
    _write_png(folder / f"{stem}.depth.png", depth_to_png(result.depth))
    _write_png(folder / f"{stem}.color.png", cv2.cvtColor(colors, cv2.COLOR_RGB2BGR))
    _write_png(folder / f"{stem}.overlay.png", cv2.cvtColor(blended, cv2.COLOR_RGB2BGR))
    if result.cloud is not None:
        write_ply(folder / f"{stem}.ply", result.cloud)


def depth_to_png(depth: np.ndarray) -> np.ndarray:
    """Encode depth in meters as KITTI's uint16: meters x 256, rounded, clipped to 1..65535; 0 where not finite."""
    finite = np.isfinite(depth)
    scaled = np.clip(np.rint(np.where(finite, depth, 0) * DEPTH_SCALE), 1, 65535)
    return np.where(finite, scaled, 0).astype(np.uint16)


def _write_png(path: Path, pixels: np.ndarray) -> None:
    encoded, data = cv2.imencode(".png", pixels)
    if not encoded:
        raise SourceError(f"cannot encode {path}")
    with replacing(path) as part:
        part.write_bytes(data.tobytes())
