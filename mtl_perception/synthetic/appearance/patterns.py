"""Building blocks of surface textures: noise, bands, joints, lane markings."""

from __future__ import annotations

import numpy as np

TILE_SIZE = 1024
"""Side length of a noise tile, samples."""

LANE_WIDTH = 3.4
"""Lane width in the texture coordinates of roads, m."""

MARKS = ("bare", "dashed", "crosswalk", "center", "edged", "double", "lanes", "solid")
"""Kinds of lane markings; the third texture coordinate of a road is an index into this tuple."""


def fractal(rng: np.random.Generator, steepness: float) -> np.ndarray:
    """Return periodic noise of zero mean and unit standard deviation with amplitudes proportional to frequency ** -steepness.

    Returns:
        TILE_SIZE x TILE_SIZE float32.
    """
    spectrum = np.fft.rfft2(rng.normal(size=(TILE_SIZE, TILE_SIZE)))
    frequency = np.hypot(np.fft.fftfreq(TILE_SIZE)[:, None], np.fft.rfftfreq(TILE_SIZE)[None])
    frequency[0, 0] = np.inf
    noise = np.fft.irfft2(spectrum * frequency**-steepness, s=(TILE_SIZE, TILE_SIZE))
    return np.asarray(noise / noise.std(), np.float32)


def fade(footprint: np.ndarray, size: float) -> np.ndarray:
    """Return the remaining contrast, 0..1, of details of `size` meters in pixels that cover `footprint` meters."""
    return np.asarray(1 / (1 + (footprint / size) ** 2), np.float32)


def ramp(x: np.ndarray, start: np.ndarray | float, width: float) -> np.ndarray:
    """Return 0 below `start`, 1 above `start + width`, and a linear transition between them."""
    return np.asarray(np.clip((x - start) / width, 0, 1))


def band(x: np.ndarray, low: np.ndarray | float, high: np.ndarray | float, soft: np.ndarray) -> np.ndarray:
    """Return 1 between `low` and `high` and 0 elsewhere, with antialiased edges of width `soft`."""
    return np.asarray(np.clip((x - low) / soft + 0.5, 0, 1) * np.clip((high - x) / soft + 0.5, 0, 1))


def joint(x: np.ndarray, width: float) -> np.ndarray:
    """Return 1 within `width` above each integer, 0 elsewhere."""
    return np.asarray(x - np.floor(x) < width, np.float32)


def mix(color: np.ndarray, other: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Blend N x 3 colors; `share`, N in 0..1, is the weight of `other`."""
    return np.asarray(color + (other - color) * share[:, None], np.float32)


def paint_coverage(kind: int, across: np.ndarray, along: np.ndarray, soft: np.ndarray) -> np.ndarray:
    """Return the coverage of a road with paint, 0..1.

    Args:
        kind: Index into MARKS.
        across: Distance to the right of the center line, N, m; lanes are LANE_WIDTH wide.
        along: Distance along the center line, N, m.
        soft: Width of antialiased edges, N, m.
    """
    name, edge = MARKS[kind], soft * 0.5
    side = np.abs(across)
    dash = band(along % 9.0, 0.0, 3.4, soft)
    center = band(across, -0.06, 0.06, edge)
    curb = band(side, LANE_WIDTH - 0.12, LANE_WIDTH, edge)
    if name == "crosswalk":
        return np.asarray(band(across % 1.0, 0.0, 0.5, edge))
    if name == "solid":
        return np.ones(len(across))
    if name == "dashed":
        return np.asarray(np.maximum(center * dash, curb * band(along % 2.0, 0.0, 1.0, soft)))
    if name == "center":
        return np.asarray(center * dash)
    if name == "edged":
        return np.asarray(np.maximum(center * dash, curb))
    if name == "double":
        return np.asarray(np.maximum(band(side, 0.07, 0.19, edge), curb))
    # The remaining kind, "lanes", has two lanes in each direction.
    lanes = band(side, LANE_WIDTH - 0.06, LANE_WIDTH + 0.06, edge) * band(along % 12.0, 0.0, 4.0, soft)
    return np.asarray(
        np.maximum.reduce([band(side, 0.07, 0.19, edge), lanes, band(side, 2 * LANE_WIDTH - 0.2, 2 * LANE_WIDTH - 0.08, edge)])
    )
