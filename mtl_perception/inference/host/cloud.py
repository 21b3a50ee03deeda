"""Organized point clouds on the CPU."""

from __future__ import annotations

import cv2
import numpy as np

from mtl_perception.camera.model import CameraModel
from mtl_perception.camera.projection import CLOUD_FLOATS
from mtl_perception.inference.host.workspace import Workspace
from mtl_perception.types import CLOUD_DTYPE

CACHED_CAMERAS = 32
CACHED_FLOATS = 2**27
"""Size of the rays that are kept: those of two 8K cameras, 512 MiB."""
PART_PIXELS = 2**15
"""Points that are computed at a time: intermediate results stay in the cache."""


class CloudPacker:
    """Write clouds into one reused buffer, and keep the rays of the cameras of the last frames.

    Points are those of `camera.projection`. NumPy and OpenCV take a third of the time of PyTorch, whose operators also wait for
    its threads: on cores that are busy with other processes, milliseconds each.
    """

    def __init__(self) -> None:
        self._work = Workspace()
        self._rays: dict[tuple[CameraModel, int], np.ndarray] = {}

    def pack(
        self,
        camera: CameraModel,
        stride: int,
        depth: np.ndarray,
        image: np.ndarray,
        labels: np.ndarray,
        edges: np.ndarray | None = None,
    ) -> np.ndarray:
        """Return the cloud of every `stride`-th row and column, valid until the next call.

        Args:
            camera: Camera model of the outputs' size, H x W.
            stride: Rows and columns per point.
            depth: H x W float32, meters along Z.
            image: H x W x 3 uint8, RGB.
            labels: H x W uint8.
            edges: h x w bool, points at depth discontinuities, which get no coordinates; None: there are none.

        Returns:
            h x w of CLOUD_DTYPE.
        """
        rays = self._rays_of(camera, stride)
        points = self._work.get("points", (*rays.shape[:2], CLOUD_FLOATS), np.float32)
        depth, image, labels = (plane[::stride, ::stride] for plane in (depth, image, labels))
        pack_cloud(depth, rays, image, labels, points, edges)
        return points.view(CLOUD_DTYPE)[..., 0]

    def release(self) -> None:
        """Free the rays."""
        self._rays.clear()

    def _rays_of(self, camera: CameraModel, stride: int) -> np.ndarray:
        rays = self._rays.pop((camera, stride), None)
        if rays is None:
            floats = 2 * camera.width * camera.height // stride**2
            while self._rays and (
                len(self._rays) >= CACHED_CAMERAS or sum(kept.size for kept in self._rays.values()) + floats > CACHED_FLOATS
            ):
                self._rays.pop(next(iter(self._rays)))
            rays = camera.rays(stride)
        # Reinserted last, so that the least recently used camera comes first.
        self._rays[camera, stride] = rays
        return rays


def pack_cloud(
    depth: np.ndarray, rays: np.ndarray, image: np.ndarray, labels: np.ndarray, out: np.ndarray, edges: np.ndarray | None = None
) -> None:
    """Write an organized cloud in the memory layout of the PointCloud2; see `camera.projection.pack_cloud`.

    Args:
        depth: H x W float32, meters.
        rays: H x W x 2 float32.
        image: H x W x 3 uint8, RGB.
        labels: H x W uint8.
        out: H x W x 5 float32, contiguous.
        edges: H x W bool; None: there are none.
    """
    bits = out.view(np.int32)
    rows = max(PART_PIXELS // depth.shape[1], 1)
    for first in range(0, len(depth), rows):
        part = slice(first, first + rows)
        valid = np.isfinite(depth[part]) & np.isfinite(rays[part, :, 0])
        if edges is not None:
            valid &= ~edges[part]
        z = np.where(valid, depth[part], np.float32(np.nan))
        np.multiply(rays[part, :, 0], z, out=out[part, :, 0])
        np.multiply(rays[part, :, 1], z, out=out[part, :, 1])
        out[part, :, 2] = z
        # The bytes B, G, R, 255 are 0xFFRRGGBB.
        bgra = cv2.cvtColor(np.ascontiguousarray(image[part]), cv2.COLOR_RGB2BGRA).view(np.int32)[..., 0]
        np.bitwise_and(bgra, 0x00FFFFFF, out=bits[part, :, 3])
        bits[part, :, 4] = labels[part]
