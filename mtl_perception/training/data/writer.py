"""Writes samples as a data set in the plain folder format.

`start_folder`, `write_sample` for each sample, then `finish_folder`: a folder without dataset.yaml is incomplete. Every file is
replaced atomically.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import yaml

from mtl_perception.errors import SourceError
from mtl_perception.training.data.formats.files import DEPTH_INF, DEPTH_SCALE
from mtl_perception.training.data.formats.folder_tables import CAMERA_COLUMNS
from mtl_perception.types import Sample
from mtl_perception.yaml_fields import read_yaml


def finish_folder(
    folder: Path, keys: Sequence[str], name: str, license: str, classes: str | Sequence[Mapping[str, object]]
) -> None:
    """Write cameras.csv in the order of the samples, and dataset.yaml.

    Args:
        folder: Folder with the files of `write_sample`.
        keys: Names of the samples.
        name: Name of the data set.
        license: Its license.
        classes: Class set of the labels, or its classes as {"name", "color"}.

    Raises:
        OSError: A file cannot be written.
    """
    rows = _camera_rows(folder)
    _replace(folder / "cameras.csv", _table([rows[key] for key in keys if key in rows]))
    description: dict[str, object] = {"format": "folder", "name": name, "license": license, "classes": classes}
    if any((folder / "label").rglob("*.png")):
        description |= {"labels": "label"}
    if any((folder / "depth").rglob("*.png")):
        description |= {"depth": "depth", "depth_scale": DEPTH_SCALE}
    if rows:
        description |= {"camera": "cameras.csv"}
    _replace(folder / "dataset.yaml", yaml.safe_dump(description, sort_keys=False, allow_unicode=True).encode())


def start_folder(folder: Path, name: str) -> None:
    """Create a folder for samples, or continue one.

    Raises:
        SourceError: The folder contains another data set.
        ConfigError: Its dataset.yaml cannot be read.
        OSError: It cannot be written.
    """
    description = folder / "dataset.yaml"
    if description.exists():
        held = read_yaml(description)
        if not isinstance(held, dict) or held.get("name") != name:
            raise SourceError(f"{folder}: contains another data set than {name!r}; give another folder, or remove this one")
    folder.mkdir(parents=True, exist_ok=True)
    # Lines are appended from here on, so a partial line of an interrupted run must go.
    _replace(folder / "cameras.csv", _table(_camera_rows(folder).values()))


def write_sample(sample: Sample, folder: Path) -> None:
    """Write the files of a sample, the image last: if it exists, the sample is complete.

    They are `label/<name>.png` (8-bit ids, 255 = unlabeled), `depth/<name>.png` (16-bit, meters x 256, 0 = unknown, 65535 =
    sky), a line of `cameras.csv`, and `image/<name>.jpg`.

    Raises:
        OSError: A file cannot be written.
    """
    if sample.labels is not None:
        _replace(folder / "label" / f"{sample.name}.png", _encode(".png", sample.labels))
    if sample.depth is not None:
        _replace(folder / "depth" / f"{sample.name}.png", _encode(".png", encode_depth(sample.depth)))
    camera = sample.frame.camera
    if camera is not None:
        values = (repr(float(value)) for value in (camera.fx, camera.fy, camera.cx, camera.cy))
        row = (sample.name, camera.width, camera.height, *values)
        with open(folder / "cameras.csv", "ab", buffering=0) as file:
            # A single appending write, so that processes do not mix their lines.
            file.write(_table([row], header=False))
    _replace(image_path(folder, sample.name), _encode(".jpg", sample.frame.image[..., ::-1]))


def encode_depth(depth: np.ndarray) -> np.ndarray:
    """Convert depth (H x W float32, m) to H x W uint16: meters x 256; NaN becomes 0, +Inf and beyond 256 m become 65535."""
    scaled = np.clip(np.rint(np.nan_to_num(depth, nan=0.0, posinf=np.inf) * float(DEPTH_SCALE)), 1, DEPTH_INF)
    return np.where(np.isnan(depth), 0, scaled).astype(np.uint16)


def image_path(folder: Path, name: str) -> Path:
    """Return the path of the image of a sample."""
    return folder / "image" / f"{name}.jpg"


def _encode(suffix: str, image: np.ndarray) -> bytes:
    done, data = cv2.imencode(suffix, np.ascontiguousarray(image))
    if not done:
        raise SourceError(f"an image of shape {image.shape}, {image.dtype} cannot be encoded as {suffix}")
    return bytes(data)


def _replace(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.write_bytes(data)
    os.replace(part, path)


def _table(rows: Iterable[Sequence[object]], header: bool = True) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if header:
        writer.writerow(CAMERA_COLUMNS)
    writer.writerows(rows)
    return text.getvalue().encode()


def _camera_rows(folder: Path) -> dict[str, list[str]]:
    """Return the complete lines of cameras.csv by name."""
    path = folder / "cameras.csv"
    if not path.exists():
        return {}
    text = path.read_text(encoding="utf-8")
    lines = text[: text.rfind("\n") + 1].splitlines()[1:]
    return {row[0]: row for row in csv.reader(lines) if len(row) == len(CAMERA_COLUMNS)}
