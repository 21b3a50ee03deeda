"""Elements that surface textures are made of: noise, bands, joints, road paint."""

from __future__ import annotations

import numpy as np

TILE = 1024
"""Side of a noise tile, cells."""

LANE = 3.4
"""Meters of a lane in a road's texture coordinates."""

MARKS = ("bare", "dashed", "zebra", "center", "edged", "double", "lanes", "painted")
"""Kinds of paint on a road, by the third texture coordinate."""


def fractal(rng: np.random.Generator, steepness: float) -> np.ndarray:
    """TILE x TILE float32 noise, periodic, zero mean, unit deviation, amplitude falling as frequency ** -steepness."""
    spectrum = np.fft.rfft2(rng.normal(size=(TILE, TILE)))
    frequency = np.hypot(np.fft.fftfreq(TILE)[:, None], np.fft.rfftfreq(TILE)[None])
    frequency[0, 0] = np.inf
    noise = np.fft.irfft2(spectrum * frequency**-steepness, s=(TILE, TILE))
    return np.asarray(noise / noise.std(), np.float32)


def fade(footprint: np.ndarray, size: float) -> np.ndarray:
    """How much of a detail of this size (meters) is left where a pixel covers `footprint` meters."""
    return np.asarray(1 / (1 + (footprint / size) ** 2), np.float32)


def ramp(x: np.ndarray, start: np.ndarray | float, width: float) -> np.ndarray:
    """0 before `start`, 1 from `start + width` on, linear between."""
    return np.asarray(np.clip((x - start) / width, 0, 1))


def band(x: np.ndarray, low: np.ndarray | float, high: np.ndarray | float, soft: np.ndarray) -> np.ndarray:
    """1 between `low` and `high`, with edges `soft` wide: the share of a pixel that it covers."""
    return np.asarray(np.clip((x - low) / soft + 0.5, 0, 1) * np.clip((high - x) / soft + 0.5, 0, 1))


def joint(x: np.ndarray, width: float) -> np.ndarray:
    """1 within `width` after each whole number."""
    return np.asarray(x - np.floor(x) < width, np.float32)


def mix(color: np.ndarray, other: np.ndarray, share: np.ndarray) -> np.ndarray:
    """N x 3 colors, of which `share` (N, 0..1) is the other."""
    return np.asarray(color + (other - color) * share[:, None], np.float32)


def marks(kind: int, across: np.ndarray, along: np.ndarray, soft: np.ndarray) -> np.ndarray:
    """How white the road is painted, 0..1, by kind: one of MARKS. Lanes are LANE wide; `soft` is the width of edges."""
    name, edge = MARKS[kind], soft * 0.5
    side = np.abs(across)
    dash = band(along % 9.0, 0.0, 3.4, soft)
    center = band(across, -0.06, 0.06, edge)
    curb = band(side, LANE - 0.12, LANE, edge)
    if name == "zebra":
        return np.asarray(band(across % 1.0, 0.0, 0.5, edge))
    if name == "painted":
        return np.ones(len(across))
    if name == "dashed":
        return np.asarray(np.maximum(center * dash, curb * band(along % 2.0, 0.0, 1.0, soft)))
    if name == "center":
        return np.asarray(center * dash)
    if name == "edged":
        return np.asarray(np.maximum(center * dash, curb))
    if name == "double":
        return np.asarray(np.maximum(band(side, 0.07, 0.19, edge), curb))
    # Two lanes each way.
    lanes = band(side, LANE - 0.06, LANE + 0.06, edge) * band(along % 12.0, 0.0, 4.0, soft)
    return np.asarray(
        np.maximum.reduce([band(side, 0.07, 0.19, edge), lanes, band(side, 2 * LANE - 0.2, 2 * LANE - 0.08, edge)])
    )
