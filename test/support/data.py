"""Makes tiny data sets for the tests."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np


def write_picture(path: Path, pixels: np.ndarray) -> Path:
    """A picture file as OpenCV writes it; folders are made. Colors are taken as RGB."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels[..., ::-1] if pixels.ndim == 3 else pixels)
    return path


def photo(path: Path, width: int = 20, height: int = 10, value: int = 100) -> Path:
    """A plain color picture."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[...] = (value, value // 2, 7)
    return write_picture(path, pixels)


def ids(path: Path, value: int = 0, width: int = 20, height: int = 10, **pixels: int) -> Path:
    """An 8-bit label picture of one id; `at_V_U=id` sets single pixels."""
    return write_picture(path, _with(np.full((height, width), value, np.uint8), pixels))


def stored(path: Path, width: int = 20, height: int = 10, **pixels: int) -> Path:
    """A 16-bit picture of zeros; `at_V_U=value` sets single pixels."""
    return write_picture(path, _with(np.zeros((height, width), np.uint16), pixels))


def write_text(path: Path, text: str) -> Path:
    """A text file; folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def kitti2015(root: Path, numbers: list[int], depth: list[int] | None = None) -> Path:
    """The `image label depth` layout."""
    for number in numbers:
        photo(root / f"image/{number:06d}_10.png")
        ids(root / f"label/{number:06d}_10.png", 7)
    for number in depth or []:
        stored(root / f"depth/{number:06d}_10.png", at_4_3=2560)
    return root


def _with(array: np.ndarray, pixels: dict[str, int]) -> np.ndarray:
    for name, value in pixels.items():
        _, v, u = name.split("_")
        array[int(v), int(u)] = value
    return array
