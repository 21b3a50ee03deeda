"""Detection of networks whose outputs are non-finite although they raised no error."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from mtl_perception.types import UNLABELED, Outputs

STEP = 16
"""Step of the rows and columns that are checked before the whole plane."""


def find_nonfinite_head(result: Outputs, min_confidence: float = 0.0, min_depth: float = 0.0) -> str:
    """Return the head whose output is non-finite at every pixel.

    Single non-finite pixels are NaN, 255 or 0 in the outputs and are ignored. The check takes microseconds, as whole planes are
    read only where their center is invalid.

    Args:
        result: Of a pipeline; outputs that were not requested are not checked.
        min_confidence: The parameter it was computed with; above 0, an image without labels is valid.
        min_depth: The parameter it was computed with, meters; above 0, an image without depth is valid.

    Returns:
        "labels", "depth", or "" if no head is known to be non-finite.
    """
    labels = result.labels if result.labels is not None or result.cloud is None else result.cloud["label"]
    # The softmax maximum is never 0: it is at least one over the number of classes.
    if result.confidence is not None and _all(result.confidence, 0):
        return "labels"
    if labels is not None and not min_confidence and _all(labels, UNLABELED):
        return "labels"
    if result.depth is not None and not min_depth and _all(result.depth, math.nan):
        return "depth"
    return ""


def has_only_empty_cloud(result: Outputs) -> bool:
    """Return whether it has a cloud without points and no depth, which would tell non-finite depth from depth out of range."""
    return result.cloud is not None and result.depth is None and _all(result.cloud["z"], math.nan)


def _all(plane: np.ndarray, value: float) -> bool:
    center = plane.item(plane.shape[0] // 2, plane.shape[1] // 2)
    # Where only the center is invalid, as with sky in it, a few pixels usually decide.
    return _equals(center, value) and all(bool(np.all(_equals(part, value))) for part in (plane[::STEP, ::STEP], plane))


def _equals(pixels: Any, value: float) -> Any:
    return np.isnan(pixels) if math.isnan(value) else pixels == value
