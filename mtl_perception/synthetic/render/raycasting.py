"""Ray casting: which triangle each pixel sees, how far it is, and the picture of it. Only this file uses Open3D."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np

from mtl_perception.camera.model import CameraModel
from mtl_perception.errors import SourceError
from mtl_perception.labels import STREET
from mtl_perception.synthetic.appearance.light import Light
from mtl_perception.synthetic.appearance.textures import Hits
from mtl_perception.synthetic.geometry.mesh import Material, Mesh, join

SKY = STREET.names.index("sky")
MISSED = -1
EDGE = 0.09
"""Pixels that differ this much from a neighbor (screen values) are drawn with three rays instead of one."""


PENUMBRA = 0.02
"""Suns whose directions spread more than this, radians, cast shadows so soft that their grain is smoothed."""


def load_open3d() -> ModuleType:
    """Open3D, imported at the first drive: it takes seconds and needs system libraries.

    Raises:
        SourceError: It is not installed, or a library it needs is not.
    """
    try:
        import open3d
    except (ImportError, OSError) as error:
        raise SourceError(
            f"the synthetic drive needs open3d, which cannot be imported: {error}; install it with: "
            "pip install 'mtl_perception[synthetic]', and its libraries with: apt-get install libusb-1.0-0 libgl1 libgomp1"
        ) from error
    return open3d


class Tracer:
    """Casts rays at what stands still and what moves; the former's search tree is built once.

    Args:
        static: What stands still.
        threads: That cast rays; 0: as many as there are cores.
    """

    def __init__(self, static: Mesh, threads: int = 0) -> None:
        self.threads = threads
        self.open3d = load_open3d()
        self.static = static
        self._static_scene = self._scene(static)

    def at(self, moving: Sequence[Mesh]) -> Moment:
        """The scene with these moving things in their places."""
        meshes = [self.static, *([join(moving)] if moving else [])]
        scenes = [self._static_scene, *(self._scene(mesh) for mesh in meshes[1:])]
        return Moment(self.open3d, meshes, scenes, self.threads)

    def _scene(self, mesh: Mesh) -> Any:
        # One thread: the tree, and with it which of two touching triangles is met first, is the same at every run.
        scene = self.open3d.t.geometry.RaycastingScene(nthreads=1)
        indices = np.arange(3 * len(mesh), dtype=np.uint32).reshape(-1, 3)
        tensor = self.open3d.core.Tensor
        scene.add_triangles(tensor(np.ascontiguousarray(mesh.points.reshape(-1, 3))), tensor(indices))
        return scene


class Moment:
    """The scene at one time. Its triangles are numbered through: those that stand still, then those that move."""

    def __init__(self, open3d: ModuleType, meshes: Sequence[Mesh], scenes: Sequence[Any], threads: int) -> None:
        self._threads = threads
        self._tensor = open3d.core.Tensor
        self._meshes = meshes
        self._scenes = scenes
        self._offsets = (0, len(meshes[0]))[: len(meshes)]

    def of(self, triangles: np.ndarray, attribute: str) -> np.ndarray:
        """An attribute of Mesh for the triangles of these numbers."""
        first, *others = (getattr(mesh, attribute) for mesh in self._meshes)
        values: np.ndarray = first[np.minimum(triangles, len(first) - 1)]
        for other in others:
            moves = np.flatnonzero(triangles >= len(first))
            values[moves] = other[triangles[moves] - len(first)]
        return values

    def cast(self, origin: np.ndarray, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What N rays meet first.

        Args:
            origin: 3, meters.
            directions: N x 3; distances count in their lengths.

        Returns:
            N float32 distances (inf: nothing met), N int64 numbers of triangles (MISSED), N x 2 float32 barycentric weights
            of their second and third corners.
        """
        rays = np.empty((len(directions), 6), np.float32)
        rays[:, :3], rays[:, 3:] = origin, directions
        tensor = self._tensor(rays)
        distance = np.full(len(rays), np.inf, np.float32)
        triangle = np.full(len(rays), MISSED, np.int64)
        weights = np.zeros((len(rays), 2), np.float32)
        for scene, offset in zip(self._scenes, self._offsets, strict=True):
            answer = scene.cast_rays(tensor, nthreads=self._threads)
            met = answer["t_hit"].numpy()
            nearer = met < distance
            distance[nearer] = met[nearer]
            triangle[nearer] = answer["primitive_ids"].numpy()[nearer].astype(np.int64) + offset
            weights[nearer] = answer["primitive_uvs"].numpy()[nearer]
        return distance, triangle, weights

    def sunlit(self, hits: Hits, light: Light, rng: np.random.Generator) -> np.ndarray:
        """N float32: 1 where nothing hides the sun; penumbras come out as grain."""
        lit = np.zeros(len(hits.points), np.float32)
        leafy = hits.material == Material.LEAVES
        open_ = np.flatnonzero(leafy | (hits.normals @ light.sun > 0))
        rays = np.empty((len(open_), 6), np.float32)
        clearance = np.where(leafy[open_], np.float32(0.2), np.float32(0.02))[:, None]
        rays[:, :3] = hits.points[open_] + clearance * np.where(leafy[open_, None], light.sun, hits.normals[open_])
        rays[:, 3:] = light.sun + rng.standard_normal((len(open_), 3), np.float32) * np.float32(light.weather.softness)
        hidden = np.zeros(len(open_), bool)
        for scene in self._scenes:
            hidden |= scene.test_occlusions(self._tensor(rays), nthreads=self._threads).numpy()
        lit[open_] = ~hidden
        return lit


