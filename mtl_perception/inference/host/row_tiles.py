"""Growing score maps and reading them by strips of rows: on a CPU, C planes of the picture's size are never written."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np

from mtl_perception.network.grid import ResizeSpec

ROWS = 16
"""Rows of a strip: of 8, 16 and 32, what measured best; twelve such planes of 1242 columns are 1 MB."""
CUBIC = np.float32(-0.75)
"""OpenCV's constant of bicubic interpolation."""
LARGEST = 1e30
"""Scores beyond it are taken for no numbers: their sums need not be any."""


class TileReader:
    """Labels and confidence of C x h x w scores at another size, as if the planes were grown by OpenCV's resize.

    Columns grow first, in OpenCV, for all rows; that is h rows, not H. Rows grow strip by strip, as small matrix products.

    Args:
        threads: So many strips at a time.
    """

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads - 1, "strips") if threads > 1 else None
        self._widened = np.empty((0, 0, 0), np.float32)
        self._strips: list[_Strip] = []
        self._strips_of: tuple[int, ResizeSpec] | None = None

    def read(self, scores: np.ndarray, spec: ResizeSpec, labels: np.ndarray, confidence: np.ndarray | None) -> None:
        """Write what the scores say.

        Args:
            scores: C x h x w float32, finite; see `is_readable`.
            spec: How they are resized to H x W.
            labels: H x W uint8, gets the class of the highest score, the first of equals.
            confidence: None, or H x W float32, gets the softmax maximum, 0 to 1.
        """
        classes, height, _ = scores.shape
        width = spec.uncropped[1]
        if self._widened.shape != (classes, height, width):
            self._widened = np.empty((classes, height, width), np.float32)
        if self._strips_of != (height, spec):
            self._strips, self._strips_of = _cut(height, spec), (height, spec)
        kept = self._widened[:, :, : spec.size[1]]
        interpolation = cv2.INTER_CUBIC if spec.mode == "bicubic" else cv2.INTER_LINEAR

        def widen(part: int) -> None:
            for plane, target in zip(scores[part :: self._threads], self._widened[part :: self._threads], strict=True):
                _resize(plane, target, interpolation)

        def read(part: int) -> None:
            for strip in self._strips[part :: self._threads]:
                _read_strip(strip, kept, labels, confidence)

        self._each(widen)
        self._each(read)

    def _each(self, work: Callable[[int], None]) -> None:
        """Call with each thread's number, side by side."""
        others = [self._pool.submit(work, part) for part in range(1, self._threads)] if self._pool else []
        work(0)
        for other in others:
            other.result()


class _Strip:
    """Rows `first` to `last` of the output, as weights of the rows of `sources`."""

    def __init__(self, weights: np.ndarray, first: int) -> None:
        self.rows = slice(first, first + len(weights))
        used = np.flatnonzero(weights.any(axis=0))
        self.sources = slice(int(used[0]), int(used[-1]) + 1)
        self.weights = np.ascontiguousarray(weights[:, self.sources])


def is_readable(scores: np.ndarray) -> bool:
    """Whether all scores are numbers, and none so large that sums of them might not be."""
    return bool(max(scores.max(), -scores.min()) < LARGEST)


def row_weights(source: int, target: int, mode: str) -> np.ndarray:
    """What OpenCV's resize multiplies rows with.

    Args:
        source: Rows before.
        target: Rows after.
        mode: bicubic or bilinear.

    Returns:
        target x source float32; each row has up to 4 (bicubic) or 2 (bilinear) weights, which sum to 1.
    """
    center = (np.arange(target) + 0.5) * (source / target) - 0.5
    whole = np.floor(center).astype(int)
    part = (center - whole).astype(np.float32)
    if mode == "bilinear":
        first, taps = 0, [1 - part, part]
    else:
        a, one, back, far = CUBIC, part, 1 - part, part + 1
        taps = [
            ((a * far - 5 * a) * far + 8 * a) * far - 4 * a,
            ((a + 2) * one - (a + 3)) * one * one + 1,
            ((a + 2) * back - (a + 3)) * back * back + 1,
        ]
        first, taps = -1, [*taps, 1 - taps[0] - taps[1] - taps[2]]
    weights = np.zeros((target, source), np.float32)
    for offset, tap in enumerate(taps, start=first):
        # Beyond the border, the border's row counts.
        np.add.at(weights, (np.arange(target), np.clip(whole + offset, 0, source - 1)), tap)
    return weights


def _cut(source: int, spec: ResizeSpec) -> list[_Strip]:
    weights = row_weights(source, spec.uncropped[0], spec.mode)[: spec.size[0]]
    return [_Strip(weights[first : first + ROWS], first) for first in range(0, len(weights), ROWS)]


def _read_strip(strip: _Strip, widened: np.ndarray, labels: np.ndarray, confidence: np.ndarray | None) -> None:
    planes = np.matmul(strip.weights, widened[:, strip.sources])
    found = labels[strip.rows]
    found[:] = 0
    best = planes[0].copy()
    higher = np.empty(found.shape, bool)
    for number in range(1, len(planes)):
        np.greater(planes[number], best, out=higher)
        np.copyto(found, number, where=higher)
        np.maximum(planes[number], best, out=best)
    if confidence is not None:
        planes -= best
        # The maximum's own term of the softmax is exp(0), so the maximum is one over the sum.
        total = cv2.exp(planes.reshape(-1)).reshape(planes.shape).sum(axis=0)
        np.divide(1.0, total, out=confidence[strip.rows])


def _resize(plane: np.ndarray, target: np.ndarray, interpolation: int) -> None:
    resized = cv2.resize(plane, (target.shape[1], target.shape[0]), dst=target, interpolation=interpolation)
    if resized is not target:
        np.copyto(target, resized)
