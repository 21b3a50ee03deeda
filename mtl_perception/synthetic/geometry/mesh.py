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
class Surface:
    """What a solid is made of and counts as."""

    label: str
    material: Material
    color: np.ndarray


def triangles(
    surface: Surface, vertices: np.ndarray, faces: np.ndarray, texture: np.ndarray | None = None, smooth: bool = False
) -> Mesh:
    """A mesh of V x 3 vertices and F x 3 indices.

    Args:
        surface: What it is made of.
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
        np.broadcast_to(surface.color, (count, 3)).astype(np.float32),
        np.full(count, int(surface.material), np.uint8),
        np.full(count, LABEL[surface.label], np.uint8),
    )


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The cross product of N x 3 and N x 3; NumPy's own costs more than the rest of a small mesh."""
    product = np.empty_like(a)
    for i, j, k in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
        product[:, i] = a[:, j] * b[:, k] - a[:, k] * b[:, j]
    return product
