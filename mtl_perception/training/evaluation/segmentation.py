"""Figures of merit of labels and depth, and over what each of them is averaged."""

from __future__ import annotations

import copy
import math
import warnings
from dataclasses import dataclass

import numpy as np
import torch

from mtl_perception.errors import PerceptionError, SourceError
from mtl_perception.labels import ClassSet
from mtl_perception.training.evaluation.depth import image_size
from mtl_perception.types import UNLABELED

try:
    from torchmetrics.classification import MulticlassJaccardIndex
except ImportError as missing:
    raise PerceptionError(
        f"evaluation needs torchmetrics, which cannot be loaded ({missing}): pip install 'mtl_perception[train]'"
    ) from missing


@dataclass(frozen=True)
class SegmentationScore:
    """How labels agree with the truth, over the pixels whose truth is known.

    Attributes:
        classes: C class names.
        iou: C float, 0..1: intersection over union; NaN for a class that neither truth nor prediction has.
        pixel_accuracy: Share of the pixels that are right; NaN without any.
        confusion: C x (C + 1) int64 pixel counts, a row a class of the truth, a column a predicted one; the last column
            counts pixels for which no class was predicted.
    """

    classes: tuple[str, ...]
    iou: np.ndarray
    pixel_accuracy: float
    confusion: np.ndarray

    @property
    def miou(self) -> float:
        """Mean IoU over the classes that truth or prediction have, all of one weight; NaN without any."""
        counted = self.iou[~np.isnan(self.iou)]
        return float(counted.mean()) if counted.size else math.nan

    @property
    def pixels(self) -> int:
        """Pixels whose truth is known."""
        return int(self.confusion.sum())


class SegmentationMetrics:
    """mIoU, IoU of each class and pixel accuracy.

    What is averaged: pixels are pooled over all pictures into one confusion matrix, the IoU of a class is taken from that,
    and mIoU is the plain mean over the classes. A class that neither truth nor prediction has is not counted; one that is
    predicted though the truth has it nowhere counts with IoU 0. Pixels whose truth is unknown (255) count nowhere; a known
    pixel for which no class was predicted counts as wrong.

    Args:
        classes: Whose ids labels and truth are.
    """

    def __init__(self, classes: ClassSet) -> None:
        self.classes = classes
        # One class more than there are: "none predicted". Evaluated on one process: the others must not be waited for.
        self._total = MulticlassJaccardIndex(
            len(classes) + 1,
            average="none",
            ignore_index=UNLABELED,
            validate_args=False,
            sync_on_compute=False,
            compute_with_cache=False,
        )
        self._picture = copy.deepcopy(self._total)

    def update(self, labels: np.ndarray, truth: np.ndarray) -> SegmentationScore:
        """Count one picture, and score it alone.

        Args:
            labels: H x W uint8 predicted ids; ids outside the set, 255 among them, are no prediction.
            truth: H x W uint8 ids, 255 = unknown.

        Raises:
            SourceError: The sizes differ, or the truth holds an id that the classes have not.
        """
        if labels.shape != truth.shape:
            raise SourceError(f"labels are {image_size(labels)}, the truth is {image_size(truth)}")
        known = truth != UNLABELED
        if known.any() and int(truth[known].max()) >= len(self.classes):
            raise SourceError(f"the truth has id {truth[known].max()}, {self.classes.name!r} has {len(self.classes)} classes")
        guess = np.minimum(labels, np.uint8(len(self.classes)))
        self._picture.reset()
        self._picture.update(torch.from_numpy(guess), torch.from_numpy(np.ascontiguousarray(truth)))
        self._total.merge_state(self._picture)
        return self._score(self._picture)

    def merge(self, other: SegmentationMetrics) -> None:
        """Count all that `other`, of the same classes, has counted."""
        self._total.merge_state(other._total)

    def compute(self) -> SegmentationScore:
        """The score of all pictures together."""
        return self._score(self._total)

    def _score(self, metric: MulticlassJaccardIndex) -> SegmentationScore:
        count = len(self.classes)
        confusion = metric.confmat.numpy()[:count].astype(np.int64)
        with warnings.catch_warnings():
            # What was merged does not pass for an update, and "compute before update" is what it then warns of.
            warnings.simplefilter("ignore", UserWarning)
            iou = metric.compute().numpy()[:count].astype(np.float64)
        iou[confusion.sum(1) + confusion[:, :count].sum(0) == 0] = math.nan
        pixels = int(confusion.sum())
        accuracy = float(np.trace(confusion)) / pixels if pixels else math.nan
        return SegmentationScore(self.classes.names, iou, accuracy, confusion)
