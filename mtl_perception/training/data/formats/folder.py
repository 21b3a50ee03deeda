"""The plain folder that a team makes of its own camera's pictures: `dataset.yaml`, `image`, `label`, `depth`, a camera."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from mtl_perception.camera.calibration import load_calibration
from mtl_perception.camera.model import Calibration, CameraModel
from mtl_perception.errors import CameraError, ConfigError, SourceError
from mtl_perception.labels import CLASS_SETS, ClassSet, LabelMapping, load_mapping, parse_mapping
from mtl_perception.sources.base import natural_key
from mtl_perception.sources.images import is_image_file
from mtl_perception.training.data.dataset import Item, PictureDataset, Setting
from mtl_perception.training.data.fields import Fields, read_yaml
from mtl_perception.training.data.formats.files import BEYOND, check_partners, read_stored_depth
from mtl_perception.types import UNLABELED

DESCRIPTION = "dataset.yaml"
KEYS = ("format", "name", "license", "classes", "mapping", "images", "labels", "depth", "depth_scale", "camera", "rectified")
CAMERA_COLUMNS = ("name", "width", "height", "fx", "fy", "cx", "cy")


class Folder(PictureDataset):
    """See docs/data.md. Labels, depth and camera are all optional, for the set and for each picture.

    Args:
        path: The folder, or its dataset.yaml.
        setting: What the list of sets says; its name and mapping go before those of dataset.yaml.

    Raises:
        ConfigError: dataset.yaml, or the camera's table, is wrong; names the key or the line.
        SourceError: A folder is missing, has no pictures, or a label or depth picture has none of its name.
    """

    def __init__(self, path: Path, setting: Setting) -> None:
        root = path if path.is_dir() else path.parent
        description = root / DESCRIPTION
        if not description.is_file():
            raise SourceError(f"folder {root}: {DESCRIPTION} is missing: it says what the pictures and labels are")
        fields = Fields(read_yaml(description), str(description))
        fields.only(KEYS)
        fields.choice("format", ["folder"])
        self.root = root
        self.depth_scale = fields.number("depth_scale", 256, positive=True)
        mapping = setting.mapping or _mapping(fields, root)
        images = _tree(root / fields.text("images", "image"), fields, "images", needed=True)
        labels = _tree(root / fields.text("labels", "label"), fields, "labels")
        depths = _tree(root / fields.text("depth", "depth"), fields, "depth")
        check_partners(images, labels, root, "label picture")
        check_partners(images, depths, root, "depth picture")
        items = [Item(key, image, labels.get(key), depths.get(key)) for key, image in images.items()]
        name = setting.name or fields.name("name", root.absolute().name)
        super().__init__(name, fields.text("license", "not stated"), items, mapping, setting)
        self._cameras = Cameras(fields, root)

    def camera(self, item: Item, width: int, height: int) -> CameraModel | None:
        """The picture's own line, or the one camera of all, or None."""
        return self._cameras.of(item.key, width, height)

    def read_depth(self, item: Item, path: Path, camera: CameraModel | None, shape: tuple[int, int]) -> np.ndarray:
        """Meters; NaN where 0 is stored, +Inf where 65535 is."""
        stored = read_stored_depth(path, shape)
        depth: np.ndarray = stored.astype(np.float32) / np.float32(self.depth_scale)
        depth[stored == 0] = np.nan
        depth[stored == BEYOND] = np.inf
        return depth


class Cameras:
    """The cameras that dataset.yaml names: a table with a line for each picture, one camera for all, or none.

    Raises:
        ConfigError: The key or the table is wrong.
        CameraError: A camera_info file is wrong.
    """

    def __init__(self, fields: Fields, root: Path) -> None:
        self._table: dict[str, CameraModel] | None = None
        self._one: CameraModel | None = None
        self._calibration: Calibration | None = None
        self._rectified = fields.flag("rectified", True)
        self._place = f"{fields.where}: camera"
        value = fields.raw("camera")
        if isinstance(value, str):
            self._place = f"camera file {root / value}"
        if isinstance(value, str) and value.endswith(".csv"):
            self._table = read_camera_table(root / value)
        elif isinstance(value, str):
            self._calibration = load_calibration(root / value)
        elif isinstance(value, dict):
            inner = Fields(value, f"{fields.where}: camera")
            inner.only(CAMERA_COLUMNS[1:])
            self._one = _camera({key: inner.number(key) for key in CAMERA_COLUMNS[1:]}, inner.where)
        elif value is not None:
            raise ConfigError(
                f"{fields.where}: camera: {value!r} is neither a file nor a mapping ({', '.join(CAMERA_COLUMNS[1:])})"
            )

    def of(self, key: str, width: int, height: int) -> CameraModel | None:
        """The camera of this picture, None where the set has none.

        Raises:
            SourceError: The set has cameras, but none for this picture or its size.
        """
        if self._calibration is not None:
            try:
                return self._calibration.for_image(width, height).camera(self._rectified)
            except CameraError as error:
                raise SourceError(f"{self._place}, picture {key}: {error}") from None
        camera = self._one if self._table is None else self._table.get(key)
        if camera is None:
            if self._table is not None:
                raise SourceError(f"{self._place} has no line for the picture {key}")
            return None
        if (camera.width, camera.height) != (width, height):
            raise SourceError(
                f"{self._place}: the camera of picture {key} is for {camera.width}x{camera.height}, "
                f"the picture is {width}x{height}"
            )
        return camera


