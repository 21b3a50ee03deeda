"""Rendering of images with exact labels and depth."""

from __future__ import annotations

import numpy as np

from mtl_perception.camera.model import CameraModel
from mtl_perception.labels import STREET
from mtl_perception.synthetic.appearance.light import Light
from mtl_perception.synthetic.appearance.textures import Hits
from mtl_perception.synthetic.geometry.mesh import Material
from mtl_perception.synthetic.render.raycasting import MISSED, TracedScene

SKY = STREET.names.index("sky")

EDGE = 0.09
"""Pixels whose value (0..1) differs from a neighbor's by more than this are rendered with three rays instead of one."""

PENUMBRA = 0.02
"""Spread of the sun's direction above which the noise of soft shadows is smoothed, radians."""


def axes(heading: float, pitch: float = 0.0, roll: float = 0.0) -> np.ndarray:
    """Return the rotation from world to optical frame, 3 x 3 float64: its rows are x (right), y (down) and z (forward).

    Args:
        heading: Radians to the left of the world's y axis.
        pitch: Radians upwards.
        roll: Radians clockwise, seen from behind the camera; the horizon turns counterclockwise.
    """
    cos, sin = np.cos(heading), np.sin(heading)
    forward = np.array([-sin * np.cos(pitch), cos * np.cos(pitch), np.sin(pitch)])
    right = np.array([cos, sin, 0.0])
    down = np.cross(forward, right)
    return np.array([right * np.cos(roll) + down * np.sin(roll), down * np.cos(roll) - right * np.sin(roll), forward])


def render(
    scene: TracedScene,
    light: Light,
    camera: CameraModel,
    position: np.ndarray,
    heading: float,
    rng: np.random.Generator,
    tilt: tuple[float, float] = (0.0, 0.0),
    noise: float = 1.0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Render an image with its labels and depth. Labels and depth are exact at the pixel centers; the image is antialiased.

    Args:
        scene: What is rendered.
        light: Sun, sky and textures.
        camera: Intrinsics.
        position: Position of the camera in the world, 3, m.
        heading: As in `axes`.
        rng: Random number generator for soft shadows and noise.
        tilt: Pitch and roll, as in `axes`.
        noise: Strength of the sensor noise.

    Returns:
        Image H x W x 3 uint8 RGB, labels H x W uint8, depth along the optical axis H x W float32 in meters, Inf in the sky.
    """
    attitude = axes(heading, *tilt)
    shape = (camera.height, camera.width)
    v, u = (axis.ravel().astype(np.float64) for axis in np.mgrid[: camera.height, : camera.width])
    color, labels, distance = _shade_rays(scene, light, camera, position, attitude, u, v, rng, shape)
    again = np.flatnonzero(_edges(color.reshape(*shape, 3), labels.reshape(shape)))
    fine = color[again]
    for du, dv in ((-1 / 3, 1 / 3), (1 / 3, -1 / 3)):
        fine = fine + _shade_rays(scene, light, camera, position, attitude, u[again] + du, v[again] + dv, rng)[0]
    color[again] = fine / 3
    gray, tinted = (rng.standard_normal((*shape, channels), np.float32) for channels in (1, 3))
    pixels = np.clip(color.reshape(*shape, 3) + (gray * 0.010 + tinted * 0.006) * np.float32(noise), 0, 1) * 255 + 0.5
    return pixels.astype(np.uint8), labels.reshape(shape), distance.reshape(shape)


def _shade_rays(
    scene: TracedScene,
    light: Light,
    camera: CameraModel,
    position: np.ndarray,
    attitude: np.ndarray,
    u: np.ndarray,
    v: np.ndarray,
    rng: np.random.Generator,
    shape: tuple[int, int] | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return screen color N x 3, label N and depth N at image points (u, v).

    With `shape`, the points are all pixels of an image, and the noise of soft shadows is smoothed over neighbors.
    """
    x, y = (u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy
    # The directions have length 1 along the optical axis, so that the distance of a hit is its depth.
    rays = (np.stack([x, y, np.ones_like(x)], -1) @ attitude).astype(np.float32)
    distance, triangle, weights = scene.cast(position, rays)
    lengths = np.linalg.norm(rays, axis=1)
    units = rays / lengths[:, None]
    color = np.empty((len(rays), 3), np.float32)
    sky = triangle == MISSED
    color[sky] = light.sky_radiance(units[sky])
    hit = np.flatnonzero(~sky)
    chosen = triangle[hit]
    labels = np.full(len(rays), SKY, np.uint8)
    labels[hit] = scene.attribute("label", chosen)
    share = np.stack([1 - weights[hit].sum(axis=1), weights[hit, 0], weights[hit, 1]], -1)
    normals = np.einsum("nk,nkc->nc", share, scene.attribute("normals", chosen))
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), np.float32(1e-6))
    material = scene.attribute("material", chosen)
    slant = np.sum(normals * units[hit], axis=1)
    turned = (slant > 0) & (material != Material.LEAVES)
    normals[turned] *= -1
    hits = Hits(
        position.astype(np.float32) + rays[hit] * distance[hit, None],
        units[hit],
        normals,
        np.einsum("nk,nkc->nc", share, scene.attribute("texture", chosen)),
        scene.attribute("color", chosen),
        material,
        distance[hit],
        distance[hit] * lengths[hit] / np.float32(camera.fx) / np.maximum(np.abs(slant), np.float32(0.06)),
    )
    lit = scene.sunlit(hits, light, rng)
    if light.weather.softness > PENUMBRA:
        # Scattered points have no neighbors to smooth over, so their mean takes half of the noise away.
        lit = _smooth(lit, hit, distance, shape) if shape is not None else 0.5 * lit + np.float32(0.5 * lit.mean())
    color[hit] = light.shade(hits, lit)
    return light.tone_map(color), labels, distance


def _smooth(lit: np.ndarray, hit: np.ndarray, distance: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Return the mean of `lit` over neighbors at about the same distance."""
    near = np.zeros(shape, np.float32)
    values = np.zeros(shape, np.float32)
    near.flat[hit], values.flat[hit] = 1 / distance[hit], lit
    sums, weights = np.zeros(shape, np.float32), np.full(shape, 1e-6, np.float32)
    for dv in (-2, -1, 0, 1, 2):
        for du in (-3, -2, -1, 0, 1, 2, 3):
            other = np.roll(near, (dv, du), (0, 1))
            # This is false in the sky, where `near` is 0.
            share = np.abs(other - near) < 0.1 * near
            sums += share * np.roll(values, (dv, du), (0, 1))
            weights += share
    return np.asarray((sums / weights).ravel()[hit])


def _edges(color: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return H x W bool: pixels that differ from a neighbor. Foliage differs everywhere and is left out."""
    gray = color.mean(axis=-1)
    found = np.zeros(labels.shape, bool)
    leaf = labels == STREET.names.index("vegetation")
    for axis in (0, 1):
        one, other = (slice(None, -1), slice(1, None))
        a = (one, slice(None)) if axis == 0 else (slice(None), one)
        b = (other, slice(None)) if axis == 0 else (slice(None), other)
        differ = (labels[a] != labels[b]) | (np.abs(gray[a] - gray[b]) > EDGE) & ~(leaf[a] & leaf[b])
        found[a] |= differ
        found[b] |= differ
    return found
