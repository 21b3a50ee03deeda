"""Small point clouds and class colors for visualization tests."""

from __future__ import annotations

import numpy as np

from mtl_perception.types import CLOUD_DTYPE

ROAD, SIDEWALK, VEHICLE = (128, 64, 128), (244, 35, 232), (0, 0, 142)


def make_cloud(points: list[tuple[float, float, float, int, int]]) -> np.ndarray:
    """Return a 1 x N cloud from (x, y, z, 0xRRGGBB, label) tuples."""
    return np.array(points, CLOUD_DTYPE)[None]
