"""Upsampling and reading of scores in tiles of rows, which avoids C planes of the output's size in memory."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np

from mtl_perception.network.grid import ResizeSpec

ROWS = 16
"""Rows of a tile: the fastest of 8, 16 and 32; twelve such planes of 1242 columns are 1 MB."""
BAND_ROWS = 256
"""Source rows that are kept at a time at the output's width: 94 MB of twelve classes for an 8K image."""
MARGIN = 2
"""Source rows on each side of a band, because OpenCV's rounding depends on neighbors even of rows that keep their place."""
CUBIC = np.float32(-0.75)
"""OpenCV's coefficient of bicubic interpolation."""
LARGEST = 1e30
"""Larger scores are treated as non-finite, as their sums may overflow."""


class TileReader:
    """Read labels and confidence from scores as if the planes had been resized by OpenCV.

    OpenCV resizes the columns of the source rows of a band; rows are then interpolated tile by tile, as small matrix products.

    Args:
        threads: Number of tiles that are read in parallel.
    """

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads - 1, "row tiles") if threads > 1 else None
        self._widened = np.empty((0, 0, 0), np.float32)
        self._bands: list[list[_Tile]] = []
        self._bands_of: tuple[int, ResizeSpec] | None = None

    def read(self, scores: np.ndarray, spec: ResizeSpec, labels: np.ndarray, confidence: np.ndarray | None) -> None:
        """Write labels and confidence.

        Args:
            scores: C x h x w float32, finite; see `is_readable`.
            spec: How they are resized to H x W.
            labels: H x W uint8 output: the class with the highest score, the first of equal ones.
            confidence: H x W float32 output: the softmax maximum, 0 to 1; None to skip it.
        """
        classes, height, _ = scores.shape
        width = spec.uncropped[1]
        rows = min(height, BAND_ROWS + 2 * MARGIN)
        if self._widened.shape != (classes, rows, width):
            self._widened = np.empty((classes, rows, width), np.float32)
        if self._bands_of != (height, spec):
            self._bands, self._bands_of = _split(height, spec), (height, spec)
        interpolation = cv2.INTER_CUBIC if spec.mode == "bicubic" else cv2.INTER_LINEAR
        for tiles in self._bands:
            self._read_band(tiles, scores, interpolation, spec.size[1], labels, confidence)

    def _read_band(
        self,
        tiles: list[_Tile],
        scores: np.ndarray,
        interpolation: int,
        width: int,
        labels: np.ndarray,
        confidence: np.ndarray | None,
    ) -> None:
        first, last = max(tiles[0].sources.start - MARGIN, 0), min(tiles[-1].sources.stop + MARGIN, scores.shape[1])
        # The rows of each plane stay contiguous, as OpenCV requires.
        widened = self._widened[:, : last - first]

        def widen(number: int) -> None:
            _resize(scores[number, first:last], widened[number], interpolation)

        def read(number: int) -> None:
            tile = tiles[number]
            sources = slice(tile.sources.start - first, tile.sources.stop - first)
            _read_tile(tile, widened[:, sources, :width], labels, confidence)

        self._run_parallel(widen, len(scores))
        self._run_parallel(read, len(tiles))

    def _run_parallel(self, work: Callable[[int], None], count: int) -> None:
        """Call `work` with 0 to `count` - 1. A thread takes the next number when it is free: other processes may delay some."""
        numbers = iter(range(count))

        def run() -> None:
            for number in numbers:
                work(number)

        others = [self._pool.submit(run) for _ in range(1, self._threads)] if self._pool else []
        run()
        for other in others:
            # A thread that has not started yet has nothing left to do.
            if not other.cancel():
                other.result()


class _Tile:
    """Consecutive rows of the output as weighted sums of the source rows `sources`."""

    def __init__(self, weights: np.ndarray, first: int) -> None:
        self.rows = slice(first, first + len(weights))
        used = np.flatnonzero(weights.any(axis=0))
        self.sources = slice(int(used[0]), int(used[-1]) + 1)
        self.weights = np.ascontiguousarray(weights[:, self.sources])


def is_readable(scores: np.ndarray) -> bool:
    """Return whether all scores are finite and small enough that sums of them are finite, too."""
    return bool(max(scores.max(), -scores.min()) < LARGEST)


def row_weights(source: int, target: int, mode: str) -> np.ndarray:
    """Return the weights with which OpenCV's resize interpolates rows.

    Args:
        source: Number of rows before.
        target: Number of rows after.
        mode: bicubic or bilinear.

    Returns:
        target x source float32; each row has up to 4 (bicubic) or 2 (bilinear) nonzero weights, which sum to 1.
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
        # Rows beyond the border replicate the border.
        np.add.at(weights, (np.arange(target), np.clip(whole + offset, 0, source - 1)), tap)
    return weights


def _split(source: int, spec: ResizeSpec) -> list[list[_Tile]]:
    """Return the tiles by band: at most BAND_ROWS source rows, which are contiguous."""
    weights = row_weights(source, spec.uncropped[0], spec.mode)[: spec.size[0]]
    bands: list[list[_Tile]] = []
    for tile in (_Tile(weights[first : first + ROWS], first) for first in range(0, len(weights), ROWS)):
        if not bands or tile.sources.stop - bands[-1][0].sources.start > BAND_ROWS:
            bands.append([])
        bands[-1].append(tile)
    return bands


def _read_tile(tile: _Tile, sources: np.ndarray, labels: np.ndarray, confidence: np.ndarray | None) -> None:
    planes = np.matmul(tile.weights, sources)
    found = labels[tile.rows]
    found[:] = 0
    best = planes[0].copy()
    higher = np.empty(found.shape, bool)
    numbers = higher.view(np.uint8)
    for number in range(1, len(planes)):
        np.greater(planes[number], best, out=higher)
        # The numbers increase, so the maximum is the last one that was higher. This takes half the time of a masked copy.
        np.multiply(numbers, np.uint8(number), out=numbers)
        np.maximum(found, numbers, out=found)
        np.maximum(planes[number], best, out=best)
    if confidence is not None:
        planes -= best
        # The largest term of the softmax is exp(0), so the softmax maximum is one over the sum.
        total = cv2.exp(planes.reshape(-1)).reshape(planes.shape).sum(axis=0)
        np.divide(1.0, total, out=confidence[tile.rows])


def _resize(plane: np.ndarray, target: np.ndarray, interpolation: int) -> None:
    resized = cv2.resize(plane, (target.shape[1], target.shape[0]), dst=target, interpolation=interpolation)
    if resized is not target:
        np.copyto(target, resized)
