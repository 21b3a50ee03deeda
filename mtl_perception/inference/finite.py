"""Whether a network that ran without an error gave numbers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from mtl_perception.types import UNLABELED, Result

SPARSE = 16
"""Each so many rows and columns are looked at before all are."""


def find_nonfinite_head(result: Result, min_confidence: float = 0.0, min_depth: float = 0.0) -> str:
    """The head that gave no finite number for any pixel: labels or depth; empty if none is known to be so.

    Single pixels without a number are NaN, 255 or 0 in the outputs. It costs some microseconds: planes are read whole only
    where their middle has none.

    Args:
        result: Of a pipeline; only what is in it is judged.
        min_confidence: It was computed with; above 0, a picture without labels says nothing.
        min_depth: The same for depth, meters.
    """
    labels = result.labels if result.labels is not None or result.cloud is None else result.cloud["label"]
    # A softmax maximum is never 0: there is always a greatest part.
    if result.confidence is not None and _all(result.confidence, 0):
        return "labels"
    if labels is not None and not min_confidence and _all(labels, UNLABELED):
        return "labels"
    if result.depth is not None and not min_depth and _all(result.depth, math.nan):
        return "depth"
    return ""


def has_only_empty_cloud(result: Result) -> bool:
    """Whether it has a cloud without any point and no depth, which alone tells what is too far from what is no number."""
    return result.cloud is not None and result.depth is None and _all(result.cloud["z"], math.nan)


def _all(plane: np.ndarray, value: float) -> bool:
    middle = plane.item(plane.shape[0] // 2, plane.shape[1] // 2)
    # Of a plane that is empty in the middle, as where the sky is, a few pixels mostly tell.
    return _is(middle, value) and all(bool(np.all(_is(part, value))) for part in (plane[::SPARSE, ::SPARSE], plane))


def _is(pixels: Any, value: float) -> Any:
    return np.isnan(pixels) if math.isnan(value) else pixels == value
