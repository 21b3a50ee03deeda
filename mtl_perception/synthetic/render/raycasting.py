"""Ray casting with Open3D."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mtl_perception.errors import require
from mtl_perception.synthetic.appearance.light import Light
from mtl_perception.synthetic.appearance.textures import Hits
from mtl_perception.synthetic.geometry.mesh import Material, Mesh, join

MISSED = -1
"""Triangle number of a ray that hits nothing."""


def require_open3d() -> None:
    """Import Open3D, which takes seconds.

    Raises:
        DependencyError: Open3D or a system library that it loads is missing.
    """
    libraries = "libusb-1.0-0 libgl1 libgomp1"
    require("open3d", extra="synthetic", purpose="rendering synthetic streets", system_packages=libraries)


class RayCaster:
    """Casts rays at static and moving meshes; the search tree of the static mesh is built once.

    Args:
        static: Everything that does not move.
        threads: Threads that cast rays; 0 for one per core.
    """

    def __init__(self, static: Mesh, threads: int = 0) -> None:
        require_open3d()
        import open3d

        self.threads = threads
        self.static = static
        self._open3d: Any = open3d
        self._static_tree = self._tree(static)

    def scene(self, moving: Sequence[Mesh]) -> TracedScene:
        """Return the scene of the static mesh and these moving meshes."""
        meshes = [self.static, *([join(moving)] if moving else [])]
        trees = [self._static_tree, *(self._tree(mesh) for mesh in meshes[1:])]
        return TracedScene(meshes, trees, self._open3d.core.Tensor, self.threads)

    def _tree(self, mesh: Mesh) -> Any:
        # With one thread the tree is reproducible, and so is the choice between two triangles that touch.
        tree = self._open3d.t.geometry.RaycastingScene(nthreads=1)
        indices = np.arange(3 * len(mesh), dtype=np.uint32).reshape(-1, 3)
        tensor = self._open3d.core.Tensor
        tree.add_triangles(tensor(np.ascontiguousarray(mesh.points.reshape(-1, 3))), tensor(indices))
        return tree


class TracedScene:
    """Scene at one time; triangles are numbered from the static mesh on to the moving one.

    Args:
        meshes: Static mesh, and moving mesh if there is one.
        trees: Open3D's scene of each mesh.
        tensor: Open3D's tensor type.
        threads: Threads that cast rays; 0 for one per core.
    """

    def __init__(self, meshes: Sequence[Mesh], trees: Sequence[Any], tensor: Any, threads: int) -> None:
        self._meshes, self._trees = meshes, trees
        self._tensor, self._threads = tensor, threads
        self._offsets = (0, len(meshes[0]))[: len(meshes)]

    def attribute(self, name: str, triangles: np.ndarray) -> np.ndarray:
        """Return an attribute of Mesh for triangles, given by their numbers."""
        static, *others = (getattr(mesh, name) for mesh in self._meshes)
        values: np.ndarray = static[np.minimum(triangles, len(static) - 1)]
        for moving in others:
            moves = np.flatnonzero(triangles >= len(static))
            values[moves] = moving[triangles[moves] - len(static)]
        return values

    def cast(self, origin: np.ndarray, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the first hit of each ray.

        Args:
            origin: Start of all rays, 3, m.
            directions: N x 3, of any length.

        Returns:
            Distances, N float32, in lengths of the direction, Inf where nothing is hit; triangle numbers, N int64, or MISSED;
            barycentric weights of the second and third corner, N x 2 float32.
        """
        rays = np.empty((len(directions), 6), np.float32)
        rays[:, :3], rays[:, 3:] = origin, directions
        tensor = self._tensor(rays)
        distance = np.full(len(rays), np.inf, np.float32)
        triangle = np.full(len(rays), MISSED, np.int64)
        weights = np.zeros((len(rays), 2), np.float32)
        for tree, offset in zip(self._trees, self._offsets, strict=True):
            found = tree.cast_rays(tensor, nthreads=self._threads)
            hit = found["t_hit"].numpy()
            nearer = hit < distance
            distance[nearer] = hit[nearer]
            triangle[nearer] = found["primitive_ids"].numpy()[nearer].astype(np.int64) + offset
            weights[nearer] = found["primitive_uvs"].numpy()[nearer]
        return distance, triangle, weights

    def sunlit(self, hits: Hits, light: Light, rng: np.random.Generator) -> np.ndarray:
        """Return N float32: 1 where the sun shines, 0 in shadow. One random ray per point samples the sun's disc."""
        lit = np.zeros(len(hits.points), np.float32)
        leafy = hits.material == Material.LEAVES
        facing = np.flatnonzero(leafy | (hits.normals @ light.sun > 0))
        rays = np.empty((len(facing), 6), np.float32)
        clearance = np.where(leafy[facing], np.float32(0.2), np.float32(0.02))[:, None]
        rays[:, :3] = hits.points[facing] + clearance * np.where(leafy[facing, None], light.sun, hits.normals[facing])
        rays[:, 3:] = light.sun + rng.standard_normal((len(facing), 3), np.float32) * np.float32(light.weather.softness)
        hidden = np.zeros(len(facing), bool)
        for tree in self._trees:
            hidden |= tree.test_occlusions(self._tensor(rays), nthreads=self._threads).numpy()
        lit[facing] = ~hidden
        return lit