def read_camera_table(path: Path) -> dict[str, CameraModel]:
    """Cameras by picture name, from a CSV file with the columns name, width, height, fx, fy, cx, cy.

    Raises:
        ConfigError: It cannot be read, or a line is wrong; names the line.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = list(csv.reader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"camera table {path} cannot be read: {error}") from None
    if not lines or tuple(word.strip() for word in lines[0]) != CAMERA_COLUMNS:
        raise ConfigError(f"camera table {path}: its first line must be {','.join(CAMERA_COLUMNS)}")
    cameras = {}
    for number, line in enumerate(lines[1:], 2):
        if not line:
            continue
        where = f"camera table {path}, line {number}"
        try:
            values = dict(zip(CAMERA_COLUMNS[1:], map(float, line[1:]), strict=True))
        except ValueError:
            raise ConfigError(f"{where}: not a name and {len(CAMERA_COLUMNS) - 1} numbers: {','.join(line)}") from None
        if line[0] in cameras:
            raise ConfigError(f"{where}: {line[0]} has a line already")
        cameras[line[0]] = _camera(values, where)
    return cameras


def _camera(values: dict[str, float], where: str) -> CameraModel:
    width, height = values["width"], values["height"]
    if not (width.is_integer() and height.is_integer()):
        raise ConfigError(f"{where}: width and height are whole numbers of pixels")
    try:
        return CameraModel(int(width), int(height), values["fx"], values["fy"], values["cx"], values["cy"])
    except CameraError as error:
        raise ConfigError(f"{where}: {error}") from None


def _tree(folder: Path, fields: Fields, key: str, *, needed: bool = False) -> dict[str, Path]:
    """All pictures in a folder and its sub-folders: relative path without suffix -> file."""
    if not folder.is_dir():
        # A folder that is not named may be absent; one that is named must be there.
        if needed or key in fields:
            raise SourceError(f"{fields.where}: {key}: there is no folder {folder}")
        return {}
    paths = [path for path in folder.rglob("*") if is_image_file(path)]
    paths.sort(key=lambda path: (path.parent, natural_key(path)))
    found: dict[str, Path] = {}
    for path in paths:
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name in found:
            raise SourceError(f"{fields.where}: {key}: {found[name].name} and {path.name} in {path.parent} have one name")
        found[name] = path
    return found


def _mapping(fields: Fields, root: Path) -> LabelMapping:
    classes = _classes(fields)
    value = fields.raw("mapping")
    if value is None:
        if classes is None:
            raise ConfigError(f"{fields.where}: classes is missing: a class set ({', '.join(CLASS_SETS)}), or a list")
        ids = {i: i for i in range(len(classes))}
        return LabelMapping(classes.name, "", classes, ids, {})
    where = f"{fields.where}: mapping"
    if isinstance(value, str):
        mapping = load_mapping(value, root, where)
        if classes is not None and mapping.classes != classes:
            raise ConfigError(f"{where}: {value!r} leads to {mapping.classes.name}, but classes are {classes.name}")
        return mapping
    return parse_mapping(value, where, classes=classes)


def _classes(fields: Fields) -> ClassSet | None:
    value = fields.raw("classes")
    if value is None:
        return None
    if isinstance(value, str):
        return CLASS_SETS[fields.choice("classes", CLASS_SETS)]
    if not isinstance(value, list) or not 1 <= len(value) <= UNLABELED:
        raise ConfigError(f"{fields.where}: classes: neither a class set's name nor a list of {{name, color}}")
    names, colors = [], []
    for number, entry in enumerate(value):
        inner = Fields(entry, f"{fields.where}: classes: entry {number + 1}")
        inner.only(("name", "color"))
        names.append(inner.text("name"))
        color = inner.raw("color")
        if not isinstance(color, list) or len(color) != 3 or not all(type(c) is int and 0 <= c <= 255 for c in color):
            raise ConfigError(f"{inner.where}: color: {color!r} is not three numbers 0 to 255 (red, green, blue)")
        colors.append((color[0], color[1], color[2]))
    if len(set(names)) < len(names):
        raise ConfigError(f"{fields.where}: classes: two of them have one name")
    return ClassSet(fields.name("name", "own"), tuple(names), tuple(colors))
