"""Cameras of the synthetic images."""

from __future__ import annotations

import numpy as np

from mtl_perception.camera.model import CameraModel
from mtl_perception.network.description import KITTI_CAMERA

FRAME_ID = "camera_optical_frame"


def kitti_camera(width: int, height: int) -> CameraModel:
    """Return KITTI's camera for an image of this size, with the horizon slightly above the middle."""
    focal = _kitti_focal(width)
    return CameraModel(width, height, focal, focal, (width - 1) / 2, (height - 1) * 0.46)


def random_camera(rng: np.random.Generator, width: int, height: int) -> CameraModel:
    """Return a camera whose intrinsics vary around KITTI's: focal length by up to 40 %, principal point by up to 6 %."""
    focal = _kitti_focal(width) * float(np.clip(np.exp(rng.normal(0, 0.17)), 0.6, 1.4))
    aspect = float(rng.uniform(0.99, 1.01))
    cx = (width - 1) * (0.5 + rng.uniform(-0.03, 0.03))
    cy = (height - 1) * (0.47 + rng.uniform(-0.06, 0.06))
    return CameraModel(width, height, focal, focal * aspect, float(cx), float(cy))


def _kitti_focal(width: int) -> float:
    return KITTI_CAMERA["fx"] * width / KITTI_CAMERA["width"]
