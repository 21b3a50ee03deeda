"""Agreement of the labels of two pipelines."""

from __future__ import annotations

import zlib

import numpy as np


class LabelAgreement:
    """Share of equal labels over the frames of a data set.

    Args:
        reference: Instance that has kept the labels of the reference; None: compare with nothing.
        keep: Keep the labels, so that others can be compared with them. They are compressed to a few per cent of their size.
    """

    def __init__(self, reference: LabelAgreement | None = None, keep: bool = False) -> None:
        self._reference = reference
        self._kept: dict[int, bytes] | None = {} if keep else None
        self._equal = self._pixels = 0

    @property
    def share(self) -> float | None:
        """Share of equal labels, 0..1; None without any compared frame."""
        return self._equal / self._pixels if self._pixels else None

    def update(self, index: int, labels: np.ndarray) -> None:
        """Add a frame.

        Args:
            index: Index of the frame in the data set.
            labels: H x W uint8 labels.
        """
        if self._kept is not None:
            self._kept[index] = zlib.compress(labels.tobytes(), 1)
        kept = (self._reference._kept or {}).get(index) if self._reference else None
        if kept is not None:
            expected = np.frombuffer(zlib.decompress(kept), np.uint8).reshape(labels.shape)
            self._equal += int(np.count_nonzero(labels == expected))
            self._pixels += labels.size
