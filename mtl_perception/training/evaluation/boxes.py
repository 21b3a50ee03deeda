"""Recall of the boxes of people and cyclists, by their height."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import numpy as np

from mtl_perception.types import Box

PEOPLE = ("person", "cyclist")
"""Classes of the boxes, and of the labels with which one counts as found."""
FOUND = 0.2
"""Share of the pixels of a box that must have such a label. A person fills about 60 % of a box."""
EDGES = (25.0, 40.0, 80.0, 160.0)
"""Heights between the bins, pixels; the benchmark of KITTI evaluates boxes from 25 (moderate) or 40 (easy) pixels on."""
BINS = (f"<{EDGES[0]:g}", *(f"{low:g}-{high:g}" for low, high in pairwise(EDGES)), f">={EDGES[-1]:g}")
ALL = "all"


class BoxRecall:
    """Number of boxes, and of those that are found, by class and height."""

    def __init__(self) -> None:
        self._counts = np.zeros((2, len(PEOPLE), len(BINS)), np.int64)

    def update(self, labels: np.ndarray, boxes: Iterable[Box], names: tuple[str, ...]) -> None:
        """Add an image.

        Args:
            labels: H x W uint8 predicted class ids.
            boxes: Boxes of the ground truth; those of other classes are ignored.
            names: Class names by id.
        """
        ids = [i for i, name in enumerate(names) if name in PEOPLE]
        people = np.isin(labels, ids)
        for box in boxes:
            if box.name in PEOPLE:
                rows, columns = (
                    slice(max(round(first), 0), max(round(last) + 1, 0))
                    for first, last in ((box.top, box.bottom), (box.left, box.right))
                )
                part = people[rows, columns]
                cell = PEOPLE.index(box.name), int(np.digitize(box.bottom - box.top, EDGES))
                self._counts[0][cell] += 1
                self._counts[1][cell] += bool(part.size and part.mean() >= FOUND)

    def merge(self, other: BoxRecall) -> None:
        """Add the boxes of another instance."""
        self._counts += other._counts

    def report(self) -> dict[str, Any] | None:
        """Return `boxes` and `found` by class, as lists over `bins_px` (heights in pixels), then all; None without boxes."""
        if not self._counts.any():
            return None
        counts = np.concatenate([self._counts, self._counts.sum(2, keepdims=True)], 2)
        boxes, found = (dict(zip(PEOPLE, plane.tolist(), strict=True)) for plane in counts)
        return {"bins_px": [*BINS, ALL], "boxes": boxes, "found": found}
