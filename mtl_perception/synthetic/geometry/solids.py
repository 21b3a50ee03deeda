"""Geometric primitives: boxes, tubes, ellipsoids, lofted surfaces, foliage."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mtl_perception.synthetic.geometry.mesh import LABEL, Material, Mesh, Surface, Vector, triangles


def quad(surface: Surface, corners: Sequence[Vector] | np.ndarray, texture: Sequence[Vector] | None = None) -> Mesh:
    """Return two triangles between four corners, given in order around the quad."""
    return triangles(
        surface, np.array(corners), np.array([[0, 1, 2], [0, 2, 3]]), None if texture is None else np.array(texture)
    )


def box(surface: Surface, low: Vector, high: Vector, taper: float = 1.0) -> Mesh:
    """Return an axis-aligned box between two corners; `taper` scales its top face in x and y."""
    (x0, y0, z0), (x1, y1, z1) = low, high
    cx, cy = (x0 + x1) / 2, (y0 + y1) / 2
    base = [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]
    top = [(cx + (x - cx) * taper, cy + (y - cy) * taper) for x, y in base]
    rings = [[(x, y, z0) for x, y in base], [(x, y, z1) for x, y in top]]
    return loft(surface, np.array(rings), smooth=False)


def loft(surface: Surface, rings: np.ndarray, smooth: bool = True, texture: np.ndarray | None = None) -> Mesh:
    """Return the surface through R closed rings of N points each, R x N x 3, capped at both ends.

    Args:
        surface: Appearance and class.
        rings: R x N x 3, m.
        smooth: Average the normals of the faces that share a vertex.
        texture: Texture coordinates, R x N x 3; None for the coordinates of the points.
    """
    count, sides = rings.shape[:2]
    ring, side = np.meshgrid(np.arange(count - 1), np.arange(sides), indexing="ij")
    a, b = ring * sides + side, ring * sides + (side + 1) % sides
    c, d = a + sides, b + sides
    faces = [np.stack([a, b, d], -1).reshape(-1, 3), np.stack([a, d, c], -1).reshape(-1, 3)]
    fan = np.arange(1, sides - 1)
    end = (count - 1) * sides
    faces.append(np.stack([0 * fan, fan + 1, fan], -1))
    faces.append(np.stack([0 * fan + end, fan + end, fan + 1 + end], -1))
    coordinates = None if texture is None else texture.reshape(-1, 3)
    return triangles(surface, rings.reshape(-1, 3), np.concatenate(faces), coordinates, smooth)


def tube(surface: Surface, start: Vector, end: Vector, radius: float, end_radius: float | None = None, sides: int = 8) -> Mesh:
    """Return a cylinder from `start` to `end` with rounded ends; a different `end_radius` makes it a cone."""
    a, b = np.array(start, np.float64), np.array(end, np.float64)
    r, s = radius, radius if end_radius is None else end_radius
    axis = (b - a) / np.linalg.norm(b - a)
    across = np.cross(axis, [1.0, 0, 0] if abs(axis[0]) < 0.7 else [0, 1.0, 0])
    across /= np.linalg.norm(across)
    other = np.cross(axis, across)
    angle = np.arange(sides) * 2 * np.pi / sides
    circle = np.cos(angle)[:, None] * across + np.sin(angle)[:, None] * other
    bow = 0.71
    profile = [(a, -r, 0.05), (a, -bow * r, bow), (a, 0.0, 1.0), (b, 0.0, 1.0), (b, bow * s, bow), (b, s, 0.05)]
    rings = [center + axis * along + circle * (size * (r if i < 3 else s)) for i, (center, along, size) in enumerate(profile)]
    return loft(surface, np.array(rings))


def ellipsoid(surface: Surface, center: Vector, radii: Vector, sides: int = 10) -> Mesh:
    """Return an ellipsoid with its axes along x, y and z."""
    latitude = np.linspace(-np.pi / 2 * 0.97, np.pi / 2 * 0.97, 6)[:, None]
    longitude = np.arange(sides)[None] * 2 * np.pi / sides
    unit = np.stack(
        [np.cos(latitude) * np.cos(longitude), np.cos(latitude) * np.sin(longitude), np.sin(latitude) + 0 * longitude], -1
    )
    return loft(surface, unit * np.array(radii) + np.array(center))


def ring(surface: Surface, center: Vector, radius: float, thickness: float, sides: int = 14) -> Mesh:
    """Return a torus around an axis through `center` parallel to x."""
    angle = np.arange(sides) * 2 * np.pi / sides
    section = np.arange(4) * np.pi / 2
    a, s = np.meshgrid(angle, section, indexing="ij")
    out = radius + thickness * np.cos(s)
    vertices = np.stack([thickness * np.sin(s), out * np.cos(a), out * np.sin(a)], -1).reshape(-1, 3) + np.array(center)
    i, j = np.meshgrid(np.arange(sides), np.arange(4), indexing="ij")
    corner = [(i, j), (i + 1, j), (i + 1, j + 1), (i, j + 1)]
    a0, b0, c0, d0 = (((p % sides) * 4 + q % 4).ravel() for p, q in corner)
    return triangles(surface, vertices, np.concatenate([np.stack([a0, b0, c0], -1), np.stack([a0, c0, d0], -1)]), smooth=True)


def leaves(
    rng: np.random.Generator, centers: np.ndarray, normals: np.ndarray, light: np.ndarray, size: float, color: np.ndarray
) -> Mesh:
    """Return one small triangle of random shape and orientation at each of N points.

    Args:
        rng: Random number generator.
        centers: Centers of the triangles, N x 3, m.
        normals: Unit normals used for shading, N x 3, independent of the orientation of the triangles.
        light: Visible share of the sky, N, 0..1.
        size: Typical edge length, m.
        color: Linear RGB reflectance, 3 or N x 3.
    """
    count = len(centers)
    points = (centers[:, None] + rng.normal(0, size * 0.55, (count, 3, 3))).astype(np.float32)
    tint = color * rng.uniform(0.7, 1.3, (count, 1)) * rng.uniform(0.92, 1.08, (count, 3))
    texture = np.zeros((count, 3, 3), np.float32)
    texture[..., 0] = light[:, None]
    return Mesh(
        points,
        np.repeat(normals[:, None].astype(np.float32), 3, axis=1),
        texture,
        tint.astype(np.float32),
        np.full(count, int(Material.LEAVES), np.uint8),
        np.full(count, LABEL["vegetation"], np.uint8),
    )
