"""Depth error metrics."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np

from mtl_perception.errors import ConfigError, SourceError

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
            raise SourceError(f"depth is {image_size(depth)}, the truth is {image_size(truth)}")
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


def image_size(array: np.ndarray) -> str:
    """Return the size of an H x W array as text: WxH."""
    return "x".join(str(side) for side in reversed(array.shape))
