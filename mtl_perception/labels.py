"""Class sets (id, name, colour) and the mappings between data sets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mtl_perception.types import UNLABELLED


@dataclass(frozen=True)
class ClassSet:
    """Classes in id order.

    Attributes:
        name: Name of the set.
        names: C class names; the id is the position.
        colors: C RGB colours, each 0..255.
    """

    name: str
    names: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...]

    def __post_init__(self) -> None:
        if len(self.names) != len(self.colors):
            raise ValueError(f"class set {self.name!r}: {len(self.names)} names but {len(self.colors)} colours")

    def __len__(self) -> int:
        return len(self.names)

    def palette(self) -> np.ndarray:
        """RGB colour of every possible label: 256 x 3 uint8; ids outside the set, 255 among them, are black."""
        table = np.zeros((256, 3), np.uint8)
        table[: len(self)] = self.colors
        return table

    def records(self) -> list[dict[str, object]]:
        """The set as a list of {"id", "name", "color"}, ready for JSON."""
        return [
            {"id": i, "name": name, "color": list(color)}
            for i, (name, color) in enumerate(zip(self.names, self.colors, strict=True))
        ]


def colormap(index: int) -> tuple[int, int, int]:
    """Colour number `index` of the PASCAL VOC colour map (its development kit's bit-interleaving rule), RGB."""
    red = green = blue = 0
    for bit in range(8):
        red |= (index >> 0 & 1) << (7 - bit)
        green |= (index >> 1 & 1) << (7 - bit)
        blue |= (index >> 2 & 1) << (7 - bit)
        index >>= 3
    return red, green, blue


STREET = ClassSet(
    "street",
    (
        "road",
        "sidewalk",
        "terrain",
        "building",
        "fence",
        "pole",
        "sign",
        "vegetation",
        "sky",
        "person",
        "cyclist",
        "vehicle",
    ),
    # Cityscapes' own colours where it has the class.
    (
        (128, 64, 128),
        (244, 35, 232),
        (152, 251, 152),
        (70, 70, 70),
        (190, 153, 153),
        (153, 153, 153),
        (220, 220, 0),
        (107, 142, 35),
        (70, 130, 180),
        (220, 20, 60),
        (255, 0, 0),
        (0, 0, 142),
    ),
)

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
# The published NYUDv2 colour map is PASCAL VOC's with index = class id + 1 (index 0 is void).
NYUD40 = ClassSet("nyud40", tuple(_NYUD40_NAMES), tuple(colormap(i + 1) for i in range(40)))

CITYSCAPES_TO_STREET: Mapping[int, int] = {
    **{7: 0, 8: 1, 22: 2, 11: 3, 12: 4, 13: 4, 14: 4, 17: 5, 18: 5, 19: 6, 20: 6, 21: 7, 23: 8, 24: 9},
    **{25: 10, 32: 10, 33: 10, 26: 11, 27: 11, 28: 11, 29: 11, 30: 11, 31: 11},
}
"""Cityscapes labelIds (as KITTI's semantic data uses them) to `street`."""

CAMVID_TO_STREET: Mapping[int, int] = {0: 8, 1: 3, 2: 5, 3: 0, 4: 1, 5: 7, 6: 6, 7: 4, 8: 11, 9: 9, 10: 10}
"""CamVid's 11 classes to `street`."""

STREET_TO_KITTI6: Mapping[int, int] = {8: 0, 3: 1, 0: 2, 1: 3, 7: 4, 11: 5}
"""`street` to the paper's six KITTI classes; terrain and small things have none."""


def lookup(mapping: Mapping[int, int]) -> np.ndarray:
    """The mapping as a 256-entry uint8 table for `table[labels]`; ids it does not name become 255."""
    table = np.full(256, UNLABELLED, np.uint8)
    for source, target in mapping.items():
        table[source] = target
    return table
