"""What every data set is, and what those that lie in files share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from mtl_perception.camera.model import CameraModel
from mtl_perception.errors import SourceError
from mtl_perception.labels import ClassSet, LabelMapping
from mtl_perception.training.data.fields import Fields
from mtl_perception.training.data.formats.files import read_depth, read_image, read_labels
from mtl_perception.types import UNLABELED, Frame, Sample

FRAME_ID = "camera_optical_frame"


class Dataset(Protocol):
    """Samples by number; a picture is loaded when it is asked for, each time anew.

    Attributes:
        name: What a person would call it.
        license: On what terms its pictures and labels may be used; one line.
        classes: What the ids of its labels mean.
        keys: The samples' names, known without loading anything.
    """

    name: str
    license: str
    classes: ClassSet
    keys: list[str]

    def __len__(self) -> int:
        """Count of samples."""

    def __getitem__(self, index: int) -> Sample:
        """Sample `index`; IndexError where there is none, SourceError naming the file that is bad."""

    def has_labels(self, index: int) -> bool:
        """Whether sample `index` has labels, without loading it."""

    def has_depth(self, index: int) -> bool:
        """Whether sample `index` has depth, without loading it."""


@dataclass(frozen=True)
class Setting:
    """How a set is to be opened.

    Attributes:
        name: Its name; empty: its folder's.
        labels: Give labels where there are.
        depth: Give depth where there is.
        mapping: From the ids of its label pictures; None: the format's own.
        fields: The keys that only this format knows.
        base: The folder that relative paths in `fields` begin at.
        variables: For `${NAME}` in those paths.
    """

    name: str
    labels: bool
    depth: bool
    mapping: LabelMapping | None
    fields: Fields
    base: Path
    variables: Mapping[str, str]

    def path(self, key: str) -> Path:
        """The file or folder that a key of `fields` names.

        Raises:
            ConfigError: The key is missing, or a variable in it is not set.
        """
        return self.fields.path(key, self.base, self.variables)


@dataclass(frozen=True)
class Item:
    """The files of one sample; None where there is no such file."""

    key: str
    image: Path
    labels: Path | None = None
    depth: Path | None = None


class PictureDataset:
    """Pictures in files, with label pictures and depth pictures in files beside them. See `Dataset`.

    The base of the formats: they find the items, and say what the camera is and how depth is read.

    Args:
        name: The set's name.
        license: Its terms of use.
        items: Its files, at least one.
        mapping: From the ids in its label pictures to its classes.
        setting: `labels` and `depth` are taken from it.

    Raises:
        SourceError: There are no items.
    """

    depth_scale = 256.0
    """Stored value of one meter in its depth pictures; 0 is unknown."""

    def __init__(self, name: str, license: str, items: Sequence[Item], mapping: LabelMapping, setting: Setting) -> None:
        if not items:
            raise SourceError(f"data set {name}: it has no pictures")
        self.name = name
        self.license = license
        self.mapping = mapping
        self.classes = mapping.classes
        self.items = [
            replace(item, labels=item.labels if setting.labels else None, depth=item.depth if setting.depth else None)
            for item in items
        ]
        self.keys = [item.key for item in self.items]
        self._table = mapping.table()

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Sample:
        item = self.items[index]
        image = read_image(item.image)
        height, width = image.shape[:2]
        camera = self.camera(item, width, height)
        labels = None if item.labels is None else self._table[read_labels(item.labels, (height, width))]
        depth = None if item.depth is None else self.read_depth(item, item.depth, camera, (height, width))
        return Sample(Frame(image, camera, 0, FRAME_ID), labels, depth, item.key)

    def has_labels(self, index: int) -> bool:
        """Whether there is a label picture."""
        return self.items[index].labels is not None

    def has_depth(self, index: int) -> bool:
        """Whether there is a depth file."""
        return self.items[index].depth is not None

    def camera(self, item: Item, width: int, height: int) -> CameraModel | None:
        """The camera of a picture of this size; None where it is not known."""
        return None

    def read_depth(self, item: Item, path: Path, camera: CameraModel | None, shape: tuple[int, int]) -> np.ndarray:
        """H x W float32 meters, NaN = unknown, from the item's depth file."""
        return read_depth(path, shape, self.depth_scale)

    def validate(self, indices: Iterable[int] | None = None) -> int:
        """Read every file of these samples (None: of all), and raise at the first that is bad.

        Returns:
            The number of samples.

        Raises:
            SourceError: A file cannot be read, has another size than its picture or other bits, a label picture has an id that
                is none of the mapping's, or there are cameras but none for this picture.
        """
        known, count = self.mapping.known(), 0
        for index in range(len(self)) if indices is None else indices:
            item, count = self.items[index], count + 1
            height, width = self[index].frame.image.shape[:2]
            if item.labels is not None:
                ids = np.unique(read_labels(item.labels, (height, width)))
                if not known[ids].all():
                    raise SourceError(
                        f"label picture {item.labels} has the id {ids[~known[ids]][0]}, which the mapping "
                        f"{self.mapping.name!r} does not know ({UNLABELED} is unknown)"
                    )
        return count


class Selected:
    """Some samples of a data set. See `Dataset`.

    Args:
        whole: The set.
        indices: Which of its samples.
        name: The name of the selection; empty: that of the whole.
    """

    def __init__(self, whole: Dataset, indices: Sequence[int], name: str = "") -> None:
        self.whole = whole
        self.indices = list(indices)
        self.name = name or whole.name
        self.license = whole.license
        self.classes = whole.classes
        self.keys = [whole.keys[i] for i in self.indices]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Sample:
        return self.whole[self.indices[index]]

    def has_labels(self, index: int) -> bool:
        """As the whole says."""
        return self.whole.has_labels(self.indices[index])

    def has_depth(self, index: int) -> bool:
        """As the whole says."""
        return self.whole.has_depth(self.indices[index])

    def validate(self) -> int:
        """Read every file of the selection, and raise at the first that is bad: see `PictureDataset.validate`."""
        if isinstance(self.whole, PictureDataset):
            return self.whole.validate(self.indices)
        for index in self.indices:
            self.whole[index]
        return len(self)
