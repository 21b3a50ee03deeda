"""A data set with its role in a run, and its pseudo-labels."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mtl_perception.camera.model import CameraModel
from mtl_perception.errors import ConfigError, SourceError
from mtl_perception.network.description import KITTI_CAMERA
from mtl_perception.training.data.dataset import Dataset
from mtl_perception.training.data.formats.files import DEPTH_INF, DEPTH_SCALE, read_depth, read_labels
from mtl_perception.training.data.open import open_entry, refuse_same_names
from mtl_perception.types import Sample
from mtl_perception.yaml_fields import YamlFields

RUN_KEYS = ("share", "focal_length", "teach", "paste_source")
"""Keys of an entry that belong to the run, not to the data set."""


@dataclass(frozen=True)
class PseudoLabels:
    """Pseudo-labels of the samples of a data set, in their order.

    Attributes:
        folder: Folder of the files.
        keys: Names of the samples.
        needed: Indices of the samples that have pseudo-labels; the others get none.
        tasks: Tasks that get pseudo-labels.
    """

    folder: Path
    keys: Sequence[str]
    needed: Collection[int]
    tasks: Collection[str]

    def load(self, index: int, shape: tuple[int, int]) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Load labels (H x W uint8, 255 = unlabeled) and depth (H x W float32, m, NaN = unknown); None for missing ones.

        Args:
            index: Index of the sample.
            shape: Height and width of its image.

        Raises:
            SourceError: A file cannot be read, or its size differs from that of the image.
        """
        if index not in self.needed:
            return None, None
        label_file, depth_file = self.files(index)
        try:
            labels = read_labels(label_file, shape) if "segmentation" in self.tasks else None
            depth = read_depth(depth_file, shape, DEPTH_SCALE, DEPTH_INF) if "depth" in self.tasks else None
        except SourceError as error:
            raise SourceError(f"pseudo-labels: {error}; delete {self.folder} to create them again") from None
        return labels, depth

    def files(self, index: int) -> tuple[Path, Path]:
        """Return the label file and the depth file of a sample."""
        label_file, depth_file = (self.folder / kind / f"{self.keys[index]}.png" for kind in ("label", "depth"))
        return label_file, depth_file


@dataclass(frozen=True)
class TrainingSet:
    """A data set with its role in a run.

    Attributes:
        dataset: The samples.
        share: Its share of each batch, relative to the other sets.
        focal_length: Assumed for samples without a camera, pixels; 0: KITTI's field of view.
        teach: Whether a teacher adds pseudo-labels: not where labels and depth are complete, as in rendered images.
        paste_source: Whether its people and cyclists may be pasted into other images.
        pseudo_labels: Pseudo-labels of the same samples, in the same order; None: there is no teacher.
    """

    dataset: Dataset
    share: float = 1.0
    focal_length: float = 0.0
    teach: bool = True
    paste_source: bool = True
    pseudo_labels: PseudoLabels | None = None

    def sample(self, index: int) -> Sample:
        """Load a sample with its camera, or with the assumed one."""
        sample = self.dataset[index]
        if sample.frame.camera is not None:
            return sample
        height, width = sample.frame.image.shape[:2]
        focal_length = self.focal_length or KITTI_CAMERA["fx"] * width / KITTI_CAMERA["width"]
        camera = CameraModel(width, height, focal_length, focal_length, width / 2, height / 2)
        return replace(sample, frame=replace(sample.frame, camera=camera))


def open_training_sets(entries: Sequence[Mapping[str, Any]], base: Path) -> list[TrainingSet]:
    """Open the training sets of a configuration; sets in one folder divide its share by their numbers of samples.

    Args:
        entries: Entries of `open_sets`, with the keys `share`, `focal_length`, `teach` and `paste_source` in addition.
        base: Folder that relative paths start from.

    Raises:
        ConfigError: An entry is invalid, or none has a share.
        SourceError: Files are missing.
    """
    sets = []
    for number, entry in enumerate(entries, 1):
        where = f"sets: set {number}"
        fields = YamlFields({key: value for key, value in entry.items() if key in RUN_KEYS}, where)
        datasets = open_entry({key: value for key, value in entry.items() if key not in RUN_KEYS}, base, where)
        share, samples = fields.number("share", 1.0, low=0.0), sum(map(len, datasets))
        sets += [
            TrainingSet(
                dataset,
                share=share * len(dataset) / samples,
                focal_length=fields.number("focal_length", 0.0, low=0.0),
                teach=fields.flag("teach", True),
                paste_source=fields.flag("paste_source", True),
            )
            for dataset in datasets
        ]
    if not any(entry.share > 0 for entry in sets):
        raise ConfigError("sets: no data set has a share above 0, so there is nothing to train on")
    refuse_same_names((entry.dataset for entry in sets), "sets")
    return sets
