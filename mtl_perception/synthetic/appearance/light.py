"""Sun and sky: shading of ray hits and conversion of radiance to pixel values."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from mtl_perception.synthetic.appearance.patterns import ramp
from mtl_perception.synthetic.appearance.textures import Hits, Textures
from mtl_perception.synthetic.geometry.mesh import Material


@dataclass(frozen=True)
class Weather:
    """Illumination of a scene, in linear radiance, and the camera's exposure.

    Attributes:
        sun: Unit vector towards the sun.
        sunlight: RGB radiance of direct sunlight.
        softness: Standard deviation of the sun's direction, radians; larger values give softer shadows.
        ambient: Factor on the light that surfaces receive from the sky.
        overcast: Overcast share of the sky, 0 (clear) to 1 (gray).
        clouds: Amount of separate clouds, about -0.5 (none) to 1 (many).
        haze: Distance at which haze reduces contrast by 63 %, m.
        exposure: Exposure gain of the camera.
        balance: White balance, RGB gains around 1.
    """

    sun: np.ndarray
    sunlight: np.ndarray
    softness: float = 0.003
    ambient: float = 1.0
    overcast: float = 0.0
    clouds: float = 0.2
    haze: float = 1500.0
    exposure: float = 1.0
    balance: np.ndarray = field(default_factory=lambda: np.ones(3, np.float32))


SUNLIGHT = np.array([1.0, 0.93, 0.82], np.float32) * 2.3


def sunny_weather(rng: np.random.Generator) -> Weather:
    """Return a random sunny day with the sun high in the sky."""
    elevation, azimuth = rng.uniform(0.65, 1.0), rng.uniform(0, 2 * np.pi)
    return Weather(_direction(elevation, azimuth), SUNLIGHT, clouds=float(rng.uniform(-0.5, 0.9)))


def random_weather(rng: np.random.Generator) -> Weather:
    """Return random weather: any height of the sun, clouds and haze, with errors of exposure and white balance."""
    elevation, azimuth = rng.uniform(0.15, 1.1), rng.uniform(0, 2 * np.pi)
    # The atmosphere reddens and weakens the light of a low sun.
    low = np.exp(-3.5 * elevation)
    sunlight = SUNLIGHT * (1 - np.array([0.25, 0.5, 0.8], np.float32) * low)
    overcast = float(rng.choice((0.0, rng.uniform(0.2, 0.7), 1.0), p=(0.5, 0.2, 0.3)))
    haze = float(np.exp(rng.uniform(np.log(200), np.log(2500)))) if rng.random() < 0.3 else 1500.0
    warm, tint = rng.normal(0, 0.07), rng.normal(0, 0.025)
    return Weather(
        _direction(elevation, azimuth),
        sunlight * (1 - 0.86 * overcast) * rng.uniform(0.7, 1.15),
        softness=0.003 + 0.35 * overcast**2,
        ambient=float(1.0 + 0.9 * overcast + rng.uniform(-0.6, 0.2)),
        overcast=overcast,
        clouds=float(rng.uniform(-0.5, 1.1)),
        haze=haze,
        exposure=float(np.exp(rng.normal(0.05, 0.28))),
        balance=np.array([1 + warm, 1 + tint, 1 - warm], np.float32),
    )


def _direction(elevation: float, azimuth: float) -> np.ndarray:
    return np.array([np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)], np.float32)


class Light:
    """Shades surfaces and sky of a scene.

    Args:
        rng: Random number generator for the clouds and for omitted arguments.
        weather: Weather; None for a random sunny day.
        textures: Surface textures, which are slow to generate and can be shared; None to generate them.
    """

    def __init__(self, rng: np.random.Generator, weather: Weather | None = None, textures: Textures | None = None) -> None:
        self.weather = sunny_weather(rng) if weather is None else weather
        self.sun = self.weather.sun
        self.drift = rng.uniform(0, 1, 2)
        self.textures = Textures(rng) if textures is None else textures

    def sky_radiance(self, directions: np.ndarray, clouds: bool = True) -> np.ndarray:
        """Return the radiance of the sky, N x 3 float32, along unit vectors, N x 3."""
        up = np.clip(directions[:, 2:3], 0, 1)
        pale, blue = np.array([1.15, 1.27, 1.34], np.float32), np.array([0.26, 0.56, 1.08], np.float32)
        color = blue + (pale - blue) * np.exp(-up * 4.2)
        gray = np.float32(self.weather.overcast)
        cover = np.array([1.22, 1.25, 1.28], np.float32) * (np.float32(0.85) + np.float32(0.3) * up)
        color = color + (cover - color) * gray
        glow = np.clip(directions @ self.sun, 0, 1)[:, None] * (1 - np.float32(0.7) * gray)
        color = color + glow**6 * np.float32(0.25) + glow**60 * np.float32(0.5)
        if not clouds:
            return np.asarray(color, np.float32)
        flat = directions[:, :2] / (up + 0.09)
        cover = self.textures.coarse_noise(flat[:, 0], flat[:, 1], 9.0, self.drift[0])
        cover = cover + 0.35 * self.textures.coarse_noise(flat[:, 0], flat[:, 1], 2.3, self.drift[1])
        cover = ramp(cover, 1.0 - self.weather.clouds, 1.1)[:, None] * np.float32(0.85) * (1 - np.float32(0.6) * gray)
        return np.asarray(color + (np.float32(1.5) - color) * cover, np.float32)

    def shade(self, hits: Hits, sunlit: np.ndarray) -> np.ndarray:
        """Return the radiance that surface points reflect to the camera, N x 3 float32.

        Args:
            hits: Surface points.
            sunlit: N float32, 1 in sunlight, 0 in shadow.
        """
        facing = hits.normals @ self.sun
        direct = np.clip(facing, 0, 1) * sunlit
        ambient = (0.31 + 0.13 * hits.normals[:, 2]).astype(np.float32)
        glow = hits.material == Material.GLOW
        albedo, gloss = self.textures.evaluate(hits)
        leaf = np.flatnonzero(hits.material == Material.LEAVES)
        visible_sky = hits.texture[leaf, 0]
        # Leaves scatter light and transmit some of it, so they are lit from every side.
        direct[leaf] = (
            (0.12 + 0.88 * np.clip(0.35 + 0.65 * facing[leaf], 0, 1)) * (0.15 + 0.85 * sunlit[leaf]) * visible_sky * 0.85
        )
        ambient[leaf] = 0.34 * visible_sky
        # Surrounding objects occlude part of the sky near the ground.
        wall = np.abs(hits.normals[:, 2]) < 0.6
        ambient *= np.where(wall, np.float32(0.72) + np.float32(0.28) * ramp(hits.points[:, 2], 0.0, 1.6), np.float32(1))
        blue, gray = np.array([0.82, 0.94, 1.12], np.float32), np.array([0.96, 0.98, 1.0], np.float32)
        sky_tint = (blue + (gray - blue) * np.float32(self.weather.overcast)) * np.float32(self.weather.ambient)
        color = albedo * (direct[:, None] * self.weather.sunlight.astype(np.float32) + ambient[:, None] * sky_tint)
        shiny = np.flatnonzero(gloss > 0)
        color[shiny] += self._reflect(hits, shiny, sunlit[shiny]) * gloss[shiny, None]
        color[glow] = hits.color[glow] * 1.5
        haze = (1 - np.exp(-hits.depth / np.float32(self.weather.haze)))[:, None]
        return np.asarray(color + (np.array([0.95, 1.05, 1.12], np.float32) - color) * haze, np.float32)

    def tone_map(self, color: np.ndarray) -> np.ndarray:
        """Return pixel values 0..1, N x 3 float32, of linear radiance: exposure, white balance, tone curve and gamma."""
        exposed = np.maximum(color, 0) * (np.float32(0.85 * self.weather.exposure) * self.weather.balance)
        # The toe of the curve deepens shadows; its shoulder preserves highlights.
        film = exposed * (exposed * 1.9 + 0.12) / (exposed * (exposed * 1.75 + 0.6) + 0.18)
        return np.asarray(np.clip(film, 0, 1) ** np.float32(1 / 2.2), np.float32)

    def _reflect(self, hits: Hits, at: np.ndarray, sunlit: np.ndarray) -> np.ndarray:
        """Return the radiance that glossy surfaces mirror: the sky above a random skyline, gray surroundings below it."""
        look, normal = hits.directions[at], hits.normals[at]
        cos = np.clip(-np.sum(look * normal, axis=1, keepdims=True), 0, 1)
        back = look + 2 * cos * normal
        sky = self.sky_radiance(back, clouds=False)
        skyline = 0.2 + 0.1 * np.sin(back[:, 0] * 9) + 0.06 * np.sin(back[:, 0] * 23 + back[:, 1] * 7)
        around = np.array([0.13, 0.13, 0.12], np.float32) * (1.2 - 0.7 * np.clip(back[:, 2:3] * 3, 0, 1))
        seen = around + (sky - around) * ramp(back[:, 2], skyline, 0.12)[:, None]
        fresnel = np.float32(0.09) + np.float32(0.91) * (1 - cos) ** 5
        spark = np.clip(back @ self.sun, 0, 1)[:, None] ** 250 * sunlit[:, None] * np.float32(6 * (1 - self.weather.overcast))
        return np.asarray(seen * fresnel + spark * (0.1 + fresnel), np.float32)
