"""Drives of KITTI raw (synced and rectified), KITTI-360 (perspective cameras) and KITTI odometry.

| | images | stamps | calibration |
|---|---|---|---|
| raw | `<date>/<drive>_sync/image_0X/data` | `image_0X/timestamps.txt` | `<date>/calib_cam_to_cam.txt` |
| KITTI-360 | `data_2d_raw/<drive>_sync/image_0X/data_rect` | `image_0X/timestamps.txt` | `calibration/perspective.txt` |
| odometry | `sequences/NN/image_X` | `times.txt`, s | `calib.txt` |
"""

from __future__ import annotations

import calendar
import logging
import re
import time
from pathlib import Path

from mtl_perception.camera.calibration import KITTI_CAMERAS
from mtl_perception.camera.kitti import kitti_transforms
from mtl_perception.camera.transforms import StaticTransform
from mtl_perception.errors import CameraError, SourceError, one_line, truncated_repr
from mtl_perception.sources.base import median_rate_hz
from mtl_perception.sources.images import ImageSource, describe_skipped, list_images

IMAGE_FOLDERS = ("data", "data_rect")

logger = logging.getLogger(__name__)


def find_camera_folder(path: Path) -> Path | None:
    """Return the `image_0X` or `image_X` folder of a drive, of itself or of its `data` folder; None if there is none."""
    if path.name in IMAGE_FOLDERS:
        path = path.parent
    for folder in (path, *(path / f"image_{number}" for camera in KITTI_CAMERAS for number in (camera, camera[1:]))):
        if re.fullmatch(r"image_0[0-3]", folder.name) and any((folder / name).is_dir() for name in IMAGE_FOLDERS):
            return folder
        if re.fullmatch(r"image_[0-3]", folder.name) and folder.is_dir() and _is_sequence(folder.parent):
            return folder
    return None


def _is_sequence(folder: Path) -> bool:
    return (folder / "times.txt").is_file() or (folder / "calib.txt").is_file()


def open_drive(folder: Path, *, rectified: bool = True, camera_file: Path | None = None) -> ImageSource:
    """Open one camera of a drive with the drive's calibration and stamps.

    Args:
        folder: A folder that `find_camera_folder` returns.
        rectified: See `CameraResolver`; the drive's calibration describes its rectified images and is used in both cases.
        camera_file: Calibration file to use instead of the drive's.

    Raises:
        SourceError: There are no images, or the file of stamps does not match them.
        CameraError: The calibration file cannot be used; a missing one is a warning.
    """
    number = folder.name.removeprefix("image_").zfill(2)
    images = next((folder / name for name in IMAGE_FOLDERS if (folder / name).is_dir()), folder)
    paths = list_images(images)
    if not paths:
        raise SourceError(f"KITTI drive {folder.parent} cannot be opened: there are no images in {images}")
    name = f"{folder.parent.name}/{folder.name}"
    skipped = describe_skipped(images)
    if skipped:
        logger.warning("%s: %s", name, skipped)
    stamps = _stamps(folder, paths, name)
    return ImageSource(
        paths,
        name,
        rectified=rectified,
        camera_file=camera_file or _calibration_file(images, folder, name),
        stamps_ns=stamps,
        rate_hz=median_rate_hz(stamps or ()),
        frame_id=f"camera_{number}_optical_frame",
        transforms=_transforms(images, folder, name),
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


def parse_seconds(text: str) -> int:
    """Convert seconds since the start of a sequence, such as "1.036224e-01", to nanoseconds.

    Raises:
        ValueError: The text has another format, or is negative or above a day.
    """
    seconds = float(text)
    if not 0 <= seconds <= 86400:
        raise ValueError(f"{truncated_repr(text.strip())} is not a number of seconds")
    return round(seconds * 1e9)


def _calibration_file(images: Path, folder: Path, name: str) -> Path | None:
    drives = folder.parent.parent
    if images == folder:
        places = [folder.parent / "calib.txt"]
    elif images.name == "data_rect":
        places = [place / "perspective.txt" for place in (drives.parent / "calibration", drives / "calibration", drives)]
    else:
        places = [drives / "calib_cam_to_cam.txt"]
    found = next((path for path in places if path.is_file()), None)
    if found is None:
        logger.warning("%s: frames have no camera: %s is missing", name, places[0])
    return found


def _transforms(images: Path, folder: Path, name: str) -> list[StaticTransform] | None:
    if images.name != "data":
        # KITTI-360 is another car, and odometry sequences come without these files.
        return None
    try:
        return kitti_transforms(folder.parent.parent)
    except CameraError as error:
        logger.info("%s: the poses of the sensors on the car are unknown: %s", name, error)
        return None


def _stamps(folder: Path, paths: list[Path], name: str) -> list[int] | None:
    """Return the stamp of each image; the image's number is the line's because single images may be missing from a drive."""
    is_sequence = paths[0].parent == folder
    path = folder.parent / "times.txt" if is_sequence else folder / "timestamps.txt"
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
            stamps.append(parse_seconds(lines[index]) if is_sequence else parse_stamp(lines[index]))
        except ValueError as error:
            raise SourceError(f"timestamps file {path}, line {index + 1}: {one_line(error)}") from None
    return stamps
