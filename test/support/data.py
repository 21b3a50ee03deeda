"""Small data sets for tests."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from support.images import noise_image

HEIGHT, WIDTH = 48, 96
"""Size of the images of `write_dataset`."""


def write_image(path: Path, pixels: np.ndarray) -> Path:
    """Write an image file and create its folders; `pixels` with 3 channels are RGB."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels[..., ::-1] if pixels.ndim == 3 else pixels)
    return path


def write_color_image(path: Path, width: int = 20, height: int = 10, value: int = 100) -> Path:
    """Write an image of one color."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[...] = (value, value // 2, 7)
    return write_image(path, pixels)


def write_label_image(path: Path, value: int = 0, width: int = 20, height: int = 10, **pixels: int) -> Path:
    """Write an 8-bit label image of one id; `at_V_U=id` sets single pixels."""
    return write_image(path, _with(np.full((height, width), value, np.uint8), pixels))


def write_uint16_image(path: Path, width: int = 20, height: int = 10, **pixels: int) -> Path:
    """Write a 16-bit image of zeros, as for depth; `at_V_U=value` sets single pixels."""
    return write_image(path, _with(np.zeros((height, width), np.uint16), pixels))


def write_text(path: Path, text: str) -> Path:
    """Write a text file and create its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def write_kitti2015(root: Path, numbers: list[int], depth: list[int] | None = None) -> Path:
    """Write a data set in the layout of KITTI 2015 with the folders image, label and depth."""
    for number in numbers:
        write_color_image(root / f"image/{number:06d}_10.png")
        write_label_image(root / f"label/{number:06d}_10.png", 7)
    for number in depth or []:
        write_uint16_image(root / f"depth/{number:06d}_10.png", at_4_3=2560)
    return root


def write_dataset(root: Path, count: int = 3, classes: str = "street") -> Path:
    """Write a plain folder of noise images with random labels and depth, named as the folder."""
    rng = np.random.default_rng(0)
    for name in ("image", "label", "depth"):
        (root / name).mkdir(parents=True)
    write_text(root / "dataset.yaml", f"format: folder\nname: {root.name}\nlicense: our own\nclasses: {classes}\n")
    for i in range(count):
        cv2.imwrite(str(root / f"image/{i}.png"), noise_image(HEIGHT, WIDTH, i))
        labels = cv2.resize(rng.integers(0, 12, (4, 8)).astype(np.uint8), (WIDTH, HEIGHT), interpolation=cv2.INTER_NEAREST)
        write_image(root / f"label/{i}.png", labels)
        write_image(root / f"depth/{i}.png", rng.integers(0, 60 * 256, (HEIGHT, WIDTH)).astype(np.uint16))
    return root


def _with(array: np.ndarray, pixels: dict[str, int]) -> np.ndarray:
    for name, value in pixels.items():
        _, v, u = name.split("_")
        array[int(v), int(u)] = value
    return array
