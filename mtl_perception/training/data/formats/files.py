"""Reads image, label and depth files of data sets, and matches them by name. Every error is a SourceError naming the file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import cv2
import numpy as np

from mtl_perception.errors import FrameError, SourceError
from mtl_perception.image.files import read_image_file
from mtl_perception.placeholders import HEAD_BYTES, describe_placeholder
from mtl_perception.sources.images import list_images

DEPTH_SCALE = 256
DEPTH_INF = 65535
"""Our depth images store meters x DEPTH_SCALE; 0 is unknown, DEPTH_INF is the sky and everything beyond the range."""

Shape = tuple[int, int]
"""Height and width of an image, pixels."""


def read_image(path: Path) -> np.ndarray:
    """Read an image: H x W x 3 uint8, RGB, C-contiguous.

    Raises:
        SourceError: The file is missing or not an image.
    """
    try:
        return read_image_file(path)
    except FrameError as error:
        raise SourceError(str(error)) from error


def read_gray(path: Path, dtype: type[np.generic], what: str, shape: Shape) -> np.ndarray:
    """Read an image of one channel and of the size of its image without conversion: H x W of this dtype.

    Raises:
        SourceError: The file is missing or damaged, has several channels (such as a palette), another bit depth or size.
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
        raise SourceError(f"{what} {path} is {describe_placeholder(data.tobytes()[:HEAD_BYTES]) or 'damaged or not an image'}")
    bits = np.dtype(dtype).itemsize * 8
    if pixels.ndim != 2:
        raise SourceError(f"{what} {path} has {pixels.shape[2]} channels; store ids or depth in one gray {bits}-bit channel")
    if pixels.dtype != dtype:
        raise SourceError(f"{what} {path} has {pixels.dtype.itemsize * 8} bits per pixel, not {bits}")
    if pixels.shape != shape:
        raise SourceError(f"{what} {path} is {pixels.shape[1]}x{pixels.shape[0]}, its image is {shape[1]}x{shape[0]}")
    return pixels


def read_labels(path: Path, shape: Shape) -> np.ndarray:
    """Read stored ids: H x W uint8.

    Raises:
        SourceError: The file is not an 8-bit gray image of that shape.
    """
    return read_gray(path, np.uint8, "label image", shape)


def read_depth_values(path: Path, shape: Shape) -> np.ndarray:
    """Read stored depth values: H x W uint16.

    Raises:
        SourceError: The file is not a 16-bit gray image of that shape.
    """
    return read_gray(path, np.uint16, "depth image", shape)


def read_depth(path: Path, shape: Shape, scale: float, sky: int | None = None) -> np.ndarray:
    """Read depth: H x W float32, m = stored value / scale; 0 is unknown and becomes NaN, the value `sky` becomes +Inf.

    Raises:
        SourceError: The file is not a 16-bit gray image of that shape.
    """
    values = read_depth_values(path, shape)
    depth: np.ndarray = values.astype(np.float32) / np.float32(scale)
    depth[values == 0] = np.nan
    if sky is not None:
        depth[values == sky] = np.inf
    return depth


def files_by_stem(folder: Path) -> dict[str, Path]:
    """Return the images of a folder by name without suffix, in natural order; empty if there is no such folder."""
    return {path.stem: path for path in list_images(folder)} if folder.is_dir() else {}


def require_folder(folder: Path, what: str) -> Path:
    """Return the folder.

    Raises:
        SourceError: It does not exist.
    """
    if not folder.is_dir():
        raise SourceError(f"{what}: there is no folder {folder}")
    return folder


def check_partner_files(
    images: Iterable[str], others: Mapping[str, Path], folder: Path, what: str, *, complete: bool = False
) -> None:
    """Check that every file of `others` has an image and, if `complete`, every image a file.

    Raises:
        SourceError: The first file without a partner.
    """
    stems = list(images)
    known = set(stems)
    for stem, path in others.items():
        if stem not in known:
            raise SourceError(f"{what} {path} has no image of that name")
    for stem in stems if complete else ():
        if stem not in others:
            raise SourceError(f"{what} {folder / (stem + '.png')} is missing: there is an image of that name")
