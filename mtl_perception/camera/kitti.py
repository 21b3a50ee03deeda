"""Poses of the sensors on KITTI's car, from the calibration files of a recording date."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mtl_perception.camera.calibration import parse_rows, read_text
from mtl_perception.camera.transforms import OPTICAL_IN_LINK, StaticTransform, optical_transform, static_transform
from mtl_perception.errors import CameraError

CAMERAS_FILE, LIDAR_FILE, IMU_FILE = "calib_cam_to_cam.txt", "calib_velo_to_cam.txt", "calib_imu_to_velo.txt"

LIDAR_POSITION = (0.76, 0.0, 1.73)
"""Position of the Velodyne in base_link, m: the point of the road below the middle of the rear axle (sensor setup drawing,
cvlibs.net/datasets/kitti/setup.php: 0.76 m ahead of the axle, 1.73 m above the road). The car is taken to be level."""


def kitti_transforms(date_folder: Path) -> list[StaticTransform]:
    """Return the tree base_link, velo_link, imu_link, camera_0X_link, camera_0X_optical_frame.

    The cameras are those of the rectified images. Without IMU_FILE there is no imu_link.

    Args:
        date_folder: Folder with the calibration files.

    Raises:
        CameraError: CAMERAS_FILE or LIDAR_FILE is missing, or a file is invalid.
    """
    rectified = np.eye(4)
    rectified[:3, :3] = read_matrix(date_folder / CAMERAS_FILE, "R_rect_00", (3, 3))
    in_lidar = np.linalg.inv(rectified @ read_pose(date_folder / LIDAR_FILE))
    transforms = [static_transform("base_link", "velo_link", LIDAR_POSITION)]
    if (date_folder / IMU_FILE).is_file():
        pose = read_pose(date_folder / IMU_FILE)
        transforms.append(static_transform("velo_link", "imu_link", pose[:3, 3], pose[:3, :3]))
    for number in ("00", "01", "02", "03"):
        projection = read_matrix(date_folder / CAMERAS_FILE, f"P_rect_{number}", (3, 4))
        # All rectified cameras have the axes of camera 00; the last column of P holds the baseline.
        try:
            center = -np.linalg.solve(projection[:, :3], projection[:, 3])
        except np.linalg.LinAlgError:
            raise CameraError(f"calibration file {date_folder / CAMERAS_FILE}: P_rect_{number} is singular") from None
        position = in_lidar[:3, :3] @ center + in_lidar[:3, 3]
        link = f"camera_{number}_link"
        transforms.append(static_transform("velo_link", link, position, in_lidar[:3, :3] @ OPTICAL_IN_LINK.T))
        transforms.append(optical_transform(link, f"camera_{number}_optical_frame"))
    return transforms


def read_pose(path: Path) -> np.ndarray:
    """Read R and T of a file as a 4 x 4 matrix.

    Raises:
        CameraError: See `read_matrix`.
    """
    pose = np.eye(4)
    pose[:3, :3] = read_matrix(path, "R", (3, 3))
    pose[:3, 3] = read_matrix(path, "T", (3,))
    return pose


def read_matrix(path: Path, key: str, shape: tuple[int, ...]) -> np.ndarray:
    """Read the numbers of a line `key: values` as float64 of a shape.

    Raises:
        CameraError: The file cannot be read, or the key is missing or has another number of values.
    """
    text = parse_rows(read_text(path)).get(key)
    if text is None:
        raise CameraError(f"calibration file {path}: {key} is missing")
    try:
        return np.array(text.split(), np.float64).reshape(shape)
    except ValueError:
        raise CameraError(f"calibration file {path}: {key} does not have {int(np.prod(shape))} numbers") from None
