"""Segmentation metrics."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from mtl_perception.errors import PerceptionError, SourceError
from mtl_perception.labels import ClassSet
from mtl_perception.training.evaluation.depth import image_size
from mtl_perception.types import UNLABELED

try:
    from torchmetrics.functional.classification import multiclass_confusion_matrix
except ImportError as missing:
    raise PerceptionError(
        f"evaluation needs torchmetrics, which cannot be imported ({missing}); pip install 'mtl_perception[train]'"
    ) from missing


@dataclass(frozen=True)
class SegmentationScore:
    """Agreement of labels with the ground truth, over the labeled pixels.

    Attributes:
        classes: C class names.
        confusion: C x (C + 1) int64 pixel counts: rows are true classes, columns predicted ones; the last column counts pixels
            without a predicted class.
    """

    classes: tuple[str, ...]
    confusion: np.ndarray

    @property
    def iou(self) -> np.ndarray:
        """C float, 0..1: intersection over union; NaN for a class that neither ground truth nor prediction contains."""
        correct = self.confusion.diagonal()
        union = self.confusion.sum(1) + self.confusion[:, : len(correct)].sum(0) - correct
        iou = np.full(len(correct), math.nan)
        np.divide(correct, union, out=iou, where=union > 0)
        return iou

    @property
    def miou(self) -> float:
        """Mean IoU over the classes that ground truth or prediction contain, unweighted; NaN without any."""
        counted = self.iou[~np.isnan(self.iou)]
        return float(counted.mean()) if counted.size else math.nan

    @property
    def pixels(self) -> int:
        """Number of labeled pixels."""
        return int(self.confusion.sum())

    @property
    def pixel_accuracy(self) -> float:
        """Share of correct pixels; NaN without labeled pixels."""
        return float(self.confusion.trace()) / self.pixels if self.pixels else math.nan


class SegmentationMetrics:
    """mIoU, IoU per class and pixel accuracy.

    The pixels of all images form one confusion matrix, which yields the IoU of each class; mIoU is the unweighted mean over the
    classes. A class that neither ground truth nor prediction contains is left out; a class that is only predicted counts with
    IoU 0. Unlabeled pixels (255) are ignored; a labeled pixel without a predicted class is wrong.

    Args:
        classes: Class set of labels and ground truth.
    """

    def __init__(self, classes: ClassSet) -> None:
        self.classes = classes
        self._confusion = np.zeros((len(classes), len(classes) + 1), np.int64)

    def update(self, labels: np.ndarray, truth: np.ndarray) -> SegmentationScore:
        """Add an image, and score it on its own.

        Args:
            labels: H x W uint8 predicted ids; ids outside the class set, such as 255, mean no prediction.
            truth: H x W uint8 ids, 255 = unlabeled.

        Raises:
            SourceError: The sizes differ, or the ground truth contains an id that is not in the class set.
        """
        if labels.shape != truth.shape:
            raise SourceError(f"labels are {image_size(labels)}, the ground truth is {image_size(truth)}")
        count, known = len(self.classes), truth != UNLABELED
        if known.any() and int(truth[known].max()) >= count:
            raise SourceError(f"the ground truth has id {truth[known].max()}, {self.classes.name!r} has {count} classes")
        # The additional class is "none predicted".
        predicted = torch.from_numpy(np.minimum(labels, np.uint8(count)))
        target = torch.from_numpy(np.ascontiguousarray(truth))
        counts = multiclass_confusion_matrix(predicted, target, count + 1, ignore_index=UNLABELED, validate_args=False)
        confusion = counts.numpy()[:count]
        self._confusion += confusion
        return SegmentationScore(self.classes.names, confusion)

    def merge(self, other: SegmentationMetrics) -> None:
        """Add the images of another instance with the same classes."""
        self._confusion += other._confusion

    def compute(self) -> SegmentationScore:
        """Return the score of all images."""
        return SegmentationScore(self.classes.names, self._confusion.copy())
