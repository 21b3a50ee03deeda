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


def random_camera(rng: np.random.Generator, width: int, height: int, window: float = 1.0) -> CameraModel:
    """Return a camera whose intrinsics vary around KITTI's: focal length by up to 40 %, principal point by up to 6 %.

    Args:
        rng: Random number generator.
        width: Image width, pixels.
        height: Image height, pixels.
        window: Share of the width of a whole image. Below 1 the image is a random window of a whole one of KITTI's shape, with
            its focal length: as sharp as a crop of the whole image, without the time to render the rest.
    """
    whole = width / window
    focal = _kitti_focal(whole) * float(np.clip(np.exp(rng.normal(0, 0.17)), 0.6, 1.4))
    aspect = float(rng.uniform(0.99, 1.01))
    tall = height if window == 1 else whole * KITTI_CAMERA["height"] / KITTI_CAMERA["width"]
    cx = (whole - 1) * (0.5 + float(rng.uniform(-0.03, 0.03)))
    cy = (tall - 1) * (0.47 + float(rng.uniform(-0.06, 0.06)))
    if window < 1:
        cx -= float(rng.uniform(0, whole - width))
        room = tall - height
        cy -= float(rng.uniform(min(room, 0), max(room, 0)))
    return CameraModel(width, height, focal, focal * aspect, cx, cy)


def _kitti_focal(width: float) -> float:
    return KITTI_CAMERA["fx"] * width / KITTI_CAMERA["width"]
