"""Trees, hedges, bushes and grass; foliage consists of clumps of leaves around dark cores."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mtl_perception.synthetic.geometry.mesh import LABEL, Material, Mesh, Surface, join, srgb, triangles
from mtl_perception.synthetic.geometry.solids import box, ellipsoid, leaves, tube

GREENS = (srgb(80, 98, 46), srgb(68, 90, 46), srgb(92, 104, 50), srgb(58, 80, 44), srgb(106, 104, 50))
BARK = Surface("vegetation", Material.BARK, srgb(104, 92, 78))
CORE_LIGHT = 0.5
"""Visible share of the sky inside foliage."""


def tree(rng: np.random.Generator, height: float, count: int) -> Mesh:
    """Return a broad-leaved tree: a forked trunk and a crown of clumps with `count` leaves each."""
    clumps = 16
    spread = height * rng.uniform(0.24, 0.34)
    base = height * rng.uniform(0.26, 0.36)
    middle = np.array([0.0, 0.0, (base + height) / 2])
    half = np.array([spread, spread, (height - base) / 2])
    direction = _directions(rng, clumps)
    reach = rng.uniform(0.35, 0.8, (clumps, 1))
    centers = middle + direction * half * reach
    radii = rng.uniform(0.3, 0.48, clumps) * spread
    lean = rng.normal(0, 0.12, 2)
    fork = np.array([lean[0], lean[1], base * 1.05])
    thick = height * 0.018
    parts = [tube(BARK, (0, 0, -0.1), fork, thick * 1.25, thick)]
    parts += [tube(BARK, fork, centers[i], thick * 0.6, thick * 0.2, sides=6) for i in range(0, clumps, 2)]
    return join([*parts, _crown(rng, middle, half, centers, radii, count, height * 0.42 / np.sqrt(count))])


def conifer(rng: np.random.Generator, height: float = 9.0, count: int = 2600) -> Mesh:
    """Return a spruce with `count` leaves: whorls of branches that become shorter towards the top."""
    up = rng.uniform(0.08, 1.0, count) ** 1.3
    whorl = 0.75 + 0.25 * np.sin(up * 55)
    radius = height * 0.2 * (1.03 - up) * whorl
    angle = rng.uniform(0, 2 * np.pi, count)
    out = np.sqrt(rng.uniform(0.2, 1, count))
    centers = np.stack([radius * out * np.cos(angle), radius * out * np.sin(angle), up * height - radius * out * 0.25], -1)
    normals = _unit(np.stack([np.cos(angle), np.sin(angle), np.full(count, 0.5)], -1))
    color = srgb(52, 74, 44) * rng.uniform(0.8, 1.2)
    parts = [tube(BARK, (0, 0, -0.1), (0, 0, height * 0.95), height * 0.02, 0.02, sides=6)]
    return join([*parts, leaves(rng, centers, normals, 0.35 + 0.65 * out * whorl, height * 0.027, color)])


def forest_edge(rng: np.random.Generator, length: float, depth: float, height: float, count: int = 110) -> Mesh:
    """Return the edge of a forest along y, centered at the origin: crowns down to the ground, `count` leaves per clump."""
    parts = []
    trees = max(2, int(length / 5))
    for i in range(trees):
        y = (i + rng.uniform(0.1, 0.9)) / trees * length - length / 2
        top = height * rng.uniform(0.7, 1.1)
        half = np.array([rng.uniform(2.5, 3.6), rng.uniform(2.5, 3.6), top / 2])
        middle = np.array([rng.uniform(-depth, depth) / 2, y, top / 2])
        centers = middle + _directions(rng, 9) * half * rng.uniform(0.4, 0.8, (9, 1))
        parts.append(_crown(rng, middle, half, centers, rng.uniform(0.9, 1.5, 9), count, 4.2 / np.sqrt(count)))
    return join(parts)


def hedge(rng: np.random.Generator, length: float, height: float, depth: float = 0.8) -> Mesh:
    """Return a trimmed hedge along y, centered at the origin."""
    half = np.array([depth / 2, length / 2, height / 2])
    count = int(110 * length * (height + depth))
    centers = rng.uniform(-1, 1, (count, 3))
    # Leaves inside the hedge are invisible, so all lie on its sides, top and ends.
    areas = np.array([length * height, depth * height, length * depth])
    axis = rng.choice(3, count, p=areas / areas.sum())
    rows = np.arange(count)
    centers[rows, axis] = np.where(axis == 2, 1.0, np.sign(centers[rows, axis]))
    normals = np.zeros((count, 3))
    normals[rows, axis] = centers[rows, axis]
    normals = _unit(normals + rng.normal(0, 0.35, (count, 3)))
    light = np.clip(0.55 + 0.3 * centers[:, 2] + rng.normal(0, 0.12, count), 0.2, 1.0)
    centers = centers * half + np.array([0, 0, height / 2]) + rng.normal(0, 0.045, (count, 3))
    color = GREENS[rng.integers(len(GREENS))] * rng.uniform(0.7, 1.0)
    inside = Surface("vegetation", Material.LEAVES, color)
    core = box(inside, -half * (0.86, 1, 0) + (0, 0, -0.05), half * (0.86, 1, 0) + (0, 0, height * 0.95))
    return join([_dark(core), leaves(rng, centers, normals, light, 0.1, color)])


def tall_grass(rng: np.random.Generator, length: float, width: float) -> Mesh:
    """Return tall grass over `length` along y and `width` along x, centered at the origin."""
    count = int(38 * length * width)
    foot = rng.uniform(-0.5, 0.5, (count, 1, 3)) * (width, length, 0)
    points = np.repeat(foot, 3, axis=1)
    points[:, :2, :2] += rng.normal(0, 0.035, (count, 2, 2))
    points[:, 2, :2] += rng.normal(0, 0.04, (count, 2))
    points[:, 2, 2] += rng.gamma(4, 0.02, count)
    blades = leaves(rng, foot[:, 0], np.tile([0.0, 0.0, 1.0], (count, 1)), np.full(count, 0.8), 0.1, srgb(92, 112, 50))
    label = np.full(count, LABEL["terrain"], np.uint8)
    return replace(blades, points=points.astype(np.float32), label=label)


def bush(rng: np.random.Generator, size: float) -> Mesh:
    """Return a round bush, `size` meters wide."""
    half = np.array([size, size, size * 0.8]) / 2
    middle = np.array([0, 0, size * 0.35])
    centers = middle + _directions(rng, 7) * half * 0.5
    return _crown(rng, middle, half, centers, np.full(7, size * 0.27), 140, 0.05 + size * 0.05)


def bare_tree(rng: np.random.Generator, height: float) -> Mesh:
    """Return a leafless tree: trunk, boughs and twigs."""
    color = BARK.color * rng.uniform(0.5, 1.1)
    surface = Surface("vegetation", Material.BARK, color)
    fork = np.array([*rng.normal(0, 0.15, 2), height * rng.uniform(0.25, 0.4)])
    thick = height * 0.018
    parts = [tube(surface, (0, 0, -0.1), fork, thick * 1.3, thick, sides=6)]
    for way in _directions(rng, 9):
        way[2] = abs(way[2]) + 0.5
        bough = fork + way * height * rng.uniform(0.22, 0.34)
        parts.append(tube(surface, fork, bough, thick * 0.6, thick * 0.3, sides=5))
        for twig in _directions(rng, 7):
            twig[2] = abs(twig[2]) * 0.8 + 0.1
            start = fork + (bough - fork) * rng.uniform(0.4, 1.0)
            parts.append(tube(surface, start, start + twig * height * rng.uniform(0.1, 0.24), thick * 0.25, 0.008, sides=3))
    return join(parts)


def ridge(rng: np.random.Generator, distance: float, height: float) -> Mesh:
    """Return wooded hills all around the origin at `distance` meters."""
    angle = np.linspace(0, 2 * np.pi, 241)
    waves = sum(rng.normal(0, 1 / k) * np.sin(k * angle + rng.uniform(0, 6.3)) for k in range(2, 40))
    top = height * np.clip(0.55 + 0.35 * np.asarray(waves) + rng.normal(0, 0.02, len(angle)), 0.02, 1.6)
    top[-1] = top[0]
    rows = []
    for share, away in ((0.0, 0.8), (0.5, 1.0), (1.0, 1.25)):
        rows.append(np.stack([distance * away * np.cos(angle), distance * away * np.sin(angle), share * top - 0.5], -1))
    count = len(angle)
    i = np.arange(count - 1)
    faces = []
    for low in (i, i + count):
        high = low + count
        faces += [np.stack([low, low + 1, high + 1], -1), np.stack([low, high + 1, high], -1)]
    surface = Surface("vegetation", Material.LEAVES, GREENS[rng.integers(len(GREENS))] * rng.uniform(0.5, 1.0))
    mesh = triangles(surface, np.concatenate(rows), np.concatenate(faces), smooth=True)
    return replace(mesh, texture=np.full_like(mesh.texture, 0.75))


def _crown(
    rng: np.random.Generator,
    middle: np.ndarray,
    half: np.ndarray,
    centers: np.ndarray,
    radii: np.ndarray,
    count: int,
    size: float,
) -> Mesh:
    """Return clumps of `count` leaves each around dark cores; inner and lower leaves receive less light."""
    color = GREENS[rng.integers(len(GREENS))] * rng.uniform(0.75, 1.15)
    parts = []
    for center, radius in zip(centers, radii, strict=True):
        core = radius * 0.55
        parts.append(_dark(ellipsoid(Surface("vegetation", Material.LEAVES, color), center, (core, core, core), sides=5)))
        out = _directions(rng, count)
        spots = center + out * radius * rng.normal(0.92, 0.14, (count, 1))
        whole = (spots - middle) / half
        normals = _unit(0.7 * out + 0.6 * whole + np.array([0, 0, 0.25]))
        light = 0.62 + 0.22 * whole[:, 2] + 0.28 * (np.linalg.norm(whole, axis=1) - 0.8)
        light *= 0.7 + 0.3 * np.clip(out[:, 2] + 0.6, 0, 1)
        parts.append(leaves(rng, spots, normals, np.clip(light, 0.15, 1), size, color * rng.uniform(0.85, 1.15)))
    return join(parts)


def _dark(core: Mesh) -> Mesh:
    """Return the core of a clump with the light inside foliage."""
    return replace(core, texture=np.full_like(core.texture, CORE_LIGHT))


def _directions(rng: np.random.Generator, count: int) -> np.ndarray:
    return _unit(rng.normal(size=(count, 3)))


def _unit(vectors: np.ndarray) -> np.ndarray:
    normalized: np.ndarray = vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-9)
    return normalized