def axes(heading: float, pitch: float = 0.0, roll: float = 0.0) -> np.ndarray:
    """World directions of an optical frame's x (right), y (down) and z (forward): the rows of a 3 x 3 float64 rotation.

    Args:
        heading: Radians to the left of the world's y axis.
        pitch: Radians upwards.
        roll: Radians clockwise as the camera sees it, so that the horizon turns anticlockwise.
    """
    cos, sin = np.cos(heading), np.sin(heading)
    forward = np.array([-sin * np.cos(pitch), cos * np.cos(pitch), np.sin(pitch)])
    right = np.array([cos, sin, 0.0])
    down = np.cross(forward, right)
    return np.array([right * np.cos(roll) + down * np.sin(roll), down * np.cos(roll) - right * np.sin(roll), forward])


def render(
    moment: Moment,
    light: Light,
    camera: CameraModel,
    position: np.ndarray,
    heading: float,
    rng: np.random.Generator,
    tilt: tuple[float, float] = (0.0, 0.0),
    grain: float = 1.0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Picture H x W x 3 uint8 RGB, labels H x W uint8, depth H x W float32 (meters along the optical axis, inf: sky).

    Labels and depth are those of the pixels' centers; the picture is smoothed where neighbors differ.

    Args:
        moment: The scene.
        light: Its light.
        camera: Intrinsics.
        position: 3, world meters.
        heading: As of `axes`.
        rng: Source of penumbras and grain.
        tilt: Pitch and roll, as of `axes`.
        grain: Strength of the picture's noise.
    """
    attitude = axes(heading, *tilt)
    shape = (camera.height, camera.width)
    v, u = (axis.ravel().astype(np.float64) for axis in np.mgrid[: camera.height, : camera.width])
    color, labels, distance = _look(moment, light, camera, position, attitude, u, v, rng, shape)
    again = np.flatnonzero(_edges(color.reshape(*shape, 3), labels.reshape(shape)))
    fine = color[again]
    for du, dv in ((-1 / 3, 1 / 3), (1 / 3, -1 / 3)):
        fine = fine + _look(moment, light, camera, position, attitude, u[again] + du, v[again] + dv, rng)[0]
    color[again] = fine / 3
    gray, tinted = (rng.standard_normal((*shape, channels), np.float32) for channels in (1, 3))
    picture = np.clip(color.reshape(*shape, 3) + (gray * 0.010 + tinted * 0.006) * np.float32(grain), 0, 1) * 255 + 0.5
    return picture.astype(np.uint8), labels.reshape(shape), distance.reshape(shape)


def _look(
    moment: Moment,
    light: Light,
    camera: CameraModel,
    position: np.ndarray,
    attitude: np.ndarray,
    u: np.ndarray,
    v: np.ndarray,
    rng: np.random.Generator,
    shape: tuple[int, int] | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Screen color N x 3, label N, and distance along the optical axis N, of points (u, v) of the picture.

    With `shape`, the points are those of a whole picture, and the grain of wide penumbras is smoothed over neighbors.
    """
    x, y = (u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy
    # Of length 1 along the optical axis, so that the distance met is the depth.
    rays = (np.stack([x, y, np.ones_like(x)], -1) @ attitude).astype(np.float32)
    distance, triangle, weights = moment.cast(position, rays)
    lengths = np.linalg.norm(rays, axis=1)
    units = rays / lengths[:, None]
    color = np.empty((len(rays), 3), np.float32)
    sky = triangle == MISSED
    color[sky] = light.sky(units[sky])
    hit = np.flatnonzero(~sky)
    chosen = triangle[hit]
    labels = np.full(len(rays), SKY, np.uint8)
    labels[hit] = moment.of(chosen, "label")
    share = np.stack([1 - weights[hit].sum(axis=1), weights[hit, 0], weights[hit, 1]], -1)
    normals = np.einsum("nk,nkc->nc", share, moment.of(chosen, "normals"))
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), np.float32(1e-6))
    material = moment.of(chosen, "material")
    slant = np.sum(normals * units[hit], axis=1)
    turned = (slant > 0) & (material != Material.LEAVES)
    normals[turned] *= -1
    hits = Hits(
        position.astype(np.float32) + rays[hit] * distance[hit, None],
        units[hit],
        normals,
        np.einsum("nk,nkc->nc", share, moment.of(chosen, "texture")),
        moment.of(chosen, "color"),
        material,
        distance[hit],
        distance[hit] * lengths[hit] / np.float32(camera.fx) / np.maximum(np.abs(slant), np.float32(0.06)),
    )
    lit = moment.sunlit(hits, light, rng)
    if light.weather.softness > PENUMBRA:
        # Of a few rays only, the mean of all: there is little light in them, and much grain.
        lit = _smooth(lit, hit, distance, shape) if shape is not None else 0.5 * lit + np.float32(0.5 * lit.mean())
    color[hit] = light.shade(hits, lit)
    return light.develop(color), labels, distance


def _smooth(lit: np.ndarray, hit: np.ndarray, distance: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The mean over neighbors at about the same distance."""
    near = np.zeros(shape, np.float32)
    values = np.zeros(shape, np.float32)
    near.flat[hit], values.flat[hit] = 1 / distance[hit], lit
    sums, weights = np.zeros(shape, np.float32), np.full(shape, 1e-6, np.float32)
    for dv in (-2, -1, 0, 1, 2):
        for du in (-3, -2, -1, 0, 1, 2, 3):
            other = np.roll(near, (dv, du), (0, 1))
            # False in the sky, where nearness is 0.
            share = np.abs(other - near) < 0.1 * near
            sums += share * np.roll(values, (dv, du), (0, 1))
            weights += share
    return np.asarray((sums / weights).ravel()[hit])


def _edges(color: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """H x W bool: pixels unlike a neighbor. Within foliage, where all are, none: its grain is wanted."""
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
