"""Depth errors: the metrics of the field, and a table by class and distance."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any

import numpy as np

from mtl_perception.errors import ConfigError, SourceError
from mtl_perception.labels import ClassSet

MIN_DEPTH = 1e-3
"""Ground truth at or below is unknown; predictions below are clipped, m."""

CROPS = {
    "none": (0.0, 1.0, 0.0, 1.0),
    # Garg et al., Unsupervised CNN for Single View Depth Estimation, ECCV 2016.
    "garg": (0.40810811, 0.99189189, 0.03594771, 0.96405229),
    # Determined by Godard et al., CVPR 2017, to reproduce the metrics of Eigen et al., Depth Map Prediction from a Single Image
    # using a Multi-Scale Deep Network, NIPS 2014.
    "eigen": (0.3324324, 0.91351351, 0.0359477, 0.96405229),
}
"""First row, end of the rows, first column, end of the columns, as shares of height and width."""
EDGES = (10.0, 20.0, 30.0, 50.0)
"""True depths between the bins of distance, m."""
BINS = (f"<{EDGES[0]:g}", *(f"{low:g}-{high:g}" for low, high in pairwise(EDGES)), f">={EDGES[-1]:g}")
ALL = "all"


@dataclass(frozen=True)
class DepthScore:
    """Agreement of predicted depth p with true depth t, both in m; logarithms are natural.

    Attributes:
        abs_rel: Mean of |p - t| / t.
        sq_rel: Mean of (p - t)^2 / t, m.
        rmse: Root of the mean of (p - t)^2, m.
        rmse_log: Root of the mean of (ln p - ln t)^2.
        silog: With d = ln p - ln t, 100 times the root of mean(d^2) - mean(d)^2: KITTI's scale-invariant error.
        delta1: Share with max(p / t, t / p) < 1.25.
        delta2: The same with 1.25^2.
        delta3: The same with 1.25^3.
        coverage: Share of pixels whose prediction is not NaN.
        pixels: Number of evaluated pixels.
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
    """The depth metrics of Eigen et al., NIPS 2014, with their usual options.

    Each metric is computed over the pixels of an image, then averaged over the images, unweighted. Pixels inside the crop with
    a true depth between 1e-3 m and the cap (both exclusive) are evaluated. Predictions are clipped to 1e-3 m and the cap. NaN
    counts as the cap, so that missing predictions never improve a metric; `coverage` reports them. Images without a pixel to
    evaluate are left out.

    Args:
        crop: none, garg or eigen.
        cap: Largest true depth that is evaluated, m.
        median_scaling: First multiply each prediction by median(t) / median(p). Only for comparison with networks without
            metric scale: it hides the scale error.

    Raises:
        ConfigError: The crop is unknown, or the cap leaves nothing.
    """

    def __init__(self, crop: str = "garg", cap: float = 80.0, median_scaling: bool = False) -> None:
        if crop not in CROPS:
            raise ConfigError(f"crop {crop!r}: not one of {', '.join(CROPS)}")
        if not MIN_DEPTH < cap < math.inf:
            raise ConfigError(f"cap {cap}: give meters above {MIN_DEPTH}, finite")
        self.crop = crop
        self.cap = cap
        self.median_scaling = median_scaling
        self._scores: list[DepthScore] = []

    def evaluated(self, truth: np.ndarray) -> np.ndarray:
        """Return H x W bool: the pixels to evaluate, of H x W float32 true depth (m)."""
        inside = np.zeros(truth.shape, bool)
        inside[crop_window(self.crop, *truth.shape)] = True
        with np.errstate(invalid="ignore"):
            return np.asarray(inside & (truth > MIN_DEPTH) & (truth < self.cap))

    def update(self, depth: np.ndarray, truth: np.ndarray) -> DepthScore | None:
        """Add an image, and score it on its own.

        Args:
            depth: H x W float32 predicted depth, m; NaN = none, +Inf = beyond the range.
            truth: H x W float32 true depth, m; NaN = unknown, +Inf = beyond the range.

        Returns:
            None if no pixel is evaluated.

        Raises:
            SourceError: The sizes differ.
        """
        if depth.shape != truth.shape:
            raise SourceError(f"depth is {image_size(depth)}, the ground truth is {image_size(truth)}")
        where = self.evaluated(truth)
        if not where.any():
            return None
        score = self._score(*self.pairs(depth, truth, where))
        self._scores.append(score)
        return score

    def pairs(self, depth: np.ndarray, truth: np.ndarray, where: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        """Return the evaluated depths of an image, as all metrics use them.

        Args:
            depth: H x W float32 predicted depth, m.
            truth: H x W float32 true depth, m.
            where: H x W bool: `evaluated(truth)`.

        Returns:
            N float64 predicted depth, scaled and clipped, m; N float64 true depth, m; the share of predictions but NaN.
        """
        p, t = depth[where].astype(np.float64), truth[where].astype(np.float64)
        missing = np.isnan(p)
        p = np.where(missing, np.inf, p)
        finite = np.isfinite(p)
        if self.median_scaling and finite.any():
            p = p * (np.median(t) / np.median(p[finite]))
        return np.clip(p, MIN_DEPTH, self.cap), t, float(1 - missing.mean())

    def merge(self, other: DepthMetrics) -> None:
        """Add the images of another instance."""
        self._scores += other._scores

    @property
    def images(self) -> int:
        """Number of evaluated images."""
        return len(self._scores)

    def compute(self) -> DepthScore | None:
        """Return the mean over the images (`pixels`: the sum); None without any."""
        if not self._scores:
            return None
        names = [field.name for field in fields(DepthScore) if field.name != "pixels"]
        means = {name: float(np.mean([getattr(score, name) for score in self._scores])) for name in names}
        return DepthScore(**means, pixels=sum(score.pixels for score in self._scores))

    def _score(self, p: np.ndarray, t: np.ndarray, coverage: float) -> DepthScore:
        error, log_error, ratio = p - t, np.log(p) - np.log(t), np.maximum(p / t, t / p)
        square, log_square = float(np.mean(error**2)), float(np.mean(log_error**2))
        return DepthScore(
            abs_rel=float(np.mean(np.abs(error) / t)),
            sq_rel=float(np.mean(error**2 / t)),
            rmse=math.sqrt(square),
            rmse_log=math.sqrt(log_square),
            # Rounding may make the variance of equal errors negative.
            silog=100 * math.sqrt(max(log_square - float(np.mean(log_error)) ** 2, 0.0)),
            delta1=float(np.mean(ratio < 1.25)),
            delta2=float(np.mean(ratio < 1.25**2)),
            delta3=float(np.mean(ratio < 1.25**3)),
            coverage=coverage,
            pixels=t.size,
        )


class DepthTable:
    """Mean relative depth error and bias of each class in each bin of true depth, over the pixels of all images.

    Args:
        classes: Class set of the pixels.
    """

    def __init__(self, classes: ClassSet) -> None:
        self.classes = classes
        # Count, sum of |p - t| / t and sum of (p - t) / t; the additional class holds the pixels without one.
        self._sums = np.zeros((3, len(classes) + 1, len(BINS)))

    def update(self, depth: np.ndarray, truth: np.ndarray, labels: np.ndarray) -> None:
        """Add evaluated pixels.

        Args:
            depth: N float predicted depth, clipped as for the other metrics, m.
            truth: N float true depth, m.
            labels: N uint8 class ids; others, such as 255, only count for all classes together.
        """
        cells = np.minimum(labels.astype(np.int64), len(self.classes)) * len(BINS) + np.digitize(truth, EDGES)
        error = (depth - truth) / truth
        for plane, weights in zip(self._sums, (None, np.abs(error), error), strict=True):
            plane += np.bincount(cells, weights, plane.size).reshape(plane.shape)

    def merge(self, other: DepthTable) -> None:
        """Add the pixels of another instance with the same classes."""
        self._sums += other._sums

    def report(self) -> dict[str, Any] | None:
        """Return the table as plain values for JSON.

        Returns:
            `abs_rel` (mean of |p - t| / t), `bias` (mean of (p - t) / t, positive = too far) and `pixels`, each by class, then
            "all", as a list over `bins_m` (meters of true depth), then all distances; None without pixels. Classes
            without pixels are left out.
        """
        sums = np.concatenate([self._sums, self._sums.sum(1, keepdims=True)], 1)
        sums = np.concatenate([sums, sums.sum(2, keepdims=True)], 2)
        names = [*self.classes.names, "", ALL]
        rows = {name: sums[:, i] for i, name in enumerate(names) if name and sums[0, i, -1]}
        if not rows:
            return None

        def means(total: int) -> dict[str, list[float | None]]:
            return {
                name: [float(value / n) if n else None for value, n in zip(row[total], row[0], strict=True)]
                for name, row in rows.items()
            }

        return {
            "classes": self.classes.name,
            "bins_m": [*BINS, ALL],
            "abs_rel": means(1),
            "bias": means(2),
            "pixels": {name: row[0].astype(int).tolist() for name, row in rows.items()},
        }


def crop_window(crop: str, height: int, width: int) -> tuple[slice, slice]:
    """Return the rows and columns of a crop of `CROPS`; bounds are rounded down, as its authors do."""
    top, bottom, left, right = CROPS[crop]
    return slice(int(top * height), int(bottom * height)), slice(int(left * width), int(right * width))


def image_size(array: np.ndarray) -> str:
    """Return the size of an H x W array as text: WxH."""
    return "x".join(str(side) for side in reversed(array.shape))
