"""KITTI raw drives, synced and rectified: `<date>/<date>_drive_NNNN_sync/image_0X/data/*.png`."""

from __future__ import annotations

import calendar
import logging
import re
import time
from pathlib import Path

from mtl_perception.camera.calibration import load_calibration
from mtl_perception.camera.model import Calibration
from mtl_perception.errors import SourceError, one_line, truncated_repr
from mtl_perception.sources.base import median_rate_hz
from mtl_perception.sources.images import ImageSource, list_images

CAMERAS = ("02", "03", "00", "01")
"""In the order of preference: left color, right color, left gray, right gray."""

logger = logging.getLogger(__name__)


def find_camera_folder(path: Path) -> Path | None:
    """The `image_0X` folder that is meant by a drive's folder, by itself, or by the `data` folder in it; else None."""
    if path.name == "data":
        path = path.parent
    for folder in (path, *(path / f"image_{camera}" for camera in CAMERAS)):
        if re.fullmatch(r"image_0[0-3]", folder.name) and (folder / "data").is_dir():
            return folder
    return None


def open_drive(folder: Path, *, rectified: bool = True, camera_file: Path | None = None) -> ImageSource:
    """A drive's camera as a source, with the drive's calibration and stamps.

    Args:
        folder: `.../image_0X`.
        rectified: See `CameraResolver`; a drive's own calibration is that of its rectified pictures and serves both.
        camera_file: Calibration instead of the drive's own.

    Raises:
        SourceError: No pictures, or timestamps.txt does not fit them.
        CameraError: A calibration file that cannot be used; one that is not there is a warning.
    """
    number = folder.name[-2:]
    paths = list_images(folder / "data")
    if not paths:
        raise SourceError(f"KITTI drive {folder.parent}: there are no pictures in {folder / 'data'}")
    name = f"{folder.parent.name}/{folder.name}"
    stamps = _stamps(folder, paths, name)
    return ImageSource(
        paths,
        name,
        rectified=rectified,
        camera_file=camera_file,
        calibration=None if camera_file else _calibration(folder, name, number),
        stamps_ns=stamps,
        rate_hz=median_rate_hz(stamps or ()),
        frame_id=f"camera_{number}_optical_frame",
    )


def parse_stamp(text: str) -> int:
    """Nanoseconds since 1970 of "2011-09-26 13:02:25.964389445", taken as UTC; exact.

    Raises:
        ValueError: It is written in another way.
    """
    whole, _, fraction = text.strip().partition(".")
    if len(fraction) > 9 or (fraction and not (fraction.isascii() and fraction.isdecimal())):
        raise ValueError(f"{truncated_repr(text.strip())} is not YYYY-MM-DD hh:mm:ss.nnnnnnnnn")
    seconds = calendar.timegm(time.strptime(whole, "%Y-%m-%d %H:%M:%S"))
    return seconds * 1_000_000_000 + int(fraction.ljust(9, "0"))


def _calibration(folder: Path, name: str, number: str) -> Calibration | None:
    path = folder.parent.parent / "calib_cam_to_cam.txt"
    if not path.is_file():
        logger.warning("%s: no calibration (%s is missing): frames have no camera", name, path)
        return None
    return load_calibration(path, camera=number)


def _stamps(folder: Path, paths: list[Path], name: str) -> list[int] | None:
    """A stamp for each picture. The picture's number is the line's: single pictures may be missing from a drive."""
    path = folder / "timestamps.txt"
    if not path.is_file():
        logger.warning("%s: %s is missing: stamps count from 0 at 10 Hz", name, path)
        return None
    try:
        lines = path.read_text("utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"timestamps file {path} cannot be read: {error}") from None
    stamps = []
    for picture in paths:
        if not (picture.stem.isascii() and picture.stem.isdecimal()):
            raise SourceError(f"KITTI picture {picture} has no number for a name, so it has no line in {path}")
        index = int(picture.stem)
        if index >= len(lines) or not lines[index].strip():
            raise SourceError(f"timestamps file {path} has no line {index + 1}, which {picture.name} needs")
        try:
            stamps.append(parse_stamp(lines[index]))
        except ValueError as error:
            raise SourceError(f"timestamps file {path}, line {index + 1}: {one_line(error)}") from None
    return stamps
