"""Downsampling of images on the device, as OpenCV's INTER_AREA on the host."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


class AreaDownsample:
    """Means over the area that each new pixel covers, rounded to whole levels.

    Two small dense matrices, one a side: no gather, and nothing that depends on the data.

    Args:
        before: Height and width of the images.
        after: Height and width to downsample to; neither is greater.
        device: Device of the images.
    """

    def __init__(self, before: tuple[int, int], after: tuple[int, int], device: torch.device) -> None:
        self._rows = torch.from_numpy(area_weights(before[0], after[0])).to(device)
        self._columns = torch.from_numpy(area_weights(before[1], after[1]).T.copy()).to(device)
        # There OpenCV adds integers and rounds halves up, elsewhere floats and halves to even.
        self._halves_up = (before[0], before[1]) == (2 * after[0], 2 * after[1])

    def __call__(self, image: Tensor) -> Tensor:
        """N x H x W x 3 uint8 to N x h x w x 3 float32, whole numbers of 0 to 255."""
        planes = image.permute(0, 3, 1, 2).float()
        means = self._rows @ (planes @ self._columns)
        levels = (means + 0.5).floor_() if self._halves_up else means.round_()
        return levels.permute(0, 2, 3, 1)


def area_weights(before: int, after: int) -> np.ndarray:
    """Weights, after x before float32: the part of each new pixel that lies on each old one; every row sums to 1."""
    edges = np.arange(after + 1) * (before / after)
    pixels = np.arange(before)
    covered = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    weights = np.maximum(covered, 0.0)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), np.float32)
