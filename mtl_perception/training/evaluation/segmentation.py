"""Segmentation metrics."""

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
        f"evaluation needs torchmetrics, which cannot be imported ({missing}); pip install 'mtl_perception[train]'"
    ) from missing


@dataclass(frozen=True)
class SegmentationScore:
    """Agreement of labels with the ground truth, over the labeled pixels.

    Attributes:
        classes: C class names.
        iou: C float, 0..1: intersection over union; NaN for a class that neither ground truth nor prediction contains.
        pixel_accuracy: Share of correct pixels; NaN without labeled pixels.
        confusion: C x (C + 1) int64 pixel counts: rows are true classes, columns predicted ones; the last column counts pixels
            without a predicted class.
    """

    classes: tuple[str, ...]
    iou: np.ndarray
    pixel_accuracy: float
    confusion: np.ndarray

    @property
    def miou(self) -> float:
        """Mean IoU over the classes that ground truth or prediction contain, unweighted; NaN without any."""
        counted = self.iou[~np.isnan(self.iou)]
        return float(counted.mean()) if counted.size else math.nan

    @property
    def pixels(self) -> int:
        """Number of labeled pixels."""
        return int(self.confusion.sum())


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
        # The additional class is "none predicted". Only one process evaluates, so it must not synchronize with the others.
        self._total = MulticlassJaccardIndex(
            len(classes) + 1,
            average="none",
            ignore_index=UNLABELED,
            validate_args=False,
            sync_on_compute=False,
            compute_with_cache=False,
        )
        self._image = copy.deepcopy(self._total)

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
        known = truth != UNLABELED
        if known.any() and int(truth[known].max()) >= len(self.classes):
            raise SourceError(
                f"the ground truth has id {truth[known].max()}, {self.classes.name!r} has {len(self.classes)} classes"
            )
        predicted = np.minimum(labels, np.uint8(len(self.classes)))
        self._image.reset()
        self._image.update(torch.from_numpy(predicted), torch.from_numpy(np.ascontiguousarray(truth)))
        self._total.merge_state(self._image)
        return self._score(self._image)

    def merge(self, other: SegmentationMetrics) -> None:
        """Add the images of another instance with the same classes."""
        self._total.merge_state(other._total)

    def compute(self) -> SegmentationScore:
        """Return the score of all images."""
        return self._score(self._total)

    def _score(self, metric: MulticlassJaccardIndex) -> SegmentationScore:
        count = len(self.classes)
        confusion = metric.confmat.numpy()[:count].astype(np.int64)
        with warnings.catch_warnings():
            # torchmetrics does not count a merge as an update and warns of computing before one.
            warnings.simplefilter("ignore", UserWarning)
            iou = metric.compute().numpy()[:count].astype(np.float64)
        iou[confusion.sum(1) + confusion[:, :count].sum(0) == 0] = math.nan
        pixels = int(confusion.sum())
        accuracy = float(np.trace(confusion)) / pixels if pixels else math.nan
        return SegmentationScore(self.classes.names, iou, accuracy, confusion)
