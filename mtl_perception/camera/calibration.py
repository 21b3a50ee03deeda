"""Calibration files: ROS camera_calibration YAML, KITTI raw calib_cam_to_cam.txt, KITTI odometry and object calib.txt."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from mtl_perception.camera.model import MAX_SIDE, Calibration, calibration_from_camera_info
from mtl_perception.errors import CameraError, truncated_repr

MAX_BYTES = 2**20
"""No calibration file is larger; a larger one is something else, given by mistake."""


def load_calibration(path: str | Path, camera: str = "02", size: tuple[int, int] | None = None) -> Calibration:
    """The calibration in a file, whose kind is told by its content.

    A KITTI file's calibration is that of the rectified pictures: K is P's left part and there is no distortion.

    Args:
        path: YAML as ROS camera_calibration writes it, or KITTI's calib_cam_to_cam.txt or calib.txt.
        camera: Which one of a KITTI file's: "00" to "03".
        size: Width and height of the pictures, for files that do not say (KITTI calib.txt); others' own size holds.

    Raises:
        CameraError: Not such a file, a key is missing or wrong, or the size is needed and was not given.
    """
    path = Path(path)
    text = _read(path)
    kitti = _kitti_rows(text)
    number = camera.lstrip("0") or "0"
    try:
        if f"P_rect_{camera}" in kitti:
            return _checked(_from_kitti_raw(kitti, camera))
        if f"P{number}" in kitti:
            return _checked(_from_kitti_odometry(kitti[f"P{number}"], number, size))
        if any(key.startswith("P_rect_") or key in ("P0", "P1", "P2", "P3") for key in kitti):
            raise CameraError(f"P_rect_{camera} (or P{number}) is missing")
        return _checked(_from_yaml(text))
    except CameraError as error:
        raise CameraError(f"calibration file {path}: {error}") from None


def needs_size(path: Path) -> bool:
    """Whether the file does not say its pictures' size (KITTI calib.txt).

    Raises:
        CameraError: It cannot be read.
    """
    kitti = _kitti_rows(_read(path))
    return "P2" in kitti and not any(key.startswith("P_rect_") for key in kitti)


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise CameraError(f"calibration file {path} cannot be read: {error.strerror}") from None
    try:
        if len(data) > MAX_BYTES:
            raise ValueError
        return data.decode()
    except ValueError:
        raise CameraError(f"calibration file {path} is not a text file of less than {MAX_BYTES >> 20} MiB") from None


def _kitti_rows(text: str) -> dict[str, str]:
    """`KEY: values` lines of a KITTI file. A YAML file has such lines too, but none of KITTI's keys."""
    rows = (line.partition(":") for line in text.splitlines())
    return {key.strip(): value for key, colon, value in rows if colon}


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
        raise CameraError(f"{size_key}: {size[0]:g} x {size[1]:g} is no picture size")
    return _rectified((round(size[0]), round(size[1])), _numbers(rows[projection_key], projection_key, 12))


def _from_kitti_odometry(row: str, number: str, size: tuple[int, int] | None) -> Calibration:
    projection = _numbers(row, f"P{number}", 12)
    if size is None:
        raise CameraError("it does not say the picture's size; give the size, or a file that says it")
    return _rectified(size, projection)


def _rectified(size: tuple[int, int], p: Sequence[float]) -> Calibration:
    k = (*p[0:3], *p[4:7], *p[8:11])
    return calibration_from_camera_info(*size, k, (0.0,) * 5, "plumb_bob", (0.0,) * 9, p)


def _from_yaml(text: str) -> Calibration:
    try:
        document = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        # ValueError: a date that there is not, a number too long for Python.
        document = None
    if not isinstance(document, dict):
        raise CameraError("neither ROS camera_calibration YAML nor KITTI's calib_cam_to_cam.txt or calib.txt")
    model = document.get("distortion_model", "")
    if not isinstance(model, str):
        raise CameraError("distortion_model is not a name")
    d = _data(document, "distortion_coefficients") if "distortion_coefficients" in document else []
    r = _data(document, "rectification_matrix", 9) if "rectification_matrix" in document else (0.0,) * 9
    p = _data(document, "projection_matrix", 12) if "projection_matrix" in document else ()
    width, height = _size(document, "image_width"), _size(document, "image_height")
    return calibration_from_camera_info(width, height, _data(document, "camera_matrix", 9), d, model or "plumb_bob", r, p)


def _size(document: dict[Any, Any], key: str) -> int:
    if key not in document:
        raise CameraError(f"{key} is missing")
    value = document[key]
    if type(value) is not int or not 1 <= value <= MAX_SIDE:
        raise CameraError(f"{key} is {truncated_repr(value)}, not a count of pixels")
    return value


def _data(document: dict[Any, Any], key: str, count: int | None = None) -> list[float]:
    """`KEY: {rows, cols, data: [...]}`."""
    block = document.get(key)
    if not isinstance(block, dict) or not isinstance(block.get("data"), list):
        raise CameraError(f"{key}.data is missing")
    values = block["data"]
    if count is not None and len(values) != count:
        raise CameraError(f"{key}.data has {len(values)} values, not {count}")
    try:
        # PyYAML reads 1e-3 (without a point) as a text.
        return [float(value) for value in values]
    except (TypeError, ValueError, OverflowError):
        raise CameraError(f"{key}.data has values that are not numbers") from None


def _checked(calibration: Calibration) -> Calibration:
    """The calibration, if a camera can be made of it."""
    calibration.camera(rectified=True)
    return calibration
