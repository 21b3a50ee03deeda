"""Pseudo-labels: a trained network fills in missing labels and depth (hard distillation, Nekrasov et al., ICRA 2019)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mtl_perception.errors import SourceError
from mtl_perception.pipeline import Pipeline
from mtl_perception.progress import progress_bar
from mtl_perception.training.config import Teacher
from mtl_perception.training.data.formats.files import DEPTH_INF, DEPTH_SCALE, read_depth_values, read_labels
from mtl_perception.training.data.training_set import TrainingSet
from mtl_perception.types import Frame, Sample
from mtl_perception.visualization.files import replacing


class PseudoLabels(Sequence[Sample]):
    """Pseudo-labels of the samples of a data set, in their order.

    Args:
        folder: Folder of the files.
        keys: Names of the samples.
        needed: Indices of the samples that have pseudo-labels; the others get none.
    """

    def __init__(self, folder: Path, keys: Sequence[str], needed: Collection[int]) -> None:
        self._folder = folder
        self._keys = list(keys)
        self._needed = frozenset(needed)

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, index: Any) -> Any:
        """Load the pseudo-labels of a sample, without its image."""
        key = self._keys[index]
        if index not in self._needed:
            return Sample(Frame(np.empty((0, 0, 0), np.uint8)), name=key)
        label_path, depth_path = self.files(key)
        image = cv2.imread(str(label_path), cv2.IMREAD_UNCHANGED)
        if image is None:
            raise SourceError(f"pseudo-labels {label_path} cannot be read; delete the folder to create them again")
        labels = read_labels(label_path, image.shape[:2])
        values = read_depth_values(depth_path, image.shape[:2])
        depth = np.where(values == 0, np.nan, values / DEPTH_SCALE).astype(np.float32)
        depth[values == DEPTH_INF] = np.inf
        return Sample(Frame(np.empty((*labels.shape, 0), np.uint8)), labels, depth, key)

    def files(self, key: str) -> tuple[Path, Path]:
        """Return the label file and the depth file of a sample."""
        return self._folder / "label" / f"{key}.png", self._folder / "depth" / f"{key}.png"


def write_pseudo_labels(sets: Sequence[TrainingSet], teacher: Teacher, out: Path, device: str = "auto") -> list[TrainingSet]:
    """Write pseudo-labels for samples without labels or depth; existing files are kept.

    Args:
        sets: Training sets.
        teacher: The network and its options.
        out: Target folder: `<set>/label/*.png`, `<set>/depth/*.png` (uint16, meters x 256, 0 = unknown, 65535 = sky).
        device: Device of the teacher.

    Returns:
        The sets with `pseudo_labels`; sets with `teach: false` are unchanged.

    Raises:
        WeightsError: The weights of the teacher cannot be used.
        SourceError: A file cannot be read or written.
    """
    pipeline = Pipeline(teacher.weights, device, min_confidence=teacher.confidence, warm_up=False)
    completed = []
    for entry in sets:
        if not entry.teach:
            completed.append(entry)
            continue
        keys = entry.dataset.keys
        needed = [i for i in range(len(keys)) if teacher.sparse or _is_incomplete(entry, i, teacher.tasks)]
        pseudo_labels = PseudoLabels(out / entry.dataset.name, keys, needed)
        missing = [i for i in needed if not all(path.is_file() for path in pseudo_labels.files(keys[i]))]
        bar = progress_bar(missing, desc=f"teacher: {entry.dataset.name}", unit="image", disable=None if missing else True)
        for index in bar:
            _write(pipeline, entry.sample(index), *pseudo_labels.files(keys[index]))
        completed.append(replace(entry, pseudo_labels=pseudo_labels))
    return completed


def _is_incomplete(entry: TrainingSet, index: int, tasks: Collection[str]) -> bool:
    """Return whether a sample lacks labels or depth for one of the tasks."""
    has = {"segmentation": entry.dataset.has_labels, "depth": entry.dataset.has_depth}
    return any(not has[task](index) for task in tasks)


def _write(pipeline: Pipeline, sample: Sample, label_path: Path, depth_path: Path) -> None:
    result = pipeline(sample.frame, outputs={"labels", "depth"})
    assert result.labels is not None
    assert result.depth is not None
    sky = result.labels == pipeline.class_set.names.index("sky")
    depth = np.where(np.isfinite(result.depth), result.depth, 0)
    values = np.clip(np.rint(depth * DEPTH_SCALE), 0, DEPTH_INF - 1).astype(np.uint16)
    # Only the sky is infinitely far; the depth of anything else beyond the range is unknown.
    values[sky] = np.where(np.isinf(result.depth[sky]), DEPTH_INF, 0)
    # Labels come last: a sample is complete if both files exist.
    for path, image in ((depth_path, values), (label_path, result.labels)):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as part:
                part.write_bytes(cv2.imencode(".png", image)[1].tobytes())
        except OSError as error:
            raise SourceError(f"{path}: cannot be written: {error.strerror}") from error
