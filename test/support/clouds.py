"""Small clouds, and the colors of classes as the tests of what is shown expect them."""

from __future__ import annotations

import numpy as np

from mtl_perception.types import CLOUD_DTYPE

ROAD, SIDEWALK, VEHICLE = (128, 64, 128), (244, 35, 232), (0, 0, 142)


def make_cloud(points: list[tuple[float, float, float, int, int]]) -> np.ndarray:
    """A 1 x N cloud of (x, y, z, 0xRRGGBB, label)."""
    return np.array(points, CLOUD_DTYPE)[None]
