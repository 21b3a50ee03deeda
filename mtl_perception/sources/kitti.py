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
from mtl_perception.sources.images import ImageSource, describe_skipped, list_images

CAMERAS = ("02", "03", "00", "01")
"""Cameras in order of preference: left color, right color, left gray, right gray."""

logger = logging.getLogger(__name__)


def find_camera_folder(path: Path) -> Path | None:
    """Return the `image_0X` folder of a drive's folder, of itself or of its `data` folder; None if there is none."""
    if path.name == "data":
        path = path.parent
    for folder in (path, *(path / f"image_{camera}" for camera in CAMERAS)):
        if re.fullmatch(r"image_0[0-3]", folder.name) and (folder / "data").is_dir():
            return folder
    return None


def open_drive(folder: Path, *, rectified: bool = True, camera_file: Path | None = None) -> ImageSource:
    """Open one camera of a drive with the drive's calibration and stamps.

    Args:
        folder: `.../image_0X`.
        rectified: See `CameraResolver`; the drive's calibration describes its rectified images and is used in both cases.
        camera_file: Calibration file to use instead of the drive's.

    Raises:
        SourceError: There are no images, or timestamps.txt does not match them.
        CameraError: The calibration file cannot be used; a missing one is a warning.
    """
    number = folder.name[-2:]
    paths = list_images(folder / "data")
    if not paths:
        raise SourceError(f"KITTI drive {folder.parent} cannot be opened: there are no images in {folder / 'data'}")
    name = f"{folder.parent.name}/{folder.name}"
    skipped = describe_skipped(folder / "data")
    if skipped:
        logger.warning("%s: %s", name, skipped)
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
    """Convert "2011-09-26 13:02:25.964389445" (UTC) to nanoseconds since 1970 without rounding.

    Raises:
        ValueError: The text has another format.
    """
    whole, _, fraction = text.strip().partition(".")
    if len(fraction) > 9 or (fraction and not (fraction.isascii() and fraction.isdecimal())):
        raise ValueError(f"{truncated_repr(text.strip())} is not YYYY-MM-DD hh:mm:ss.nnnnnnnnn")
    seconds = calendar.timegm(time.strptime(whole, "%Y-%m-%d %H:%M:%S"))
    return seconds * 1_000_000_000 + int(fraction.ljust(9, "0"))


def _calibration(folder: Path, name: str, number: str) -> Calibration | None:
    path = folder.parent.parent / "calib_cam_to_cam.txt"
    if not path.is_file():
        logger.warning("%s: frames have no camera: %s is missing", name, path)
        return None
    return load_calibration(path, camera=number)


def _stamps(folder: Path, paths: list[Path], name: str) -> list[int] | None:
    """Return the stamp of each image; the image's number is the line's because single images may be missing from a drive."""
    path = folder / "timestamps.txt"
    if not path.is_file():
        logger.warning("%s: stamps start at 0 with 10 Hz: %s is missing", name, path)
        return None
    try:
        lines = path.read_text("utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"timestamps file {path} cannot be read: {error}") from None
    stamps = []
    for image in paths:
        if not (image.stem.isascii() and image.stem.isdecimal()):
            raise SourceError(f"KITTI image {image} has no stamp in {path}: its name is not a number")
        index = int(image.stem)
        if index >= len(lines) or not lines[index].strip():
            raise SourceError(f"timestamps file {path} has no line {index + 1} for {image.name}")
        try:
            stamps.append(parse_stamp(lines[index]))
        except ValueError as error:
            raise SourceError(f"timestamps file {path}, line {index + 1}: {one_line(error)}") from None
    return stamps
