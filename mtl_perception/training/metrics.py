"""Figures of merit of labels and depth, and over what each of them is averaged."""

from __future__ import annotations

import copy
import math
import warnings
from dataclasses import dataclass, fields

import numpy as np
import torch

from mtl_perception.errors import ConfigError, PerceptionError, SourceError
from mtl_perception.labels import ClassSet
from mtl_perception.types import UNLABELED

try:
    from torchmetrics.classification import MulticlassJaccardIndex
except ImportError as missing:
    raise PerceptionError(
        f"evaluation needs torchmetrics, which cannot be loaded ({missing}): pip install 'mtl_perception[train]'"
    ) from missing

MIN_DEPTH = 1e-3
"""Meters: truth at or below is none, predictions below are taken for it."""

CROPS = {
    "none": (0.0, 1.0, 0.0, 1.0),
    # Garg et al., Unsupervised CNN for Single View Depth Estimation, ECCV 2016.
    "garg": (0.40810811, 0.99189189, 0.03594771, 0.96405229),
    # Found by Godard et al., CVPR 2017, to give the figures of Eigen et al., Depth Map Prediction from a Single Image using a
    # Multi-Scale Deep Network, NIPS 2014.
    "eigen": (0.3324324, 0.91351351, 0.0359477, 0.96405229),
}
"""First row, row after the last, first column, column after the last, as shares of height and width."""


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
            raise SourceError(f"labels are {_size(labels)}, the truth is {_size(truth)}")
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


@dataclass(frozen=True)
class DepthScore:
    """How depth agrees with the truth; logarithms are natural. p is the prediction, t the truth, both meters.

    Attributes:
        abs_rel: Mean of |p - t| / t.
        sq_rel: Mean of (p - t)^2 / t, meters.
        rmse: Root of the mean of (p - t)^2, meters.
        rmse_log: Root of the mean of (ln p - ln t)^2.
        silog: With d = ln p - ln t, 100 times the root of mean(d^2) - mean(d)^2: KITTI's scale-invariant error.
        delta1: Share with max(p / t, t / p) < 1.25.
        delta2: The same with 1.25^2.
        delta3: The same with 1.25^3.
        coverage: Share of the pixels for which the network gave a number, +Inf among them.
        pixels: Pixels counted.
    """

    abs_rel: float
    sq_rel: float
    rmse: float
    rmse_log: float
    silog: float
    delta1: float
    delta2: float
    delta3: float
    coverage: float
    pixels: int


class DepthMetrics:
    """The depth figures of Eigen et al., NIPS 2014, with their usual options.

    What is averaged: each figure is taken over the pixels of one picture, then averaged over the pictures, all of one weight.
    Counted are the pixels inside the crop whose truth lies between 1e-3 m and the cap (without both ends). Predictions are
    clipped to 1e-3 m and the cap, +Inf with them. A prediction that is not a number is counted as the cap, so that silence
    never betters a figure, and `coverage` tells of it. Pictures without a pixel to count are left out.

    Args:
        crop: none, garg or eigen.
        cap: Meters: farther truth is not counted.
        median_scaling: First multiply each prediction by median(t) / median(p). For comparison with networks without a scale
            only: it hides what a robot cares for.

    Raises:
        ConfigError: No such crop, or a cap that leaves nothing.
    """

    def __init__(self, crop: str = "garg", cap: float = 80.0, median_scaling: bool = False) -> None:
        if crop not in CROPS:
            raise ConfigError(f"crop {crop!r}: one of {', '.join(CROPS)}")
        if not MIN_DEPTH < cap < math.inf:
            raise ConfigError(f"cap {cap}: meters, above {MIN_DEPTH} and finite")
        self.crop = crop
        self.cap = cap
        self.median_scaling = median_scaling
        self._scores: list[DepthScore] = []

    def counted(self, truth: np.ndarray) -> np.ndarray:
        """H x W bool: the pixels that count, of H x W float32 meters."""
        inside = np.zeros(truth.shape, bool)
        inside[crop_window(self.crop, *truth.shape)] = True
        with np.errstate(invalid="ignore"):
            return np.asarray(inside & (truth > MIN_DEPTH) & (truth < self.cap))

    def update(self, depth: np.ndarray, truth: np.ndarray) -> DepthScore | None:
        """Count one picture, and score it alone.

        Args:
            depth: H x W float32 predicted meters; NaN = none, +Inf = beyond all.
            truth: H x W float32 meters; NaN = unknown, +Inf = beyond all.

        Returns:
            None when no pixel counts.

        Raises:
            SourceError: The sizes differ.
        """
        if depth.shape != truth.shape:
            raise SourceError(f"depth is {_size(depth)}, the truth is {_size(truth)}")
        where = self.counted(truth)
        if not where.any():
            return None
        score = self._score(depth[where].astype(np.float64), truth[where].astype(np.float64))
        self._scores.append(score)
        return score

    def merge(self, other: DepthMetrics) -> None:
        """Count all pictures that `other` has counted."""
        self._scores += other._scores

    @property
    def pictures(self) -> int:
        """Pictures counted."""
        return len(self._scores)

    def compute(self) -> DepthScore | None:
        """The mean over the pictures (`pixels`: the sum); None without any."""
        if not self._scores:
            return None
        figures = [f.name for f in fields(DepthScore) if f.name != "pixels"]
        means = {name: float(np.mean([getattr(score, name) for score in self._scores])) for name in figures}
        return DepthScore(**means, pixels=sum(score.pixels for score in self._scores))

    def _score(self, p: np.ndarray, t: np.ndarray) -> DepthScore:
        silent = np.isnan(p)
        p = np.where(silent, np.inf, p)
        finite = np.isfinite(p)
        if self.median_scaling and finite.any():
            p = p * (np.median(t) / np.median(p[finite]))
        p = np.clip(p, MIN_DEPTH, self.cap)
        error, log_error, ratio = p - t, np.log(p) - np.log(t), np.maximum(p / t, t / p)
        square, log_square = float(np.mean(error**2)), float(np.mean(log_error**2))
        return DepthScore(
            abs_rel=float(np.mean(np.abs(error) / t)),
            sq_rel=float(np.mean(error**2 / t)),
            rmse=math.sqrt(square),
            rmse_log=math.sqrt(log_square),
            # Rounding may take the variance of equal errors below 0.
            silog=100 * math.sqrt(max(log_square - float(np.mean(log_error)) ** 2, 0.0)),
            delta1=float(np.mean(ratio < 1.25)),
            delta2=float(np.mean(ratio < 1.25**2)),
            delta3=float(np.mean(ratio < 1.25**3)),
            coverage=float(1 - silent.mean()),
            pixels=t.size,
        )


def crop_window(crop: str, height: int, width: int) -> tuple[slice, slice]:
    """Rows and columns that a crop of `CROPS` leaves of a picture; bounds are rounded down, as its authors do."""
    top, bottom, left, right = CROPS[crop]
    return slice(int(top * height), int(bottom * height)), slice(int(left * width), int(right * width))


def _size(array: np.ndarray) -> str:
    return "x".join(str(side) for side in reversed(array.shape))
