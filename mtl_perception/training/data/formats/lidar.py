"""Projection of KITTI's LiDAR sweeps into rectified images."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mtl_perception.camera.kitti import CAMERAS_FILE, LIDAR_FILE, read_matrix, read_pose
from mtl_perception.errors import SourceError


def lidar_projection(date_folder: Path, camera: str) -> np.ndarray:
    """Return the projection from the LiDAR frame to a rectified camera: P_rect R_rect_00 T_velo_to_cam.

    Args:
        date_folder: Folder with calib_cam_to_cam.txt and calib_velo_to_cam.txt of the recording date.
        camera: "00" to "03".

    Returns:
        3 x 4 float64, from homogeneous LiDAR coordinates (m) to homogeneous pixels; the third row yields Z along the optical
        axis, m.

    Raises:
        CameraError: A file or a key is missing or invalid.
    """
    rectify = np.eye(4)
    projection = read_matrix(date_folder / CAMERAS_FILE, f"P_rect_{camera}", (3, 4))
    rectify[:3, :3] = read_matrix(date_folder / CAMERAS_FILE, "R_rect_00", (3, 3))
    return np.asarray(projection @ rectify @ read_pose(date_folder / LIDAR_FILE))


def read_sweep(path: Path) -> np.ndarray:
    """Read a sweep: N x 3 float64, m, in the LiDAR frame (x forward, y left, z up).

    Raises:
        SourceError: The file cannot be read, or is truncated.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SourceError(f"LiDAR sweep {path} cannot be read: {error.strerror}") from None
    if not data or len(data) % 16:
        raise SourceError(f"LiDAR sweep {path} has {len(data)} bytes, not a multiple of 16 (x, y, z, reflectance as float32)")
    return np.frombuffer(data, "<f4").reshape(-1, 4)[:, :3].astype(np.float64)


def project(points: np.ndarray, projection: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Render points as a depth image: each point falls on the nearest pixel, and the nearest point wins a pixel.

    Args:
        points: N x 3, m, in the LiDAR frame.
        projection: 3 x 4, see `lidar_projection`.
        shape: Height and width of the image.

    Returns:
        H x W float32, m; NaN where no point falls.
    """
    height, width = shape
    with np.errstate(divide="ignore", invalid="ignore"):
        u, v, z = projection[:, :3] @ points.T + projection[:, 3:]
        u, v = np.rint(u / z), np.rint(v / z)
    inside = (z > 0) & (u >= 0) & (u < width) & (v >= 0) & (v < height)
    u, v, z = u[inside].astype(np.intp), v[inside].astype(np.intp), z[inside]
    depth = np.full(shape, np.nan, np.float32)
    # The last assignment to a pixel wins, so the nearest point comes last.
    order = np.argsort(-z)
    depth[v[order], u[order]] = z[order]
    return depth
