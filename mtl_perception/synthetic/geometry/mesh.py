"""Triangle meshes with normals, texture coordinates, materials and labels.

Axes of world and objects: x right, y forward, z up, in meters. Objects stand at the origin and face +y.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from enum import IntEnum

import numpy as np

from mtl_perception.labels import STREET
from mtl_perception.types import UNLABELED

Vector = Sequence[float] | np.ndarray
"""Coordinates x, y, z."""

LABEL = {**{name: i for i, name in enumerate(STREET.names)}, "void": UNLABELED}


class Material(IntEnum):
    """Material of a surface, with its texture coordinates in brackets; `appearance.textures` defines the textures."""

    PLAIN = 0
    """Matte color with slight dirt."""
    ROAD = 1
    """Asphalt [meters across, meters along, index into appearance.patterns.MARKS]."""
    PAVING = 2
    """Paving slabs [meters across, meters along, -]."""
    GRASS = 3
    """Lawn."""
    FACADE = 4
    """Wall with windows [window column, story, style 0..1]."""
    ROOF = 5
    """Roof tiles [meters along the eaves, meters up the slope, -]."""
    LEAVES = 6
    """Foliage [visible share of the sky, -, -]; its normals are not turned to the camera."""
    BARK = 7
    """Bark and wood."""
    PAINT = 8
    """Glossy paint with dust near the ground."""
    BODY = 9
    """Car body: glossy, with seams and wheel arches [meters across, share of half the length, meters up]."""
    GLASS = 10
    """Glass that mirrors the sky."""
    SIGN = 11
    """Face of a traffic sign [-1..1 across, -1..1 up, kind 0..4]."""
    GLOW = 12
    """Light source, whose color does not depend on the illumination."""
    BRICK = 13
    """Bricks with mortar joints."""
    OFFICE = 14
    """Glass facade: rows of panes between sills and mullions [window column, story, style 0..1]."""
    CABIN = 15
    """Cabin of a car: glossy, with windows [share of the half width, share of half the length, share of the height]."""
    LIVERY = 16
    """Side of a truck, bus or tram: glossy, with stripes and lettering [x, y and z in meters]."""


@dataclass(frozen=True)
class Mesh:
    """T triangles without shared vertices.

    Attributes:
        points: T x 3 x 3 float32 corners, m.
        normals: T x 3 x 3 float32 unit normals at the corners, used for shading.
        texture: T x 3 x 3 float32 texture coordinates at the corners; see Material.
        color: T x 3 float32 linear RGB reflectance, 0..1.
        material: T uint8, values of Material.
        label: T uint8, class ids of labels.STREET; 255 for unlabeled.
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
        """Return the mesh scaled about the origin by `size`, with its color multiplied by `tint`."""
        return replace(self, points=self.points * np.float32(size), color=self.color * np.asarray(tint, np.float32))

    def placed(self, x: float, y: float, z: float = 0.0, heading: float = 0.0) -> Mesh:
        """Return the mesh rotated about z by `heading` radians (positive: to the left), then translated."""
        cos, sin = np.cos(heading), np.sin(heading)
        turn = np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]], np.float32)
        # One product of a long matrix is several times faster than one product for each triangle.
        points, normals = ((corners.reshape(-1, 3) @ turn).reshape(corners.shape) for corners in (self.points, self.normals))
        points += np.array([x, y, z], np.float32)
        return replace(self, points=points, normals=normals)


def join(meshes: Sequence[Mesh]) -> Mesh:
    """Concatenate meshes in order."""
    return Mesh(**{f.name: np.concatenate([getattr(mesh, f.name) for mesh in meshes]) for f in fields(Mesh)})


def srgb(red: float, green: float, blue: float) -> np.ndarray:
    """Convert an 8-bit sRGB color to linear RGB reflectance, 3 float32 in 0..1."""
    return np.asarray((np.array([red, green, blue], np.float32) / np.float32(255)) ** np.float32(2.2))


@dataclass(frozen=True)
class Surface:
    """Appearance and class of a surface.

    Attributes:
        label: Name of a class of labels.STREET, or "void" for unlabeled.
        material: Material.
        color: Linear RGB reflectance, 3, 0..1.
    """

    label: str
    material: Material
    color: np.ndarray


def triangles(
    surface: Surface, vertices: np.ndarray, faces: np.ndarray, texture: np.ndarray | None = None, smooth: bool = False
) -> Mesh:
    """Build a mesh from vertices and faces.

    Args:
        surface: Appearance and class.
        vertices: V x 3, m.
        faces: F x 3 indices of vertices.
        texture: Texture coordinates, V x 3 by vertex or F x 3 x 3 by corner; None for the coordinates of the vertices.
        smooth: Average the normals of the faces that share a vertex.
    """
    vertices = np.asarray(vertices, np.float32)
    points = vertices[faces]
    # The length is twice the area of the face, so that averages are weighted by area.
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
    """Return the cross product of N x 3 and N x 3; `np.cross` is slow for small meshes."""
    product = np.empty_like(a)
    for i, j, k in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
        product[:, i] = a[:, j] * b[:, k] - a[:, k] * b[:, j]
    return product
