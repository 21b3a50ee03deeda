"""Triangles with what a renderer needs of them, and the solids that the street is made of.

World and object axes: x right, y forward, z up, meters. Every solid stands at its object's origin, facing +y.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from enum import IntEnum

import numpy as np

from mtl_perception.labels import STREET
from mtl_perception.types import UNLABELED

Vector = Sequence[float] | np.ndarray
"""Three coordinates."""

LABEL = {**{name: i for i, name in enumerate(STREET.names)}, "void": UNLABELED}


class Material(IntEnum):
    """How a surface takes light; `appearance.textures` has one texture for each. In brackets: its texture coordinates."""

    PLAIN = 0
    """One color with a little grime."""
    ROAD = 1
    """Asphalt [meters across, meters along, 0 bare, a kind of appearance.patterns.MARKS]."""
    PAVING = 2
    """Slabs [meters across, meters along, -]."""
    GRASS = 3
    """Lawn."""
    FACADE = 4
    """Wall with windows [window columns, stories, style 0..1]."""
    ROOF = 5
    """Tiles [meters along the eaves, meters up the slope, -]."""
    LEAVES = 6
    """Foliage [share of the sky that it sees, -, -]; keeps the normals it is given."""
    BARK = 7
    """Bark and wood."""
    PAINT = 8
    """Glossy paint."""
    BODY = 9
    """A car's body: glossy, with seams and wheel arches [meters across, share of half the length, meters up]."""
    GLASS = 10
    """Panes that mirror the sky."""
    SIGN = 11
    """A traffic sign's face [-1..1 across, -1..1 up, kind 0..4]."""
    GLOW = 12
    """A lamp that is lit: its color whatever the light."""
    BRICK = 13
    """Bare brickwork."""
    OFFICE = 14
    """Glass front: bands of panes between sills and mullions [window columns, stories, style 0..1]."""


@dataclass(frozen=True)
class Mesh:
    """T triangles that share no vertices.

    Attributes:
        points: T x 3 x 3 float32 corners.
        normals: T x 3 x 3 float32 unit normals for lighting, at the corners.
        texture: T x 3 x 3 float32 texture coordinates at the corners; their meaning is the material's.
        color: T x 3 float32 linear RGB reflectance, 0..1.
        material: T uint8, a Material.
        label: T uint8, an id of labels.STREET; 255 for what has no class there.
    """

    points: np.ndarray
    normals: np.ndarray
    texture: np.ndarray
    color: np.ndarray
    material: np.ndarray
    label: np.ndarray

    def __len__(self) -> int:
        return len(self.points)

    def scaled(self, size: float, tint: np.ndarray | float = 1.0) -> Mesh:
        """Larger or smaller about the origin, its color times `tint`."""
        return replace(self, points=self.points * np.float32(size), color=self.color * np.asarray(tint, np.float32))

    def placed(self, x: float, y: float, z: float = 0.0, heading: float = 0.0) -> Mesh:
        """Turned by `heading` radians about z (positive: to the left), then moved."""
        cos, sin = np.cos(heading), np.sin(heading)
        turn = np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]], np.float32)
        # Rows of one long matrix: a product for each triangle would be several times slower.
        points, normals = ((corners.reshape(-1, 3) @ turn).reshape(corners.shape) for corners in (self.points, self.normals))
        points += np.array([x, y, z], np.float32)
        return replace(self, points=points, normals=normals)


def join(meshes: Sequence[Mesh]) -> Mesh:
    """All triangles in one mesh, in order."""
    return Mesh(**{f.name: np.concatenate([getattr(mesh, f.name) for mesh in meshes]) for f in fields(Mesh)})


def srgb(red: float, green: float, blue: float) -> np.ndarray:
    """Linear reflectance of an 8-bit color as seen on a screen."""
    return np.asarray((np.array([red, green, blue], np.float32) / np.float32(255)) ** np.float32(2.2))


@dataclass(frozen=True)
class Stuff:
    """What a solid is made of and counts as."""

    label: str
    material: Material
    color: np.ndarray


def triangles(
    stuff: Stuff, vertices: np.ndarray, faces: np.ndarray, texture: np.ndarray | None = None, smooth: bool = False
) -> Mesh:
    """A mesh of V x 3 vertices and F x 3 indices.

    Args:
        stuff: What it is made of.
        vertices: V x 3 meters.
        faces: F x 3 indices of vertices.
        texture: V x 3, or F x 3 x 3 by corner; the vertices themselves when there is none.
        smooth: Light it as round: normals are averaged over the faces that meet in a vertex.
    """
    vertices = np.asarray(vertices, np.float32)
    points = vertices[faces]
    # Twice the area long, so that averaging weighs large faces more.
    flat = _cross(points[:, 1] - points[:, 0], points[:, 2] - points[:, 0])
    if smooth:
        total = np.zeros_like(vertices)
        for corner in range(3):
            np.add.at(total, faces[:, corner], flat)
        normals = total[faces]
    else:
        normals = np.repeat(flat[:, None], 3, axis=1)
    normals = normals / np.maximum(np.linalg.norm(normals, axis=-1, keepdims=True), np.float32(1e-12))
    if texture is None:
        texture = vertices
    texture = np.asarray(texture, np.float32)
    count = len(faces)
    return Mesh(
        points,
        normals.astype(np.float32),
        texture if texture.ndim == 3 else texture[faces],
        np.broadcast_to(stuff.color, (count, 3)).astype(np.float32),
        np.full(count, int(stuff.material), np.uint8),
        np.full(count, LABEL[stuff.label], np.uint8),
    )


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The cross product of N x 3 and N x 3; NumPy's own costs more than the rest of a small mesh."""
    product = np.empty_like(a)
    for i, j, k in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
        product[:, i] = a[:, j] * b[:, k] - a[:, k] * b[:, j]
    return product


