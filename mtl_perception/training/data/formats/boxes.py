"""Boxes of objects: a CSV file with the columns of KITTI's object labels."""

from __future__ import annotations

from pathlib import Path

from mtl_perception.errors import ConfigError
from mtl_perception.training.data.formats.csv_file import read_csv_file
from mtl_perception.types import Box

COLUMNS = ("name", "type", "truncated", "occluded", "left", "top", "right", "bottom")
KITTI_TYPES = {"Pedestrian": "person", "Person_sitting": "person", "Cyclist": "cyclist"}
MAX_TRUNCATED = 0.5
MAX_OCCLUDED = 2
"""Limits of the level "hard" of KITTI's benchmark; boxes beyond are left out, as those of unknown occlusion (3)."""


def read_boxes(path: Path) -> dict[str, tuple[Box, ...]]:
    """Read boxes by image name.

    Args:
        path: CSV file with the columns name, type, truncated, occluded, left, top, right, bottom. A type is one of KITTI's
            or a class name; boxes that are truncated or occluded beyond the limits are left out.

    Raises:
        ConfigError: The file cannot be read, or a line is invalid; the message names it.
    """
    boxes: dict[str, tuple[Box, ...]] = {}
    for where, line in read_csv_file(path, COLUMNS, "boxes"):
        try:
            truncated, occluded, *sides = map(float, line[2:])
            box = Box(KITTI_TYPES.get(line[1], line[1]), *sides)
        except (ValueError, TypeError, IndexError):
            raise ConfigError(f"{where}: not a name, a type and 6 numbers: {','.join(line)}") from None
        if truncated <= MAX_TRUNCATED and occluded <= MAX_OCCLUDED:
            boxes[line[0]] = (*boxes.get(line[0], ()), box)
    return boxes
