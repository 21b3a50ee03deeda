"""The teacher: a trained network writes the labels and depths that samples lack (hard distillation, Nekrasov et al. 2019)."""

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
from mtl_perception.training.data.formats.files import BEYOND, DEPTH_SCALE, read_labels, read_stored_depth
from mtl_perception.training.data.training_set import TrainingSet
from mtl_perception.types import Frame, Sample
from mtl_perception.visualization.files import replacing


class Taught(Sequence[Sample]):
    """What a teacher wrote of the samples of a set, in their order.

    Args:
        folder: Where it wrote.
        keys: The samples' names.
        needed: Places of the samples that it was asked about; of the others it says nothing.
    """

    def __init__(self, folder: Path, keys: Sequence[str], needed: Collection[int]) -> None:
        self._folder = folder
        self._keys = list(keys)
        self._needed = frozenset(needed)

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, index: Any) -> Any:
        """Sample `index`, without its picture."""
        key = self._keys[index]
        if index not in self._needed:
            return Sample(Frame(np.empty((0, 0, 0), np.uint8)), name=key)
        label, depth = self.files(key)
        stored = cv2.imread(str(label), cv2.IMREAD_UNCHANGED)
        if stored is None:
            raise SourceError(f"{label}: what the teacher wrote cannot be read; delete the folder to have it written again")
        labels = read_labels(label, stored.shape[:2])
        values = read_stored_depth(depth, stored.shape[:2])
        meters = np.where(values == 0, np.nan, values / DEPTH_SCALE).astype(np.float32)
        meters[values == BEYOND] = np.inf
        return Sample(Frame(np.empty((*labels.shape, 0), np.uint8)), labels, meters, key)

    def files(self, key: str) -> tuple[Path, Path]:
        """Label and depth file of a sample."""
        return self._folder / "label" / f"{key}.png", self._folder / "depth" / f"{key}.png"


def teach(sets: Sequence[TrainingSet], teacher: Teacher, out: Path, device: str = "auto") -> list[TrainingSet]:
    """Have the teacher write what the samples lack; what an earlier call wrote is kept.

    Args:
        sets: The run's data.
        teacher: Which network, and how sure it must be.
        out: Where to: `<set>/label/*.png`, `<set>/depth/*.png` (uint16, meters x 256, 0 = unknown, 65535 = the sky).
        device: Where the teacher runs.

    Returns:
        The sets with `taught`, but for those that are not to be taught.

    Raises:
        WeightsError: The teacher's weights cannot be used.
        SourceError: A file cannot be read or written.
    """
    pipeline = Pipeline(teacher.weights, device, min_confidence=teacher.confidence, warm_up=False)
    filled = []
    for entry in sets:
        if not entry.teach:
            filled.append(entry)
            continue
        keys = entry.pictures.keys
        needed = [i for i in range(len(keys)) if teacher.sparse or _lacks(entry, i, teacher.tasks)]
        taught = Taught(out / entry.pictures.name, keys, needed)
        todo = [i for i in needed if not all(path.is_file() for path in taught.files(keys[i]))]
        for index in progress_bar(todo, desc=f"teacher: {entry.pictures.name}", unit="picture", disable=None if todo else True):
            _write(pipeline, entry.sample(index), *taught.files(keys[index]))
        filled.append(replace(entry, taught=taught))
    return filled


def _lacks(entry: TrainingSet, index: int, tasks: Collection[str]) -> bool:
    """Whether a sample is without something that is to be learned from the teacher."""
    has = {"segmentation": entry.pictures.has_labels, "depth": entry.pictures.has_depth}
    return any(not has[task](index) for task in tasks)


def _write(pipeline: Pipeline, sample: Sample, label: Path, depth: Path) -> None:
    result = pipeline(sample.frame, outputs={"labels", "depth"})
    assert result.labels is not None
    assert result.depth is not None
    sky = result.labels == pipeline.class_set.names.index("sky")
    meters = np.where(np.isfinite(result.depth), result.depth, 0)
    stored = np.clip(np.rint(meters * DEPTH_SCALE), 0, BEYOND - 1).astype(np.uint16)
    # Only the sky is beyond all; anything else that is far is merely not known.
    stored[sky] = np.where(np.isinf(result.depth[sky]), BEYOND, 0)
    # The labels last: a sample counts as written when both are there.
    for path, values in ((depth, stored), (label, result.labels)):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as part:
                part.write_bytes(cv2.imencode(".png", values)[1].tobytes())
        except OSError as error:
            raise SourceError(f"{path}: cannot be written: {error.strerror}") from error
