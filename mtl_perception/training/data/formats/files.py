"""Reads the files of data sets, and finds which belong together. What is wrong is a SourceError that names the file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import cv2
import numpy as np

from mtl_perception.errors import FrameError, SourceError
from mtl_perception.sources.images import list_images, read_image_file

DEPTH_SCALE = 256
BEYOND = 65535
"""Our depth pictures hold meters times DEPTH_SCALE; 0 is unknown, BEYOND is the sky and all that is too far to tell."""

Shape = tuple[int, int]
"""Height and width of a picture, pixels."""


def read_image(path: Path) -> np.ndarray:
    """H x W x 3 uint8, RGB, C-contiguous.

    Raises:
        SourceError: Missing or not a picture.
    """
    try:
        return read_image_file(path)
    except FrameError as error:
        raise SourceError(str(error)) from error


def read_gray(path: Path, dtype: type[np.generic], what: str) -> np.ndarray:
    """A picture of one channel as it is stored: H x W of this dtype.

    Raises:
        SourceError: Missing, damaged, of several channels (a palette too), or of another depth of bits.
    """
    try:
        data = np.frombuffer(path.read_bytes(), np.uint8)
    except OSError as error:
        raise SourceError(f"{what} {path} cannot be read: {error.strerror}") from None
    try:
        pixels = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if data.size else None
    except cv2.error:
        pixels = None
    if pixels is None:
        raise SourceError(f"{what} {path} is damaged or not a picture")
    bits = np.dtype(dtype).itemsize * 8
    if pixels.ndim != 2:
        raise SourceError(
            f"{what} {path} has {pixels.shape[2]} channels (colors, or a palette): it must be gray, of one {bits}-bit channel"
        )
    if pixels.dtype != dtype:
        raise SourceError(f"{what} {path} has {pixels.dtype.itemsize * 8} bits a pixel, not {bits}")
    return pixels


def check_shape(path: Path, what: str, found: Shape, shape: Shape) -> None:
    """Raise SourceError unless a label or depth picture has its picture's size."""
    if found != shape:
        raise SourceError(f"{what} {path} is {found[1]}x{found[0]}, its picture is {shape[1]}x{shape[0]}")


def read_labels(path: Path, shape: Shape) -> np.ndarray:
    """H x W uint8, ids as they are stored.

    Raises:
        SourceError: Not an 8-bit gray picture of that shape.
    """
    labels = read_gray(path, np.uint8, "label picture")
    check_shape(path, "label picture", labels.shape[:2], shape)
    return labels


def read_stored_depth(path: Path, shape: Shape) -> np.ndarray:
    """H x W uint16, as it is stored.

    Raises:
        SourceError: Not a 16-bit gray picture of that shape.
    """
    stored = read_gray(path, np.uint16, "depth picture")
    check_shape(path, "depth picture", stored.shape[:2], shape)
    return stored


def read_depth(path: Path, shape: Shape, scale: float) -> np.ndarray:
    """H x W float32 meters = stored value / scale; 0 is unknown and becomes NaN.

    Raises:
        SourceError: Not a 16-bit gray picture of that shape.
    """
    stored = read_stored_depth(path, shape)
    depth: np.ndarray = stored.astype(np.float32) / np.float32(scale)
    depth[stored == 0] = np.nan
    return depth


def by_stem(folder: Path) -> dict[str, Path]:
    """The folder's pictures by their names without suffix, in natural order; none when there is no such folder."""
    return {path.stem: path for path in list_images(folder)} if folder.is_dir() else {}


def need_folder(folder: Path, what: str) -> Path:
    """The folder, if it is one.

    Raises:
        SourceError: There is none.
    """
    if not folder.is_dir():
        raise SourceError(f"{what}: there is no folder {folder}")
    return folder


def check_partners(
    images: Iterable[str], others: Mapping[str, Path], folder: Path, what: str, *, complete: bool = False
) -> None:
    """Raise SourceError at the first file of `others` without a picture and, if `complete`, the first picture without one."""
    stems = list(images)
    known = set(stems)
    for stem, path in others.items():
        if stem not in known:
            raise SourceError(f"{what} {path} has no picture of that name")
    for stem in stems if complete else ():
        if stem not in others:
            raise SourceError(f"{what} {folder / (stem + '.png')} is missing: there is a picture of that name")