def quad(stuff: Stuff, corners: Sequence[Vector] | np.ndarray, texture: Sequence[Vector] | None = None) -> Mesh:
    """Two triangles over four corners, given in turn around."""
    return triangles(stuff, np.array(corners), np.array([[0, 1, 2], [0, 2, 3]]), None if texture is None else np.array(texture))


def box(stuff: Stuff, low: Vector, high: Vector, taper: float = 1.0) -> Mesh:
    """Axis-aligned between two corners; its top is `taper` times as wide and long as its bottom."""
    (x0, y0, z0), (x1, y1, z1) = low, high
    cx, cy = (x0 + x1) / 2, (y0 + y1) / 2
    base = [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]
    top = [(cx + (x - cx) * taper, cy + (y - cy) * taper) for x, y in base]
    rings = [[(x, y, z0) for x, y in base], [(x, y, z1) for x, y in top]]
    return loft(stuff, np.array(rings), smooth=False)


def loft(stuff: Stuff, rings: np.ndarray, smooth: bool = True) -> Mesh:
    """A skin over R closed rings of N points each (R x N x 3), closed at both ends."""
    count, sides = rings.shape[:2]
    ring, side = np.meshgrid(np.arange(count - 1), np.arange(sides), indexing="ij")
    a, b = ring * sides + side, ring * sides + (side + 1) % sides
    c, d = a + sides, b + sides
    faces = [np.stack([a, b, d], -1).reshape(-1, 3), np.stack([a, d, c], -1).reshape(-1, 3)]
    fan = np.arange(1, sides - 1)
    end = (count - 1) * sides
    faces.append(np.stack([0 * fan, fan + 1, fan], -1))
    faces.append(np.stack([0 * fan + end, fan + end, fan + 1 + end], -1))
    return triangles(stuff, rings.reshape(-1, 3), np.concatenate(faces), smooth=smooth)


def tube(stuff: Stuff, start: Vector, end: Vector, radius: float, end_radius: float | None = None, sides: int = 8) -> Mesh:
    """A round bar from `start` to `end` with rounded ends; tapering when `end_radius` differs."""
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
    return loft(stuff, np.array(rings))


def ball(stuff: Stuff, center: Vector, radii: Vector, sides: int = 10) -> Mesh:
    """An ellipsoid with its axes along x, y and z."""
    latitude = np.linspace(-np.pi / 2 * 0.97, np.pi / 2 * 0.97, 6)[:, None]
    longitude = np.arange(sides)[None] * 2 * np.pi / sides
    unit = np.stack(
        [np.cos(latitude) * np.cos(longitude), np.cos(latitude) * np.sin(longitude), np.sin(latitude) + 0 * longitude], -1
    )
    return loft(stuff, unit * np.array(radii) + np.array(center))


def ring(stuff: Stuff, center: Vector, radius: float, thickness: float, sides: int = 14) -> Mesh:
    """A tire-like ring about the x axis."""
    angle = np.arange(sides) * 2 * np.pi / sides
    section = np.arange(4) * np.pi / 2
    a, s = np.meshgrid(angle, section, indexing="ij")
    out = radius + thickness * np.cos(s)
    vertices = np.stack([thickness * np.sin(s), out * np.cos(a), out * np.sin(a)], -1).reshape(-1, 3) + np.array(center)
    i, j = np.meshgrid(np.arange(sides), np.arange(4), indexing="ij")
    corner = [(i, j), (i + 1, j), (i + 1, j + 1), (i, j + 1)]
    a0, b0, c0, d0 = (((p % sides) * 4 + q % 4).ravel() for p, q in corner)
    return triangles(stuff, vertices, np.concatenate([np.stack([a0, b0, c0], -1), np.stack([a0, c0, d0], -1)]), smooth=True)


def leaves(
    rng: np.random.Generator, centers: np.ndarray, normals: np.ndarray, light: np.ndarray, size: float, color: np.ndarray
) -> Mesh:
    """One small triangle, turned anyhow, for each of N clumps of leaves.

    Args:
        rng: Source of their shapes.
        centers: N x 3 meters.
        normals: N x 3 unit; they light as if they lay on that surface.
        light: N, the share of the sky that each sees, 0..1.
        size: Typical edge, meters.
        color: 3, or N x 3 linear RGB.
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
