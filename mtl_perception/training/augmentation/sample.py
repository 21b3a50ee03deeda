"""Training samples: what the network is shown, and what it shall say."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mtl_perception.types import UNLABELED, Sample

TAUGHT_LABELS, TAUGHT_DEPTH = 1, 2
"""Bits of `Example.taught`."""


@dataclass(frozen=True)
class Example:
    """What the network is shown, and what it shall say.

    Attributes:
        image: H x W x 3 uint8, RGB.
        labels: H x W uint8, 255 = unknown.
        depth: H x W float32, meters at the focal length that the network learns for; NaN = unknown, +Inf = the sky.
        taught: H x W uint8 bits: TAUGHT_LABELS and TAUGHT_DEPTH where a teacher's word, not the truth, stands.
    """

    image: np.ndarray
    labels: np.ndarray
    depth: np.ndarray
    taught: np.ndarray


def merged(sample: Sample, taught: Sample | None, sparse: bool) -> Example:
    """A sample and what a teacher says of it, as one example of the sample's size; depth in its own meters.

    Args:
        sample: The truth, as far as it is known.
        taught: The teacher's word; None: there is no teacher.
        sparse: Let the teacher also fill the pixels that the truth leaves open.
    """
    size = sample.frame.image.shape[:2]
    labels = np.full(size, UNLABELED, np.uint8) if sample.labels is None else sample.labels
    depth = np.full(size, np.nan, np.float32) if sample.depth is None else sample.depth
    marks = np.zeros(size, np.uint8)
    if taught is not None and taught.labels is not None and (sparse or sample.labels is None):
        open_ = (labels == UNLABELED) & (taught.labels != UNLABELED)
        labels = np.where(open_, taught.labels, labels)
        marks[open_] |= TAUGHT_LABELS
    if taught is not None and taught.depth is not None and (sparse or sample.depth is None):
        open_ = np.isnan(depth) & ~np.isnan(taught.depth)
        depth = np.where(open_, taught.depth, depth)
        marks[open_] |= TAUGHT_DEPTH
    return Example(sample.frame.image, labels, depth, marks)
