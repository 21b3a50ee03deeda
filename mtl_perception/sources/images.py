"""Image files and folders of image files."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from mtl_perception.camera.calibration import load_calibration, needs_size
from mtl_perception.camera.model import Calibration
from mtl_perception.camera.transforms import StaticTransform, link_transforms
from mtl_perception.errors import FrameError, SourceError, one_line
from mtl_perception.image.files import read_image_file
from mtl_perception.image.header import IMAGE_FORMATS
from mtl_perception.sources.base import DEFAULT_RATE_HZ, FRAME_ID, CameraResolver, natural_key
from mtl_perception.types import Frame

SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".tif", ".tiff", ".webp", ".gif")
COMPANION_SUFFIXES = frozenset(
    (".cfg", ".csv", ".db", ".ini", ".json", ".log", ".md", ".py", ".sh", ".txt", ".xml", ".yaml", ".yml")
)
"""Suffixes of files that nobody expects to be read as images."""
CAMERA_FILES = ("camera.yaml", "calib_cam_to_cam.txt", "perspective.txt", "calib.txt")
"""Names of a folder's calibration file; the first existing one is used."""

logger = logging.getLogger(__name__)


def list_images(folder: Path) -> list[Path]:
    """Return the image files of a folder, without subfolders, in natural order.

    Raises:
        SourceError: The folder cannot be read.
    """
    try:
        return sorted((path for path in folder.iterdir() if is_image_file(path)), key=natural_key)
    except OSError as error:
        raise SourceError(f"folder {folder} cannot be read: {error.strerror}") from None


def is_image_file(path: Path) -> bool:
    """Return whether the path is a visible file with the suffix of an image."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()


def describe_skipped(folder: Path, also: Callable[[Path], bool] = lambda path: False) -> str:
    """Return the number and names of the files that `list_images` leaves out, as in "2 files skipped: …"; "" if there are none.

    Subfolders, hidden files and `COMPANION_SUFFIXES` do not count.

    Args:
        folder: The folder.
        also: Which other files are read.

    Raises:
        SourceError: The folder cannot be read.
    """
    try:
        entries = sorted(folder.iterdir(), key=natural_key)
    except OSError as error:
        raise SourceError(f"folder {folder} cannot be read: {error.strerror}") from None
    names = []
    for path in entries:
        is_companion = path.name.startswith(".") or path.suffix.lower() in COMPANION_SUFFIXES
        if not (is_companion or path.is_dir() or is_image_file(path) or also(path)):
            names.append(path.name if path.exists() else f"{path.name} (dangling link)")
    if not names:
        return ""
    shown = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
    return f"{len(names)} file{'s' if len(names) > 1 else ''} skipped: {one_line(shown)}; supported: {IMAGE_FORMATS}"


class ImageSource:
    """Source of image files; see `Source`.

    Unreadable images are skipped with a warning and counted in `rejected` by reason; a single one raises. Images may differ in
    size: the camera is scaled where the aspect ratio allows it, else it is None.

    Args:
        paths: One or more files.
        name: Name of the source.
        rectified: See `CameraResolver`.
        camera_file: Calibration file; by default one of `CAMERA_FILES` beside the images.
        stamps_ns: Stamp of each image, nanoseconds; by default from 0 at 10 Hz.
        rate_hz: Frame rate that belongs to `stamps_ns`.
        frame_id: Name of the camera's optical frame.
        transforms: Static transforms; by default that of the optical frame alone.

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
        stamps_ns: Sequence[int] | None = None,
        rate_hz: float = DEFAULT_RATE_HZ,
        frame_id: str = FRAME_ID,
        transforms: Sequence[StaticTransform] | None = None,
    ) -> None:
        self.name = name
        self.rate_hz = rate_hz
        self.paths = list(paths)
        self.rejected: Counter[str] = Counter()
        self.frame_id = frame_id
        self._transforms = link_transforms(frame_id) if transforms is None else list(transforms)
        self.rectified = rectified
        self.calibration: Calibration | None = None
        # A calibration file without an image size is loaded once the size of the first image is known.
        self._sizeless_file: Path | None = None
        self.camera_file = camera_file or camera_file_beside(self.paths[0])
        if self.camera_file is not None:
            if needs_size(self.camera_file):
                self._sizeless_file = self.camera_file
            else:
                self.calibration = load_calibration(self.camera_file, image=self.paths[0])
        interval = round(1e9 / rate_hz)
        self.stamps_ns = [i * interval for i in range(len(self.paths))] if stamps_ns is None else list(stamps_ns)

    def __len__(self) -> int:
        return len(self.paths)

    def static_transforms(self) -> list[StaticTransform]:
        """Return the static transforms."""
        return list(self._transforms)

    def __iter__(self) -> Iterator[Frame]:
        self.rejected.clear()
        cameras = CameraResolver(self.name, self.rectified)
        for path, stamp_ns in zip(self.paths, self.stamps_ns, strict=True):
            try:
                image = read_image_file(path)
            except FrameError as error:
                if len(self.paths) == 1:
                    raise
                self.rejected[error.reason] += 1
                logger.warning("%s: frame skipped: %s", self.name, error)
                continue
            height, width = image.shape[:2]
            if self._sizeless_file is not None:
                self.calibration = load_calibration(self._sizeless_file, size=(width, height), image=path)
                self._sizeless_file = None
            yield Frame(image, cameras.camera(self.calibration, width, height), stamp_ns, self.frame_id)


def camera_file_beside(image: Path) -> Path | None:
    """Return the calibration file in the folder of an image or video; None if there is none."""
    return next((path for name in CAMERA_FILES if (path := image.parent / name).is_file()), None)
