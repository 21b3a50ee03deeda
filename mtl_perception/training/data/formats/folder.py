"""The plain folder format for images of your own camera: `dataset.yaml`, `image`, `label`, `depth` and a camera."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from mtl_perception.camera.model import CameraModel
from mtl_perception.errors import ConfigError, SourceError
from mtl_perception.labels import CLASS_SETS, ClassSet, LabelMapping, load_mapping, parse_mapping
from mtl_perception.sources.base import natural_key
from mtl_perception.sources.images import is_image_file
from mtl_perception.training.data.dataset import DatasetOptions, ImageDataset, SampleFiles
from mtl_perception.training.data.formats.files import DEPTH_INF, check_partner_files
from mtl_perception.training.data.formats.folder_tables import FolderCameras, read_boxes
from mtl_perception.types import UNLABELED, Sample
from mtl_perception.yaml_fields import YamlFields, read_yaml

DESCRIPTION = "dataset.yaml"
KEYS = (
    *("format", "name", "license", "classes", "mapping", "images", "labels", "depth", "depth_scale", "camera", "rectified"),
    "boxes",
)
BOXES = "boxes.csv"


class Folder(ImageDataset):
    """The plain folder of docs/data.md. Labels, depth and camera are optional, for the data set and for each image.

    Args:
        path: The folder, or its dataset.yaml.
        options: Options of the entry; its name and mapping override those of dataset.yaml.

    Raises:
        ConfigError: dataset.yaml or the camera table is invalid; the message names the key or the line.
        SourceError: A folder is missing or has no images, a label or depth image has no image of its name, or an image has no
            line in the camera table.
    """

    sky = DEPTH_INF

    def __init__(self, path: Path, options: DatasetOptions) -> None:
        root = path if path.is_dir() else path.parent
        description = root / DESCRIPTION
        if not description.is_file():
            raise SourceError(f"folder {root}: {DESCRIPTION} is missing; it describes images and labels, see docs/data.md")
        fields = YamlFields(read_yaml(description), str(description))
        fields.only(KEYS)
        fields.choice("format", ["folder"])
        self.root = root
        self.depth_scale = fields.number("depth_scale", 256, positive=True)
        mapping = options.mapping or _mapping(fields, root)
        images = _find_images(root / fields.text("images", "image"), fields, "images", required=True)
        labels = _find_images(root / fields.text("labels", "label"), fields, "labels")
        depths = _find_images(root / fields.text("depth", "depth"), fields, "depth")
        check_partner_files(images, labels, root, "label image")
        check_partner_files(images, depths, root, "depth image")
        items = [SampleFiles(key, image, labels.get(key), depths.get(key)) for key, image in images.items()]
        name = options.name or fields.name("name", root.absolute().name)
        super().__init__(name, fields.text("license", "not stated"), items, mapping, options)
        self._cameras = FolderCameras(fields, root, images)
        boxes = root / fields.text("boxes", BOXES)
        self._boxes = read_boxes(boxes) if "boxes" in fields or boxes.is_file() else {}

    def __getitem__(self, index: int) -> Sample:
        sample = super().__getitem__(index)
        return replace(sample, boxes=self._boxes.get(sample.name, ()))

    def camera(self, item: SampleFiles, width: int, height: int) -> CameraModel | None:
        """Return the camera of the image, that of all images, or None."""
        return self._cameras.camera(item.key, width, height)


def _find_images(folder: Path, fields: YamlFields, key: str, *, required: bool = False) -> dict[str, Path]:
    """Return the images of a folder and its subfolders by relative path without suffix."""
    if not folder.is_dir():
        # A default folder may be absent, a named one may not.
        if required or key in fields:
            raise SourceError(f"{fields.where}: {key}: there is no folder {folder}")
        return {}
    paths = [path for path in folder.rglob("*") if is_image_file(path)]
    paths.sort(key=lambda path: (path.parent, natural_key(path)))
    found: dict[str, Path] = {}
    for path in paths:
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name in found:
            raise SourceError(f"{fields.where}: {key}: {found[name].name} and {path.name} in {path.parent} have the same name")
        found[name] = path
    return found


def _mapping(fields: YamlFields, root: Path) -> LabelMapping:
    classes = _classes(fields)
    value = fields.raw("mapping")
    if value is None:
        if classes is None:
            raise ConfigError(f"{fields.where}: classes is missing; give a class set ({', '.join(CLASS_SETS)}) or a list")
        ids = {i: i for i in range(len(classes))}
        return LabelMapping(classes.name, "", classes, ids, {})
    where = fields.place("mapping")
    if isinstance(value, str):
        mapping = load_mapping(value, root, where)
        if classes is not None and mapping.classes != classes:
            raise ConfigError(f"{where}: {value!r} maps to {mapping.classes.name}, but classes are {classes.name}")
        return mapping
    return parse_mapping(value, where, classes=classes)


def _classes(fields: YamlFields) -> ClassSet | None:
    value = fields.raw("classes")
    if value is None:
        return None
    if isinstance(value, str):
        return CLASS_SETS[fields.choice("classes", CLASS_SETS)]
    if not isinstance(value, list) or not 1 <= len(value) <= UNLABELED:
        raise ConfigError(f"{fields.where}: classes: neither the name of a class set nor a list of {{name, color}}")
    names, colors = [], []
    for number, entry in enumerate(value, 1):
        inner = YamlFields(entry, f"{fields.where}: classes: entry {number}")
        inner.only(("name", "color"))
        names.append(inner.text("name"))
        color: tuple[int, int, int] = inner.get("color", tuple[int, int, int])
        if not all(0 <= value <= 255 for value in color):
            raise ConfigError(f"{inner.place('color')}: {list(color)} is not red, green and blue of 0 to 255")
        colors.append(color)
    if len(set(names)) < len(names):
        raise ConfigError(f"{fields.where}: classes: two of them have the same name")
    return ClassSet(fields.name("name", "own"), tuple(names), tuple(colors))
