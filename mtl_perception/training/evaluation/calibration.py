"""Calibration of the confidence: how far it is from the share of correct labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

BINS = 15
"""Number of confidence bins of equal width, as in Guo et al."""


@dataclass(frozen=True)
class CalibrationScore:
    """Calibration of the confidence over the labeled pixels.

    Attributes:
        ece: Expected calibration error, 0..1: mean over the pixels of |accuracy - mean confidence| of their bin.
        confidence: `BINS` float: mean confidence of each bin; NaN without pixels.
        accuracy: `BINS` float: share of correct labels in each bin; NaN without pixels.
        pixels: `BINS` int64: pixels in each bin.
    """

    ece: float
    confidence: np.ndarray
    accuracy: np.ndarray
    pixels: np.ndarray

    @property
    def mean_confidence(self) -> float:
        """Mean confidence of all pixels; above the pixel accuracy, the network is overconfident."""
        return float(np.nansum(self.confidence * self.pixels) / self.pixels.sum())


class CalibrationMetrics:
    """Expected calibration error (ECE) of Guo et al., On Calibration of Modern Neural Networks, ICML 2017, arXiv 1706.04599.

    The pixels of all images are pooled. Bin m of `BINS` holds the confidences above (m - 1) / BINS up to m / BINS. Only sums
    are kept, because torchmetrics' metric of the same definition keeps the confidence of every pixel.
    """

    def __init__(self) -> None:
        self._sums = np.zeros((3, BINS))

    def update(self, confidence: np.ndarray, correct: np.ndarray) -> None:
        """Add labeled pixels.

        Args:
            confidence: N float, 0..1: the softmax maximum.
            correct: N bool: whether the label is that of the ground truth.
        """
        # The margin keeps a confidence at the edge of a bin, such as 17 / 255, in the lower one despite rounding.
        bins = np.clip(np.ceil(confidence * BINS - 1e-6).astype(np.int64) - 1, 0, BINS - 1)
        for row, weights in zip(self._sums, (None, confidence, correct), strict=True):
            row += np.bincount(bins, weights, BINS)

    def merge(self, other: CalibrationMetrics) -> None:
        """Add the pixels of another instance."""
        self._sums += other._sums

    def compute(self) -> CalibrationScore | None:
        """Return the score of all pixels; None without any."""
        pixels, confidence, correct = self._sums
        if not pixels.any():
            return None
        with np.errstate(invalid="ignore"):
            means = confidence / pixels, correct / pixels
        return CalibrationScore(float(np.abs(correct - confidence).sum() / pixels.sum()), *means, pixels.astype(np.int64))
