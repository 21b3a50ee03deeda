"""KITTI's rectified cameras by image size, which differs between the recording dates."""

from __future__ import annotations

from mtl_perception.camera.model import CameraModel

# Size -> (focal length, cx, cy) in pixels: P_rect_02 of each date's calib_cam_to_cam.txt (Geiger et al.). 1242x375 is
# 2011_09_26, 1224x370 is 2011_09_28, 1238x374 is 2011_09_29, 1226x370 is 2011_09_30, 1241x376 is 2011_10_03.
CAMERAS = {
    (1242, 375): (721.5377, 609.5593, 172.8540),
    (1224, 370): (707.0493, 604.0814, 180.5066),
    (1238, 374): (718.3351, 600.3891, 181.5122),
    (1226, 370): (707.0912, 601.8873, 183.1104),
    (1241, 376): (718.8560, 607.1928, 185.2157),
}


def camera_by_size(width: int, height: int) -> CameraModel | None:
    """Return KITTI's camera whose rectified images have this size; None for other sizes."""
    if (width, height) not in CAMERAS:
        return None
    focal, cx, cy = CAMERAS[width, height]
    return CameraModel(width, height, focal, focal, cx, cy)
