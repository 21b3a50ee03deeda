"""Calibration files: ROS YAML, and those of KITTI raw, KITTI-360, KITTI odometry and object detection."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from mtl_perception.camera.camera_info import calibration_from_camera_info
from mtl_perception.camera.model import MAX_SIDE, Calibration
from mtl_perception.camera.yaml_file import parse_yaml
from mtl_perception.errors import CameraError
from mtl_perception.placeholders import HEAD_BYTES, describe_placeholder

MAX_BYTES = 2**20
"""Limit of a calibration file's size."""
KITTI_CAMERAS = ("02", "03", "00", "01")
"""Cameras in order of preference: left color, right color, left gray, right gray (KITTI-360: left color, right color)."""


def load_calibration(
    path: str | Path, camera: str | None = None, size: tuple[int, int] | None = None, image: Path | None = None
) -> Calibration:
    """Load a calibration file; its content determines the format.

    The calibration of a KITTI file describes the rectified images: K is the left part of P, without distortion.

    Args:
        path: YAML file of ROS camera_calibration or of `ros2 topic echo`, or KITTI's calib_cam_to_cam.txt, perspective.txt or
            calib.txt.
        camera: Camera of a KITTI file: "00" to "03". None: the camera of `image`, else the first of KITTI_CAMERAS in the file.
        image: An image of the camera, in a folder that is named after it: image_00, or image_0 of the odometry sequences.
        size: Width and height of the images, for files without a size (KITTI calib.txt); ignored otherwise.

    Raises:
        CameraError: The format is unknown, a key is missing or invalid, or the size is required and not given.
    """
    path = Path(path)
    text = read_text(path)
    kitti = parse_rows(text)
    try:
        available = _kitti_cameras(kitti)
        if camera is None:
            camera = next((number for number in (_camera_of_folder(image), *KITTI_CAMERAS) if number in available), None)
        if camera in available and f"P_rect_{camera}" in kitti:
            return _checked(_from_kitti_raw(kitti, camera))
        if camera in available:
            return _checked(_from_kitti_odometry(kitti[f"P{int(camera)}"], f"{int(camera)}", size))
        if available:
            raise CameraError(f"P_rect_{camera} (or P{camera and int(camera)}) is missing")
        return _checked(parse_yaml(text))
    except CameraError as error:
        raise CameraError(f"calibration file {path}: {error}") from None


def needs_size(path: Path) -> bool:
    """Return whether the file lacks the image size (KITTI calib.txt).

    Raises:
        CameraError: The file cannot be read.
    """
    kitti = parse_rows(read_text(path))
    return bool(_kitti_cameras(kitti)) and not any(key.startswith("P_rect_") for key in kitti)


def read_text(path: Path) -> str:
    """Return the content of a calibration file.

    Raises:
        CameraError: The file cannot be read, or is not a text file of at most MAX_BYTES.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise CameraError(f"calibration file {path} cannot be read: {error.strerror}") from None
    try:
        if len(data) > MAX_BYTES:
            raise ValueError
        text = data.decode()
    except ValueError:
        raise CameraError(f"calibration file {path} is not a text file of less than {MAX_BYTES >> 20} MiB") from None
    placeholder = describe_placeholder(data[:HEAD_BYTES])
    if placeholder:
        raise CameraError(f"calibration file {path} is {placeholder}")
    return text


def parse_rows(text: str) -> dict[str, str]:
    """Parse the `KEY: values` lines of a KITTI file; a YAML file has such lines too, but none of KITTI's keys."""
    rows = (line.partition(":") for line in text.splitlines())
    return {key.strip(): value for key, colon, value in rows if colon}


def _kitti_cameras(rows: dict[str, str]) -> list[str]:
    """Return the cameras with a projection matrix."""
    return [number for number in KITTI_CAMERAS if f"P_rect_{number}" in rows or f"P{int(number)}" in rows]


def _camera_of_folder(image: Path | None) -> str | None:
    """Return the number of the camera after which a folder of the image is named."""
    for name in reversed(image.absolute().parent.parts if image else ()):
        match = re.fullmatch(r"image_0?([0-3])", name)
        if match:
            return f"0{match[1]}"
    return None


def _numbers(text: str, key: str, count: int) -> list[float]:
    try:
        values = [float(word) for word in text.split()]
    except ValueError:
        raise CameraError(f"{key} is not {count} numbers") from None
    if len(values) != count:
        raise CameraError(f"{key} has {len(values)} values, not {count}")
    return values


def _from_kitti_raw(rows: dict[str, str], camera: str) -> Calibration:
    size_key, projection_key = f"S_rect_{camera}", f"P_rect_{camera}"
    if size_key not in rows:
        raise CameraError(f"{size_key} is missing")
    size = _numbers(rows[size_key], size_key, 2)
    if not all(1 <= value <= MAX_SIDE for value in size):
        raise CameraError(f"{size_key}: {size[0]:g} x {size[1]:g} is not a valid image size")
    return _rectified((round(size[0]), round(size[1])), _numbers(rows[projection_key], projection_key, 12))


def _from_kitti_odometry(row: str, number: str, size: tuple[int, int] | None) -> Calibration:
    projection = _numbers(row, f"P{number}", 12)
    if size is None:
        raise CameraError("it has no image size; give the size, or a file with a size")
    return _rectified(size, projection)


def _rectified(size: tuple[int, int], p: Sequence[float]) -> Calibration:
    k = (*p[0:3], *p[4:7], *p[8:11])
    return calibration_from_camera_info(*size, k, (0.0,) * 5, "plumb_bob", (0.0,) * 9, p)


def _checked(calibration: Calibration) -> Calibration:
    """Return the calibration if it yields a valid camera model; otherwise raise CameraError."""
    calibration.camera(rectified=True)
    return calibration
