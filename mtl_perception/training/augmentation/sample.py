"""Training samples: an image with the labels and depth to learn from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mtl_perception.types import UNLABELED, Sample

PSEUDO_LABELS, PSEUDO_DEPTH = 1, 2
"""Bits of `TrainingSample.pseudo`."""


@dataclass(frozen=True)
class TrainingSample:
    """An image with its targets.

    Attributes:
        image: H x W x 3 uint8, RGB.
        labels: H x W uint8, 255 = unlabeled.
        depth: H x W float32, m; NaN = unknown, +Inf = the sky.
        pseudo: H x W uint8, bits PSEUDO_LABELS and PSEUDO_DEPTH where label or depth is not ground truth.
    """

    image: np.ndarray
    labels: np.ndarray
    depth: np.ndarray
    pseudo: np.ndarray


def merge(sample: Sample, pseudo_labels: np.ndarray | None, pseudo_depth: np.ndarray | None, sparse: bool) -> TrainingSample:
    """Combine ground truth and pseudo-labels of the same image.

    Args:
        sample: Image and ground truth.
        pseudo_labels: H x W uint8, 255 = unlabeled; None: none.
        pseudo_depth: H x W float32, m, NaN = unknown; None: none.
        sparse: Also use pseudo-labels for pixels without ground truth in samples that have labels or depth.
    """
    size = sample.frame.image.shape[:2]
    labels = np.full(size, UNLABELED, np.uint8) if sample.labels is None else sample.labels
    depth = np.full(size, np.nan, np.float32) if sample.depth is None else sample.depth
    bits = np.zeros(size, np.uint8)
    if pseudo_labels is not None and (sparse or sample.labels is None):
        missing = (labels == UNLABELED) & (pseudo_labels != UNLABELED)
        labels = np.where(missing, pseudo_labels, labels)
        bits[missing] |= PSEUDO_LABELS
    if pseudo_depth is not None and (sparse or sample.depth is None):
        missing = np.isnan(depth) & ~np.isnan(pseudo_depth)
        depth = np.where(missing, pseudo_depth, depth)
        bits[missing] |= PSEUDO_DEPTH
    return TrainingSample(sample.frame.image, labels, depth, bits)
