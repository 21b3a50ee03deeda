"""Procedural textures of surfaces, evaluated at ray hits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mtl_perception.synthetic.appearance.patterns import TILE_SIZE, band, fade, fractal, joint, mix, paint_coverage, ramp
from mtl_perception.synthetic.geometry.mesh import Material, srgb

ASPHALT_MARK = srgb(214, 214, 208)
MORTAR = srgb(176, 168, 158)
WINDOW_FRAME = srgb(228, 228, 224)
STONE = srgb(178, 172, 162)
SIGN_RED, SIGN_BLUE, SIGN_WHITE, SIGN_YELLOW = srgb(190, 24, 30), srgb(22, 74, 166), srgb(238, 238, 236), srgb(240, 190, 30)


@dataclass(frozen=True)
class Hits:
    """N points where rays hit surfaces.

    Attributes:
        points: N x 3 float32, world frame, m.
        directions: N x 3 float32 unit vectors from the camera to the points.
        normals: N x 3 float32 unit normals, facing the camera except on LEAVES.
        texture: N x 3 float32 texture coordinates; see Material.
        color: N x 3 float32 linear RGB reflectance.
        material: N uint8, values of Material.
        depth: N float32, along the optical axis, m.
        footprint: N float32, size of a pixel on the surface in its longer direction, m.
    """

    points: np.ndarray
    directions: np.ndarray
    normals: np.ndarray
    texture: np.ndarray
    color: np.ndarray
    material: np.ndarray
    depth: np.ndarray
    footprint: np.ndarray


Texture = Callable[[Hits, np.ndarray], tuple[np.ndarray, np.ndarray | float]]
"""Returns reflectance, K x 3, and gloss, K or one value, of the hits at K indices."""


class Textures:
    """Procedural texture of each material.

    Args:
        rng: Random number generator for the noise.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        self.fine = fractal(rng, 0.55)
        self.coarse = fractal(rng, 1.35)
        self.table = rng.random(4096).astype(np.float32)

    def evaluate(self, hits: Hits) -> tuple[np.ndarray, np.ndarray]:
        """Return linear RGB reflectance, N x 3 float32, and gloss, N float32 with 0 for matte surfaces."""
        albedo, gloss = hits.color.copy(), np.zeros(len(hits.color), np.float32)
        texture: dict[Material, Texture] = {
            Material.PLAIN: self._plain,
            Material.ROAD: self._road,
            Material.PAVING: self._paving,
            Material.GRASS: self._grass,
            Material.FACADE: self._facade,
            Material.ROOF: self._roof,
            Material.LEAVES: self._leaves,
            Material.BARK: self._bark,
            Material.PAINT: self._paint,
            Material.BODY: self._body,
            Material.GLASS: self._glass,
            Material.SIGN: self._sign,
            Material.BRICK: self._brick,
            Material.OFFICE: self._office,
            Material.CABIN: self._cabin,
            Material.LIVERY: self._livery,
        }
        for material, function in texture.items():
            at = np.flatnonzero(hits.material == material)
            if len(at):
                albedo[at], gloss[at] = function(hits, at)
        return albedo, gloss

    def coarse_noise(self, x: np.ndarray, y: np.ndarray, period: float, shift: float = 0.0) -> np.ndarray:
        """Return low-frequency noise of unit standard deviation that repeats every `period` meters."""
        return self._sample_noise(self.coarse, x, y, period, shift)

    def _plain(self, hits: Hits, at: np.ndarray) -> tuple[np.ndarray, float]:
        p = hits.points[at]
        grime = self.coarse_noise(p[:, 0] + p[:, 1], p[:, 2] + p[:, 1] * 0.7, 3.0)
        return hits.color[at] * (1 + 0.10 * grime)[:, None], 0.0

    def _road(self, hits: Hits, at: np.ndarray) -> tuple[np.ndarray, float]:
        across, along, mark = hits.texture[at].T
        # Interpolation between equal corners leaves rounding errors.
        mark = np.rint(mark)
        foot = hits.footprint[at]
        fine = self._sample_noise(self.fine, across, along, 5.0) * fade(foot, 0.03)
        broad = self.coarse_noise(across * 2.2, along, 26.0)
        stains = np.clip(self.coarse_noise(across, along, 7.0, 0.37) - 0.6, 0, 1)
        # Tires polish two wheel tracks in each lane.
        tracks = np.exp(-(((np.abs(across) % 3.4 - 1.7) ** 2 - 0.55) ** 2) * 4)
        tone = 1 + 0.16 * fine + 0.09 * broad - 0.22 * stains + 0.05 * tracks
        # The zero crossings of low-frequency noise are cracks filled with tar.
        crack = self.coarse_noise(across, along * 0.6, 21.0, 0.71)
        tar = np.exp(-((crack / 0.016) ** 2)) * (self.coarse_noise(across, along, 40.0, 0.2) > 0.2)
        color = hits.color[at] * (tone * (1 - 0.5 * tar * fade(foot, 0.06)))[:, None]
        soft = np.maximum(foot, 0.012)
        paint = np.zeros(len(at))
        for kind in np.unique(mark[mark > 0]):
            chosen = np.flatnonzero(mark == kind)
            paint[chosen] = paint_coverage(int(kind), across[chosen], along[chosen], soft[chosen])
        worn = 0.86 + 0.3 * self._sample_noise(self.fine, across, along, 1.7) * fade(foot, 0.02) + 0.12 * broad
        return mix(color, ASPHALT_MARK, paint * np.clip(worn, 0.25, 1)), 0.0

    def _paving(self, hits: Hits, at: np.ndarray) -> tuple[np.ndarray, float]:
        across, along, _ = hits.texture[at].T
        foot = hits.footprint[at]
        row = np.floor(across / 0.4)
        shifted = along / 0.6 + 0.5 * (row % 2)
        tone = 1 + 0.3 * (self._hash_noise(row, np.floor(shifted)) - 0.5) * fade(foot, 0.5)
        tone = tone + 0.10 * self._sample_noise(self.fine, across, along, 3.0) * fade(foot, 0.03)
        tone = tone + 0.08 * self.coarse_noise(across, along, 14.0)
        joints = np.maximum(joint(across / 0.4, 0.04), joint(shifted, 0.028)) * fade(foot, 0.15)
        return hits.color[at] * (tone * (1 - 0.5 * joints))[:, None], 0.0

    def _grass(self, hits: Hits, at: np.ndarray) -> tuple[np.ndarray, float]:
        x, y = hits.points[at, 0], hits.points[at, 1]
        foot = hits.footprint[at]
        blades = self._sample_noise(self.fine, x, y, 2.6) * fade(foot, 0.05)
        tufts = self.coarse_noise(x, y, 5.0)
        patches = self.coarse_noise(x, y, 37.0, 0.3)
        clumps = self._sample_noise(self.fine, x, y, 14.0, 0.6) * fade(foot, 0.3)
        tone = np.clip(1 + 0.36 * blades + 0.24 * clumps + 0.16 * tufts, 0.2, 2)
        dry = np.clip(0.14 + 0.28 * patches + 0.12 * blades, 0, 0.6)
        return mix(hits.color[at], srgb(140, 132, 78), dry) * tone[:, None], 0.0

    def _facade(self, hits: Hits, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        s, t, style = hits.texture[at].T
        p = hits.points[at]
        foot = hits.footprint[at]
        column, row = np.floor(s), np.floor(t)
        u, v = s - column, t - row
        along = p[:, 0] + p[:, 1]
        tone = 1 + 0.08 * self.coarse_noise(along, p[:, 2], 9.0) + 0.07 * self._sample_noise(self.fine, along, p[:, 2], 3.0)
        tone = tone * (0.86 + 0.14 * ramp(t, 0.0, 0.35))
        wall = hits.color[at] * tone[:, None]
        brick = (style > 0.62) & (style < 0.8)
        line = p[:, 2] / 0.08
        joints = np.maximum(joint(line, 0.08), joint(along / 0.25 + 0.5 * (np.floor(line) % 2), 0.04)) * fade(foot, 0.05)
        wall = mix(wall * (1 + 0.25 * brick * (self._hash_noise(np.floor(line), np.floor(along / 0.25)) - 0.5))[:, None],
                    MORTAR, joints * brick * 0.7)  # fmt: skip
        chance = self._hash_noise(column + 31 * np.floor(style * 97), row)
        door = (row == 0) & (self._hash_noise(column + 7, np.floor(style * 911)) < 0.22)
        half = 0.17 + 0.13 * ((style * 7.3) % 1)
        low = np.where(door, 0.04, 0.27 + 0.1 * ((style * 3.7) % 1))
        high = np.where(door, 0.72, 0.82)
        su, sv = np.maximum(foot / 2.5, 0.006), np.maximum(foot / 3.0, 0.006)
        opening = band(u, 0.5 - half, 0.5 + half, su) * band(v, low, high, sv)
        surround = band(u, 0.46 - half, 0.54 + half, su) * band(v, low - 0.02, high + 0.035, sv)
        sill = band(u, 0.45 - half, 0.55 + half, su) * band(v, low - 0.035, low, sv) * ~door
        shutters = band(np.abs(u - 0.5), half, half + 0.14, su) * band(v, low, high, sv) * (style < 0.25) * ~door
        slats = 1 - 0.3 * joint(v * 22, 0.3) * fade(foot, 0.05)
        color = mix(wall, np.minimum(wall * 1.25, 0.8), surround * (style > 0.35))
        color = mix(color, np.where(style[:, None] < 0.12, srgb(70, 96, 76), srgb(112, 76, 56)) * slats[:, None], shutters)
        color = mix(color, STONE, sill)
        pane = band(u, 0.53 - half, 0.47 + half, su) * band(v, low + 0.022, high - 0.022, sv)
        pane = pane * (1 - band(u, 0.49, 0.51, su)) * (1 - band(v, high - 0.19, high - 0.175, sv) * (style > 0.5))
        wood = np.where(door[:, None], srgb(96, 64, 46), WINDOW_FRAME)
        color = mix(color, wood, opening)
        inside = np.where((chance < 0.35)[:, None], srgb(186, 180, 168), srgb(34, 38, 42)) * (0.6 + 0.5 * v)[:, None]
        blind = (chance > 0.8) & (v > low + (high - low) * (0.2 + 3 * (chance - 0.8)))
        inside = np.where(blind[:, None], srgb(198, 194, 184), inside)
        glass = opening * pane * np.where(door, 0.35, 1)
        color = mix(color, inside, glass)
        recess = opening * (0.45 * ramp(v, high - 0.09, 0.06) + 0.25 * (1 - ramp(u, 0.5 - half + 0.02, 0.05)))
        return color * (1 - recess)[:, None], (glass * ~blind * 1.6).astype(np.float32)

    def _roof(self, hits: Hits, at: np.ndarray) -> tuple[np.ndarray, float]:
        across, up, _ = hits.texture[at].T
        foot = hits.footprint[at]
        row = np.floor(up / 0.35)
        near = fade(foot, 0.12)
        tone = 1 + 0.3 * (self._hash_noise(row, np.floor(across / 0.3)) - 0.5) * near - 0.3 * joint(up / 0.35, 0.14) * near
        tone = tone + 0.16 * self.coarse_noise(across, up, 11.0)
        tone = tone + 0.12 * np.sin(across * 2 * np.pi / 0.3) * near
        return hits.color[at] * tone[:, None], 0.0

    def _leaves(self, hits: Hits, at: np.ndarray) -> tuple[np.ndarray, float]:
        p = hits.points[at]
        foot = hits.footprint[at]
        fine = self._sample_noise(self.fine, p[:, 0] + p[:, 2] * 0.8, p[:, 1] - p[:, 2] * 0.9, 1.8) * fade(foot, 0.05)
        return hits.color[at] * np.clip(1 + 0.4 * fine, 0.2, 2.2)[:, None], 0.0

    def _bark(self, hits: Hits, at: np.ndarray) -> tuple[np.ndarray, float]:
        p = hits.points[at]
        streaks = self._sample_noise(self.fine, (p[:, 0] + p[:, 1]) * 3, p[:, 2] * 0.6, 2.5) * fade(hits.footprint[at], 0.05)
        return hits.color[at] * np.clip(1 + 0.3 * streaks, 0.3, 1.8)[:, None], 0.0

    def _paint(self, hits: Hits, at: np.ndarray) -> tuple[np.ndarray, float]:
        dust = np.clip(0.28 - 0.5 * (hits.points[at, 2] - 0.1), 0, 0.3)
        return mix(hits.color[at], srgb(96, 92, 84), dust), 1.0

    def _body(self, hits: Hits, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        across, along, up = hits.texture[at].T
        soft = np.maximum(hits.footprint[at], 0.006)
        flank = np.abs(across) > 0.7
        # `seam` is the distance to the nearest door seam in meters; half the length of a car is about 2.15 m.
        seam = np.min([np.abs(along - share) for share in (0.44, -0.02, -0.44)], axis=0) * 2.15
        dark = band(seam, -1.0, 0.012, soft) * band(up, 0.34, 0.93, soft) * flank
        dark = np.maximum(dark, band(np.hypot((np.abs(along) - 0.62) * 2.15, up - 0.32), -1.0, 0.40, soft) * flank)
        dark = np.maximum(dark, band(up, -1.0, 0.30, soft))
        handle = band(up, 0.76, 0.80, soft) * band((along + 0.02) % 0.42 * 2.15, 0.06, 0.26, soft) * flank * (along > -0.44)
        dark = np.maximum(dark, 0.6 * handle * (along < 0.4))
        color, gloss = self._paint(hits, at)
        return mix(color, srgb(26, 26, 28), dark), (gloss * (1 - 0.9 * dark)).astype(np.float32)

    def _cabin(self, hits: Hits, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        across, along, up = hits.texture[at].T
        soft = np.maximum(hits.footprint[at], 0.006)
        # Sides are at 1 and windshield and roof below 0.84; the pillars and rails between them are painted.
        side = np.abs(across) > 0.985
        screen = np.abs(across) < 0.84
        pillars = band(np.min([np.abs(along - share) for share in (-0.02, -0.44)], axis=0) * 2.15, -1.0, 0.05, soft)
        window = band(up, 0.08, np.where(side, 1.0, 0.86), soft) * np.where(side, 1 - pillars, screen)
        color, gloss = self._paint(hits, at)
        # Panes differ between cars in tint, and in what they mirror.
        tint = self._style(hits.color[at])
        pane = srgb(20, 23, 26) * (0.4 + 1.6 * tint[:, None])
        return color + (pane - color) * window[:, None], (gloss + window * (tint - 0.6)).astype(np.float32)

    def _livery(self, hits: Hits, at: np.ndarray) -> tuple[np.ndarray, float]:
        x, y, z = hits.texture[at].T
        along = x + y
        color, gloss = self._paint(hits, at)
        style, other = self._style(hits.color[at]), self._style(hits.color[at], 0.37)
        second = np.stack([self._style(hits.color[at], shift) ** 1.5 * 0.8 for shift in (0.11, 0.53, 0.79)], -1)
        edge = 1.2 + 1.2 * other + np.where(style < 0.3, 0.0, np.where(style < 0.5, 0.25 * along, 0.35 * np.sin(along * 0.5)))
        striped = (z < edge) & (style < 0.75)
        color = np.where(striped[:, None], second, color)
        # Letters are cells of 3 x 5 blocks that are inked at random.
        size = 0.35 + 0.7 * other
        column, row = along / size, (z - 1.6 - 0.4 * style) / (size * 1.2)
        line = (row > 0) & (row < 1) & (np.abs(along + 2 * other) < 4 * (0.4 + style)) & (column % 1 < 0.8)
        block = np.floor((column % 1) / 0.27) + 3 * np.floor(row * 5)
        ink = line & (self._hash_noise(np.floor(column) + np.floor(97 * style), block) < 0.55) & (other < 0.8)
        bright = color.mean(axis=1) > 0.25
        contrasting = np.where(bright[:, None], srgb(28, 30, 38), srgb(230, 230, 226))
        letters = np.where((style > 0.5)[:, None], second * 0.7, contrasting)
        return np.where(ink[:, None], letters, color), gloss

    def _glass(self, hits: Hits, at: np.ndarray) -> tuple[np.ndarray, float]:
        return hits.color[at], 1.3

    def _sign(self, hits: Hits, at: np.ndarray) -> tuple[np.ndarray, float]:
        u, v, kind = hits.texture[at].T
        kind = np.rint(kind)
        radius = np.hypot(u, v)
        color = np.broadcast_to(SIGN_WHITE, (len(at), 3))
        color = np.where(((kind == 0) & (radius > 0.72))[:, None], SIGN_RED, color)
        digit = np.abs(u) - 0.22
        digits = (kind == 0) & (np.abs(v) < 0.38) & (np.abs(digit) < 0.17) & (np.hypot(digit, v * 0.6) > 0.1)
        color = np.where(digits[:, None], srgb(20, 20, 20), color)
        # Distance from the edge of a yield sign.
        inset = np.minimum(0.75 - v, (v + 1.0) * 0.5 - np.abs(u) * 0.88)
        color = np.where(((kind == 1) & (inset < 0.22))[:, None], SIGN_RED, color)
        arrow = (np.abs(u) < 0.13) & (np.abs(v) < 0.6) | (np.abs(np.abs(u) + v - 0.35) < 0.16) & (v > -0.25) & (v < 0.5)
        color = np.where(((kind == 2) & ~(arrow | (radius > 0.93)))[:, None], SIGN_BLUE, color)
        color = np.where(((kind == 3) & (np.abs(u) + np.abs(v) < 0.7))[:, None], SIGN_YELLOW, color)
        letter = (np.abs(u + 0.25) < 0.12) & (np.abs(v) < 0.6) | (np.abs(np.hypot(u + 0.1, v - 0.28) - 0.28) < 0.1) & (u > -0.3)
        edge = np.maximum(np.abs(u) / 0.85, np.abs(v)) > 0.92
        color = np.where(((kind == 4) & ~(letter | edge))[:, None], SIGN_BLUE, color)
        return color, 0.0

    def _brick(self, hits: Hits, at: np.ndarray) -> tuple[np.ndarray, float]:
        p, foot = hits.points[at], hits.footprint[at]
        along, line = p[:, 0] + p[:, 1], p[:, 2] / 0.08
        column = along / 0.25 + 0.5 * (np.floor(line) % 2)
        joints = np.maximum(joint(line, 0.14), joint(column, 0.05)) * fade(foot, 0.05)
        tone = 1 + 0.5 * (self._hash_noise(np.floor(line), np.floor(column)) - 0.5) * fade(foot, 0.12)
        tone = tone + 0.12 * self.coarse_noise(along, p[:, 2], 7.0)
        return mix(hits.color[at] * tone[:, None], MORTAR, joints * 0.7), 0.0

    def _office(self, hits: Hits, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        s, t, style = hits.texture[at].T
        foot = hits.footprint[at]
        column, row = np.floor(s), np.floor(t)
        u, v = s - column, t - row
        soft = np.maximum(foot / 3.0, 0.006)
        thin = 0.02 + 0.16 * ((style * 5.1) % 1)
        low = np.where(row == 0, 0.05, 0.1 + 0.3 * ((style * 2.3) % 1))
        pane = band(u, thin, 1 - thin, soft) * band(v, low, 0.9, soft)
        wall = hits.color[at] * (1 + 0.08 * self.coarse_noise(s * 2.5, t * 3.0, 17.0))[:, None]
        chance = self._hash_noise(column + 17, row + np.floor(style * 61))
        inside = np.where((chance < 0.25)[:, None], srgb(170, 168, 160), srgb(44, 54, 60)) * (0.7 + 0.5 * chance)[:, None]
        return mix(wall, inside, pane), (pane * 1.4).astype(np.float32)

    def _sample_noise(self, tile: np.ndarray, x: np.ndarray, y: np.ndarray, period: float, shift: float = 0.0) -> np.ndarray:
        """Sample a noise tile that repeats every `period` meters."""
        scale = TILE_SIZE / period
        i = np.floor(np.asarray(x) * scale + shift * TILE_SIZE).astype(np.int32) & (TILE_SIZE - 1)
        j = np.floor(np.asarray(y) * scale + shift * 0.618 * TILE_SIZE).astype(np.int32) & (TILE_SIZE - 1)
        values: np.ndarray = tile[j, i]
        return values

    def _style(self, color: np.ndarray, shift: float = 0.0) -> np.ndarray:
        """Return a value in 0..1 for each N x 3 color: the same on all surfaces of an object."""
        # Summed in float64 without a matrix product, whose rounding may depend on the number of rows.
        red, green, blue = color.astype(np.float64).T
        return np.asarray((97.3 * red + 31.7 * green + 53.9 * blue + shift * 37) % 1, np.float32)

    def _hash_noise(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Return a pseudorandom value in 0..1 for each pair of integers."""
        value: np.ndarray = self.table[(a.astype(np.int64) * 1619 + b.astype(np.int64) * 31337) & 4095]
        return value
