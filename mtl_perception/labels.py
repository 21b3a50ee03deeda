"""Class sets (id, name, color) and the mappings between data sets."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mtl_perception.errors import ConfigError, did_you_mean, truncated_repr
from mtl_perception.types import UNLABELED
from mtl_perception.yaml_fields import YamlFields, read_yaml


@dataclass(frozen=True)
class ClassSet:
    """Classes in id order.

    Attributes:
        name: Name of the set.
        names: C class names; the id is the position.
        colors: C RGB colors, each 0..255.
    """

    name: str
    names: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...]

    def __post_init__(self) -> None:
        if len(self.names) != len(self.colors):
            raise ValueError(f"class set {self.name!r}: {len(self.names)} names but {len(self.colors)} colors")

    def __len__(self) -> int:
        return len(self.names)

    def palette(self) -> np.ndarray:
        """Return the RGB color of every label as 256 x 3 uint8; ids outside the set, including 255, are black."""
        table = np.zeros((256, 3), np.uint8)
        table[: len(self)] = self.colors
        return table

    def records(self) -> list[dict[str, object]]:
        """Return the classes as a list of {"id", "name", "color"} for JSON."""
        return [
            {"id": i, "name": name, "color": list(color)}
            for i, (name, color) in enumerate(zip(self.names, self.colors, strict=True))
        ]


def colormap(index: int) -> tuple[int, int, int]:
    """Return RGB color `index` of the PASCAL VOC color map, which interleaves the bits of the index."""
    red = green = blue = 0
    for bit in range(8):
        red |= (index >> 0 & 1) << (7 - bit)
        green |= (index >> 1 & 1) << (7 - bit)
        blue |= (index >> 2 & 1) << (7 - bit)
        index >>= 3
    return red, green, blue


# Cityscapes' colors for the classes that it has.
_STREET = {
    "road": (128, 64, 128),
    "sidewalk": (244, 35, 232),
    "terrain": (152, 251, 152),
    "building": (70, 70, 70),
    "fence": (190, 153, 153),
    "pole": (153, 153, 153),
    "sign": (220, 220, 0),
    "vegetation": (107, 142, 35),
    "sky": (70, 130, 180),
    "person": (220, 20, 60),
    "cyclist": (255, 0, 0),
    "vehicle": (0, 0, 142),
}
STREET = ClassSet("street", tuple(_STREET), tuple(_STREET.values()))

KITTI6 = ClassSet(
    "kitti6",
    ("sky", "building", "road", "sidewalk", "vegetation", "car"),
    ((128, 128, 128), (128, 0, 0), (128, 64, 128), (0, 0, 192), (128, 128, 0), (64, 0, 128)),
)

_NYUD40_NAMES = (  # noqa: SIM905 - a list of them would take forty lines
    "wall floor cabinet bed chair sofa table door window bookshelf picture counter blinds desk shelves curtain dresser "
    "pillow mirror floor_mat clothes ceiling books refrigerator television paper towel shower_curtain box whiteboard "
    "person night_stand toilet sink lamp bathtub bag otherstructure otherfurniture otherprop"
).split()
# The published NYUDv2 color map is PASCAL VOC's with index = class id + 1 (index 0 is void).
NYUD40 = ClassSet("nyud40", tuple(_NYUD40_NAMES), tuple(colormap(i + 1) for i in range(40)))

CLASS_SETS = {classes.name: classes for classes in (STREET, KITTI6, NYUD40)}
"""Class sets by name."""

_GROUP = re.compile(r"(?P<name>[^:#]{0,63}[^:#\s])\s*(#(?P<color>[0-9a-fA-F]{6})\s*)?:(?P<classes>.+)")

MAPPINGS_DIR = Path(__file__).resolve().parent / "mappings"
"""Folder of the mappings shipped with the package."""


@dataclass(frozen=True)
class LabelMapping:
    """Mapping from the ids of a data set's label images to a class set.

    Attributes:
        name: Name: the file's stem.
        source: Data set that defines the ids.
        classes: Target class set.
        ids: Source id -> id in `classes`; other ids have no class.
        names: Source id -> name in the data set; may be empty.
    """

    name: str
    source: str
    classes: ClassSet
    ids: Mapping[int, int]
    names: Mapping[int, str]

    def table(self) -> np.ndarray:
        """Return a lookup table of 256 uint8 for `table[labels]`; ids without a class become 255."""
        return lookup(self.ids)

    def known(self) -> np.ndarray:
        """Return 256 bool: whether a label image may contain the id; 255 always, without `names` only ids with a class."""
        table = np.zeros(256, bool)
        table[[*self.ids, *self.names, UNLABELED]] = True
        return table


def mapping_names() -> list[str]:
    """Return the names of the mappings shipped with the package."""
    return sorted(path.stem for path in MAPPINGS_DIR.glob("*.yaml"))


def load_mapping(name_or_path: str | Path, base: Path | None = None, where: str = "") -> LabelMapping:
    """Load a mapping shipped with the package, or from a file.

    Args:
        name_or_path: One of `mapping_names()`, or a YAML file with the keys `ids` and `to` and optionally `source`, `names`.
        base: Folder to which a path is relative; None: the current folder.
        where: File and key that refer to it, for the error message.

    Raises:
        ConfigError: There is no such name or file, or a key is invalid; the message names file and key.
    """
    text = str(name_or_path)
    path = Path(text).expanduser()
    if path.suffix in (".yaml", ".yml"):
        path = path if base is None else base / path
    elif text in mapping_names():
        path = MAPPINGS_DIR / f"{text}.yaml"
    else:
        place = f"{where}: " if where else ""
        known = ", ".join(mapping_names())
        raise ConfigError(f"{place}unknown label mapping {text!r} (known: {known}; or give a .yaml file)")
    place = f"label mapping {path}"
    return parse_mapping(read_yaml(path, place), place, name=path.stem)


def parse_mapping(values: object, where: str, *, name: str = "own", classes: ClassSet | None = None) -> LabelMapping:
    """Parse the content of a mapping file or, with `classes`, a plain {id: class}.

    Args:
        values: {"ids": {id: class name, class id or null}, "to": class set, "source": text, "names": {id: name}}.
        where: Prefix of every error message: the file.
        name: Name of the mapping.
        classes: Target class set if the content has no key `to`.

    Raises:
        ConfigError: A key is unknown, missing or invalid.
    """
    if classes is not None and isinstance(values, dict) and values and all(type(key) is int for key in values):
        values = {"ids": values}
    fields = YamlFields(values, where)
    fields.only(("ids", "to", "source", "names"))
    if "to" in fields or classes is None:
        classes = CLASS_SETS[fields.choice("to", CLASS_SETS)]
    ids, names = fields.get("ids", dict), fields.get("names", dict, {})
    if not ids:
        raise ConfigError(f"{where}: ids: give at least one `id: class`")
    for key, table in (("ids", ids), ("names", names)):
        for number in table:
            if type(number) is not int or not 0 <= number < UNLABELED:
                raise ConfigError(f"{where}: {key}: {truncated_repr(number)} is not an id (0 to 254)")
    return LabelMapping(
        name,
        _text(fields.raw("source") or ""),
        classes,
        {number: _class_id(value, classes, f"{where}: ids: {number}") for number, value in ids.items() if value is not None},
        {**{number: _text(value) for number, value in names.items()}, **{n: "" for n, value in ids.items() if value is None}},
    )


def parse_groups(entries: Sequence[str], classes: ClassSet) -> LabelMapping:
    """Parse the parameter class_groups.

    Args:
        entries: A group each; the id is the position. `name: class, class`, or `name: *` for the classes that no other group
            lists. A color may follow the name, as in `drivable #00c000: road`; the default is that of the first class.
        classes: The classes to group.

    Returns:
        Mapping from every class id to a class set of the groups.

    Raises:
        ConfigError: An entry is malformed, a class is unknown, or a class is in no group or in two.
    """
    where = "parameter class_groups"
    names: list[str] = []
    colors: list[tuple[int, int, int] | None] = []
    group_of: dict[str, int] = {}
    for entry in entries:
        match = _GROUP.fullmatch(entry.strip())
        if match is None:
            raise ConfigError(f"{where}: {truncated_repr(entry)} is malformed; write `name: class, class` or `name: *`")
        if match["name"] in names:
            raise ConfigError(f"{where}: two groups are named {truncated_repr(match['name'])}")
        for word in map(str.strip, match["classes"].split(",")):
            if word != "*":
                _class_id(word, classes, f"{where}: {match['name']}")
            if group_of.setdefault(word, len(names)) != len(names):
                raise ConfigError(f"{where}: {word} is in two groups: {names[group_of[word]]} and {match['name']}")
        names.append(match["name"])
        colors.append(_rgb(match["color"]) if match["color"] else None)
    missing = [name for name in classes.names if name not in group_of]
    if missing and "*" not in group_of:
        raise ConfigError(f"{where}: no group has {', '.join(missing)}; list them, or add `other: *` for the remaining classes")
    group_of.update(dict.fromkeys(missing, group_of.pop("*", 0)))
    ids = {classes.names.index(name): group for name, group in group_of.items()}
    # Reversed, so that the first class of a group comes last and remains.
    defaults = {group: classes.colors[number] for number, group in reversed(ids.items())}
    groups = ClassSet(
        "class_groups", tuple(names), tuple(color or defaults.get(group, (0, 0, 0)) for group, color in enumerate(colors))
    )
    return LabelMapping(groups.name, classes.name, groups, ids, dict(enumerate(classes.names)))


def _text(value: object) -> str:
    """Return a name that YAML may have parsed as another type."""
    return value if isinstance(value, str) else truncated_repr(value)


def _class_id(value: object, classes: ClassSet, where: str) -> int:
    if type(value) is int and 0 <= value < len(classes):
        return value
    if isinstance(value, str) and value in classes.names:
        return classes.names.index(value)
    hint = did_you_mean(value, classes.names) or f" ({', '.join(classes.names)})"
    raise ConfigError(f"{where}: {truncated_repr(value)} is not a class of {classes.name}{hint}")


def _rgb(color: str) -> tuple[int, int, int]:
    red, green, blue = bytes.fromhex(color)
    return red, green, blue


def lookup(mapping: Mapping[int, int]) -> np.ndarray:
    """Return the mapping as a table of 256 uint8 for `table[labels]`; other ids become 255."""
    table = np.full(256, UNLABELED, np.uint8)
    for source, target in mapping.items():
        table[source] = target
    return table
