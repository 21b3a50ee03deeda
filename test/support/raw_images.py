"""Image and CompressedImage messages for tests of decoders, as plain values."""

from __future__ import annotations

import array
from types import SimpleNamespace

import cv2
import numpy as np

CONTAINERS = {
    "array": lambda data: array.array("B", data),
    "bytes": bytes,
    "numpy": lambda data: np.frombuffer(data, np.uint8),
}
BAYER = {"rggb": "RGGB", "bggr": "BGGR", "gbrg": "GBRG", "grbg": "GRBG"}


def message(pixels: np.ndarray, encoding: str, padding: int = 0, big_endian: bool = False, container: str = "bytes"):
    """Return an Image of these samples, H x W or H x W x C."""
    samples = pixels.astype(pixels.dtype.newbyteorder(">" if big_endian else "<"))
    rows = [row.tobytes() + b"\xa5" * padding for row in samples]
    return SimpleNamespace(
        height=pixels.shape[0], width=pixels.shape[1], encoding=encoding, is_bigendian=int(big_endian), step=len(rows[0]),
        data=CONTAINERS[container](b"".join(rows)),
    )  # fmt: skip


def to_eight_bits(values: np.ndarray) -> np.ndarray:
    """Return round(v * 255 / 65535) in integers; there are no ties."""
    return ((values.astype(np.int64) * 255 * 2 + 65535) // (2 * 65535)).astype(np.uint8)


def mosaic(rgb: np.ndarray, pattern: str) -> np.ndarray:
    """Return the raw image of a sensor with this filter pattern (two filters of the first row, then of the second)."""
    raw = np.empty(rgb.shape[:2], rgb.dtype)
    for i, letter in enumerate(pattern):
        raw[i // 2 :: 2, i % 2 :: 2] = rgb[i // 2 :: 2, i % 2 :: 2, "RGB".index(letter)]
    return raw


def compressed(data: bytes, form: str = "jpeg", container: str = "array") -> SimpleNamespace:
    return SimpleNamespace(format=form, data=CONTAINERS[container](data))


def encoded(suffix: str, rgb: np.ndarray) -> bytes:
    pixels = rgb[..., ::-1] if rgb.ndim == 3 else rgb
    return cv2.imencode(suffix, pixels)[1].tobytes()
