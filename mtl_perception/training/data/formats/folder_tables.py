"""Tables of a plain folder: the cameras of its images, and boxes of objects."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

from mtl_perception.camera.calibration import load_calibration
from mtl_perception.camera.model import Calibration, CameraModel
from mtl_perception.errors import CameraError, ConfigError, SourceError, truncated_repr
from mtl_perception.types import Box
from mtl_perception.yaml_fields import YamlFields

CAMERA_COLUMNS = ("name", "width", "height", "fx", "fy", "cx", "cy")
BOX_COLUMNS = ("name", "type", "truncated", "occluded", "left", "top", "right", "bottom")
KITTI_TYPES = {"Pedestrian": "person", "Person_sitting": "person", "Cyclist": "cyclist"}
MAX_TRUNCATED = 0.5
MAX_OCCLUDED = 2
"""Limits of the level "hard" of KITTI's benchmark; boxes beyond are left out, as those of unknown occlusion (3)."""


class FolderCameras:
    """Cameras that dataset.yaml names: a table with a line per image, one camera for all images, or none.

    Args:
        fields: Content of dataset.yaml.
        root: Its folder.
        keys: Names of the images.

    Raises:
        ConfigError: The key or the table is invalid.
        CameraError: The calibration file is invalid.
        SourceError: An image has no line in the table.
    """

    def __init__(self, fields: YamlFields, root: Path, keys: Iterable[str]) -> None:
        self._table: dict[str, CameraModel] | None = None
        self._one: CameraModel | None = None
        self._calibration: Calibration | None = None
        self._rectified = fields.flag("rectified", True)
        self._place = fields.place("camera")
        value = fields.raw("camera")
        if isinstance(value, str):
            self._place = f"camera file {root / value}"
        if isinstance(value, str) and value.endswith(".csv"):
            self._table = read_camera_table(root / value)
            missing = [key for key in keys if key not in self._table]
            if missing:
                images = f"image {missing[0]}" + (f" and {len(missing) - 1} others" if len(missing) > 1 else "")
                raise SourceError(f"{self._place} has no line for {images}; add it or remove the image")
        elif isinstance(value, str):
            self._calibration = load_calibration(root / value)
        elif isinstance(value, dict):
            inner = fields.inner("camera")
            inner.only(CAMERA_COLUMNS[1:])
            self._one = _camera({key: inner.number(key) for key in CAMERA_COLUMNS[1:]}, self._place)
        elif value is not None:
            keys = ", ".join(CAMERA_COLUMNS[1:])
            raise ConfigError(f"{self._place}: {truncated_repr(value)} is neither a file nor a mapping ({keys})")

    def camera(self, key: str, width: int, height: int) -> CameraModel | None:
        """Return the camera of an image; None if the data set has no cameras.

        Raises:
            SourceError: The data set has cameras, but none for this image or its size.
        """
        if self._calibration is not None:
            try:
                return self._calibration.for_image(width, height).camera(self._rectified)
            except CameraError as error:
                raise SourceError(f"{self._place}, image {key}: {error}") from None
        camera = self._one if self._table is None else self._table.get(key)
        if camera is None:
            return None
        if (camera.width, camera.height) != (width, height):
            raise SourceError(
                f"{self._place}: the camera of image {key} is for {camera.width}x{camera.height}, the image is {width}x{height}"
            )
        return camera


def read_camera_table(path: Path) -> dict[str, CameraModel]:
    """Read cameras by image name from a CSV file with the columns name, width, height, fx, fy, cx, cy.

    Raises:
        ConfigError: The file cannot be read, or a line is invalid; the message names it.
    """
    cameras: dict[str, CameraModel] = {}
    for where, line in _read_csv_file(path, CAMERA_COLUMNS, "camera table"):
        try:
            values = dict(zip(CAMERA_COLUMNS[1:], map(float, line[1:]), strict=True))
        except ValueError:
            raise ConfigError(f"{where}: not a name and {len(CAMERA_COLUMNS) - 1} numbers: {','.join(line)}") from None
        if line[0] in cameras:
            raise ConfigError(f"{where}: {line[0]} already has a line")
        cameras[line[0]] = _camera(values, where)
    return cameras


def _camera(values: dict[str, float], where: str) -> CameraModel:
    width, height = values["width"], values["height"]
    if not (width.is_integer() and height.is_integer()):
        raise ConfigError(f"{where}: width and height are not integers")
    try:
        return CameraModel(int(width), int(height), values["fx"], values["fy"], values["cx"], values["cy"])
    except CameraError as error:
        raise ConfigError(f"{where}: {error}") from None


def read_boxes(path: Path) -> dict[str, tuple[Box, ...]]:
    """Read boxes by image name.

    Args:
        path: CSV file with the columns name, type, truncated, occluded, left, top, right, bottom. A type is one of KITTI's
            or a class name; boxes that are truncated or occluded beyond the limits are left out.

    Raises:
        ConfigError: The file cannot be read, or a line is invalid; the message names it.
    """
    boxes: dict[str, tuple[Box, ...]] = {}
    for where, line in _read_csv_file(path, BOX_COLUMNS, "boxes"):
        try:
            truncated, occluded, *sides = map(float, line[2:])
            box = Box(KITTI_TYPES.get(line[1], line[1]), *sides)
        except (ValueError, TypeError, IndexError):
            raise ConfigError(f"{where}: not a name, a type and 6 numbers: {','.join(line)}") from None
        if truncated <= MAX_TRUNCATED and occluded <= MAX_OCCLUDED:
            boxes[line[0]] = (*boxes.get(line[0], ()), box)
    return boxes


def _read_csv_file(path: Path, columns: Sequence[str], name: str) -> list[tuple[str, list[str]]]:
    """Return the place, for messages, and the words of each line below the header; empty lines are ignored.

    Args:
        path: The file.
        columns: The header that it must have.
        name: What the file is, for messages, such as "camera table".
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            header, *lines = list(csv.reader(file)) or [[]]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{name} {path} cannot be read: {error}") from None
    if [word.strip() for word in header] != list(columns):
        raise ConfigError(f"{name} {path}: the first line is not {','.join(columns)}")
    return [(f"{name} {path}, line {number}", line) for number, line in enumerate(lines, 2) if line]
