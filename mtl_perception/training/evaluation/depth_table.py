"""Depth errors by class and by distance."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from mtl_perception.labels import ClassSet

EDGES = (10.0, 20.0, 30.0, 50.0)
"""True depths between the bins of distance, m."""
BINS = (f"<{EDGES[0]:g}", *(f"{low:g}-{high:g}" for low, high in pairwise(EDGES)), f">={EDGES[-1]:g}")
ALL = "all"


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
        """Return the table as plain values for JSON; None without pixels.

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
