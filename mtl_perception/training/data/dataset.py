"""Data sets: the protocol, image files with labels and depth, and subsets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from mtl_perception.camera.model import CameraModel
from mtl_perception.errors import SourceError
from mtl_perception.labels import ClassSet, LabelMapping
from mtl_perception.sources.base import FRAME_ID
from mtl_perception.training.data.formats.files import read_depth, read_image, read_labels
from mtl_perception.types import UNLABELED, Frame, Sample
from mtl_perception.yaml_fields import YamlFields


class Dataset(Protocol):
    """Samples by index. Each access loads the sample again.

    Attributes:
        name: Name of the data set.
        license: Its license, in one line.
        classes: Class set of its labels.
        keys: Names of the samples, known without loading them.
    """

    name: str
    license: str
    classes: ClassSet
    keys: list[str]

    def __len__(self) -> int:
        """Return the number of samples."""

    def __getitem__(self, index: int) -> Sample:
        """Load a sample.

        Raises:
            IndexError: There is no such sample.
            SourceError: A file is invalid; the message names it.
        """

    def has_labels(self, index: int) -> bool:
        """Return whether a sample has labels, without loading it."""

    def has_depth(self, index: int) -> bool:
        """Return whether a sample has depth, without loading it."""


@dataclass(frozen=True)
class DatasetOptions:
    """Options of an entry in a list of data sets.

    Attributes:
        name: Name of the data set; empty: the name of its folder.
        labels: Load labels.
        depth: Load depth.
        mapping: Mapping of the ids in its label images; None: that of the format.
        fields: All keys of the entry, among them those of the format.
    """

    name: str
    labels: bool
    depth: bool
    mapping: LabelMapping | None
    fields: YamlFields


@dataclass(frozen=True)
class SampleFiles:
    """Files of one sample; None for a file that does not exist."""

    key: str
    image: Path
    labels: Path | None = None
    depth: Path | None = None


class ImageDataset:
    """Image files with label images and depth images. See `Dataset`.

    Base class of the file formats, which find the files, and define camera and depth.

    Args:
        name: Name of the data set.
        license: Its license.
        items: Files of its samples, at least one.
        mapping: From the ids in its label images to its classes.
        options: States whether labels and depth are loaded.

    Raises:
        SourceError: There are no items.
    """

    depth_scale = 256.0
    """Stored value of 1 m in its depth images; 0 is unknown."""
    sky: int | None = None
    """Stored value of the sky; None if there is none."""

    def __init__(
        self, name: str, license: str, items: Sequence[SampleFiles], mapping: LabelMapping, options: DatasetOptions
    ) -> None:
        if not items:
            raise SourceError(f"data set {name}: no images found")
        self.name = name
        self.license = license
        self.mapping = mapping
        self.classes = mapping.classes
        self.items = [
            replace(item, labels=item.labels if options.labels else None, depth=item.depth if options.depth else None)
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
        """Return whether a sample has a label image."""
        return self.items[index].labels is not None

    def has_depth(self, index: int) -> bool:
        """Return whether a sample has a depth file."""
        return self.items[index].depth is not None

    def camera(self, item: SampleFiles, width: int, height: int) -> CameraModel | None:
        """Return the camera of an image of this size; None if it is unknown."""
        return None

    def read_depth(self, item: SampleFiles, path: Path, camera: CameraModel | None, shape: tuple[int, int]) -> np.ndarray:
        """Read a depth file: H x W float32, m, NaN = unknown, +Inf = the sky."""
        return read_depth(path, shape, self.depth_scale, self.sky)

    def check(self, index: int) -> None:
        """Read every file of a sample.

        Raises:
            SourceError: A file cannot be read, has another size than its image or another bit depth, has an id that is not in
                the mapping, or an image without a camera in a data set with cameras.
        """
        height, width = self[index].frame.image.shape[:2]
        path, known = self.items[index].labels, self.mapping.known()
        if path is not None:
            ids = np.unique(read_labels(path, (height, width)))
            if not known[ids].all():
                raise SourceError(
                    f"label image {path} has the id {ids[~known[ids]][0]}, which is not in the mapping {self.mapping.name!r}; "
                    f"{UNLABELED} means unlabeled"
                )


class Subset:
    """Some samples of a data set. See `Dataset`.

    Args:
        dataset: The data set.
        indices: Indices of the samples in it.
        name: Name of the subset; empty: that of the data set.
    """

    def __init__(self, dataset: Dataset, indices: Sequence[int], name: str = "") -> None:
        self.dataset = dataset
        self.indices = list(indices)
        self.name = name or dataset.name
        self.license = dataset.license
        self.classes = dataset.classes
        self.keys = [dataset.keys[i] for i in self.indices]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Sample:
        return self.dataset[self.indices[index]]

    def has_labels(self, index: int) -> bool:
        """Return whether a sample has labels."""
        return self.dataset.has_labels(self.indices[index])

    def has_depth(self, index: int) -> bool:
        """Return whether a sample has depth."""
        return self.dataset.has_depth(self.indices[index])


def image_files(dataset: Dataset) -> list[Path]:
    """Return the resolved image files of a data set, in the order of its samples; empty for a generator or an archive."""
    if isinstance(dataset, Subset):
        files = image_files(dataset.dataset)
        return [files[i] for i in dataset.indices] if files else []
    return [item.image.resolve() for item in dataset.items] if isinstance(dataset, ImageDataset) else []
