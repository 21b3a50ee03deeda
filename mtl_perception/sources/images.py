"""Picture files: one, or a folder of them."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from mtl_perception.camera.calibration import load_calibration, needs_size
from mtl_perception.camera.model import Calibration
from mtl_perception.errors import FrameError, SourceError
from mtl_perception.messages.decode import decode_image_bytes
from mtl_perception.sources.base import DEFAULT_RATE_HZ, CameraResolver, natural_key
from mtl_perception.types import Frame

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
CAMERA_FILES = ("camera.yaml", "calib_cam_to_cam.txt", "calib.txt")
"""A folder's calibration, the first of these that is there."""

logger = logging.getLogger(__name__)


def read_image_file(path: str | Path) -> np.ndarray:
    """A picture file as the sensor took it: a rotation in EXIF is ignored, since calibrations are for the sensor's rows.

    Returns:
        H x W x 3 uint8, RGB. Gray is repeated, 16 bits are scaled down to 8, transparency is dropped.

    Raises:
        FrameError: Missing, or not a picture that can be read (reason "unreadable").
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FrameError(f"picture {path} cannot be read: {error.strerror}", "unreadable") from None
    try:
        return decode_image_bytes(data)
    except FrameError as error:
        raise FrameError(f"picture {path}: {error}", "unreadable") from error


def list_images(folder: Path) -> list[Path]:
    """The folder's picture files, not its subfolders', in natural order.

    Raises:
        SourceError: The folder cannot be read.
    """
    try:
        return sorted((path for path in folder.iterdir() if is_image_file(path)), key=natural_key)
    except OSError as error:
        raise SourceError(f"folder {folder} cannot be read: {error.strerror}") from None


def is_image_file(path: Path) -> bool:
    """Whether the name says so."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()


class ImageSource:
    """Picture files as a source: stamps count from 0 at 10 Hz, or are those given. See `Source`.

    A picture of a folder that cannot be read is left out, counted in `rejected` by its reason, and warned of; alone it
    raises. Pictures may differ in size: the camera follows where they are the same picture resized, else it is None.

    Args:
        paths: The files, at least one.
        name: The source's name.
        rectified: See `CameraResolver`.
        camera_file: Calibration; None: the one beside the pictures (see CAMERA_FILES), if any.
        calibration: Calibration that is loaded already; goes before the files.
        stamps_ns: One for each file; None: from 0 at 10 Hz.
        rate_hz: Frames a second, where stamps are given.
        frame_id: Name of the camera's optical frame.

    Raises:
        CameraError: The camera file cannot be used.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        name: str,
        *,
        rectified: bool = True,
        camera_file: Path | None = None,
        calibration: Calibration | None = None,
        stamps_ns: Sequence[int] | None = None,
        rate_hz: float = DEFAULT_RATE_HZ,
        frame_id: str = "camera_optical_frame",
    ) -> None:
        self.name = name
        self.rate_hz = rate_hz
        self.paths = list(paths)
        self.rejected: Counter[str] = Counter()
        self.frame_id = frame_id
        self.rectified = rectified
        self.calibration = calibration
        # A camera file that does not say the pictures' size waits for the first picture.
        self._sizeless_file: Path | None = None
        camera_file = camera_file or _camera_file_beside(self.paths[0])
        if calibration is None and camera_file is not None:
            if needs_size(camera_file):
                self._sizeless_file = camera_file
            else:
                self.calibration = load_calibration(camera_file)
        interval = round(1e9 / rate_hz)
        self.stamps_ns = [i * interval for i in range(len(self.paths))] if stamps_ns is None else list(stamps_ns)

    def __len__(self) -> int:
        return len(self.paths)

    def __iter__(self) -> Iterator[Frame]:
        self.rejected.clear()
        fit = CameraResolver(self.name, self.rectified)
        for path, stamp_ns in zip(self.paths, self.stamps_ns, strict=True):
            try:
                image = read_image_file(path)
            except FrameError as error:
                if len(self.paths) == 1:
                    raise
                self.rejected[error.reason] += 1
                logger.warning("%s: left out: %s", self.name, error)
                continue
            height, width = image.shape[:2]
            if self._sizeless_file is not None:
                self.calibration = load_calibration(self._sizeless_file, size=(width, height))
                self._sizeless_file = None
            yield Frame(image, fit.camera(self.calibration, width, height), stamp_ns, self.frame_id)


def _camera_file_beside(picture: Path) -> Path | None:
    return next((path for name in CAMERA_FILES if (path := picture.parent / name).is_file()), None)
