"""Static transforms: rotations, optical frames, and the tree of KITTI's car."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mtl_perception.camera.calibration import load_calibration
from mtl_perception.camera.kitti import kitti_transforms
from mtl_perception.camera.transforms import StaticTransform, link_transforms, quaternion, static_transform
from mtl_perception.errors import CameraError

CAMERAS = """\
R_rect_00: 1 0 0 0 1 0 0 0 1
P_rect_00: 100 0 50 0 0 100 40 0 0 0 1 0
P_rect_01: 100 0 50 -54 0 100 40 0 0 0 1 0
P_rect_02: 100 0 50 6 0 100 40 0 0 0 1 0
P_rect_03: 100 0 50 -48 0 100 40 0 0 0 1 0
"""
LIDAR = "R: 0 -1 0 0 0 -1 1 0 0\nT: 0 -0.08 -0.27\n"
"""Camera 00 is 0.27 m ahead of the Velodyne and 0.08 m below it."""


def matrix(transform: StaticTransform) -> np.ndarray:
    """Return the 4 x 4 matrix from child to parent coordinates, by the textbook formula for quaternions."""
    x, y, z, w = transform.rotation
    pose = np.eye(4)
    pose[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    pose[:3, 3] = transform.translation
    return pose


def pose_in(root: str, frame: str, transforms: list[StaticTransform]) -> np.ndarray:
    """Return the pose of a frame in a frame above it."""
    parents = {transform.child: transform for transform in transforms}
    assert len(parents) == len(transforms), "a frame has one parent"
    pose = np.eye(4)
    while frame != root:
        pose = matrix(parents[frame]) @ pose
        frame = parents[frame].parent
    return pose


@pytest.mark.parametrize("seed", range(20))
def test_quaternion_is_that_of_the_rotation(seed: int) -> None:
    rotation, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    rotation *= np.linalg.det(rotation)
    transform = static_transform("a", "b", rotation=rotation)
    np.testing.assert_allclose(matrix(transform)[:3, :3], rotation, atol=1e-9)
    assert transform.rotation[3] >= 0


def test_quaternion_of_no_turn_and_of_half_a_turn() -> None:
    assert quaternion(np.eye(3)) == pytest.approx((0, 0, 0, 1))
    assert np.abs(quaternion(np.diag([1.0, -1.0, -1.0]))) == pytest.approx((1, 0, 0, 0))


def test_optical_frame_looks_along_x_of_its_link() -> None:
    (transform,) = link_transforms("camera_optical_frame")
    assert (transform.parent, transform.child, transform.translation) == ("camera_link", "camera_optical_frame", (0, 0, 0))
    assert transform.rotation == pytest.approx((-0.5, 0.5, -0.5, 0.5)), "roll -90 degrees, yaw -90 degrees"
    forward, right, down = (matrix(transform)[:3, :3] @ axis for axis in ([0, 0, 1], [1, 0, 0], [0, 1, 0]))
    assert np.rint([forward, right, down]).tolist() == [[1, 0, 0], [0, -1, 0], [0, 0, -1]]


@pytest.mark.parametrize(
    ("frame", "parent"),
    [
        ("camera_02_optical_frame", "camera_02_link"),
        ("camera_link_optical", "camera_link"),
        ("front_optical", "front"),
        ("zed_optical_center", "zed_center"),
        ("camera", None),
        ("_optical", None),
        ("_optical_frame", None),
        ("", None),
    ],
)
def test_parent_of_an_optical_frame_follows_from_its_name(frame: str, parent: str | None) -> None:
    assert [transform.parent for transform in link_transforms(frame)] == ([] if parent is None else [parent])


def write_calibration(folder: Path) -> None:
    (folder / "calib_cam_to_cam.txt").write_text(CAMERAS)
    (folder / "calib_velo_to_cam.txt").write_text(LIDAR)


def test_kitti_cameras_are_beside_each_other_at_their_height(tmp_path: Path) -> None:
    write_calibration(tmp_path)
    transforms = kitti_transforms(tmp_path)
    assert "imu_link" not in {transform.child for transform in transforms}
    for number, left in enumerate((0.0, -0.54, 0.06, -0.48)):
        optical = pose_in("base_link", f"camera_0{number}_optical_frame", transforms)
        np.testing.assert_allclose(optical[:3, 3], [0.76 + 0.27, left, 1.73 - 0.08], atol=1e-9)
        np.testing.assert_allclose(optical[:3, 2], [1, 0, 0], atol=1e-9)
        link = pose_in("base_link", f"camera_0{number}_link", transforms)
        np.testing.assert_allclose(link[:3, :3], np.eye(3), atol=1e-9)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("calib_velo_to_cam.txt", None, "calib_velo_to_cam.txt cannot be read"),
        ("calib_velo_to_cam.txt", "R: 1 2 3\nT: 0 0 0\n", "R does not have 9 numbers"),
        ("calib_cam_to_cam.txt", CAMERAS.replace("P_rect_03", "P_03"), "P_rect_03 is missing"),
        ("calib_cam_to_cam.txt", CAMERAS.replace("100", "0"), "P_rect_00 is singular"),
    ],
)
def test_invalid_kitti_calibration_is_refused(tmp_path: Path, file: str, text: str | None, message: str) -> None:
    write_calibration(tmp_path)
    if text is None:
        (tmp_path / file).unlink()
    else:
        (tmp_path / file).write_text(text)
    with pytest.raises(CameraError, match=message):
        kitti_transforms(tmp_path)


def test_kitti_tree_projects_lidar_points_as_the_calibration_files_do(shared_data: Path) -> None:
    """Against P_rect R_rect_00 T_velo_to_cam, and heights against those of KITTI's sensor setup."""
    date = shared_data / "kitti_raw/2011_09_26"
    transforms = kitti_transforms(date)
    text = "\n".join((date / name).read_text() for name in ("calib_velo_to_cam.txt", "calib_cam_to_cam.txt"))
    rows = {key: value.split() for key, _, value in (line.partition(":") for line in text.splitlines())}
    rectify, to_camera = np.eye(4), np.eye(4)
    rectify[:3, :3] = np.array(rows["R_rect_00"], float).reshape(3, 3)
    to_camera[:3] = np.c_[np.array(rows["R"], float).reshape(3, 3), np.array(rows["T"], float)]
    points = np.array([[5.0, 1, -1, 1], [20, -4, 0.5, 1], [60, 10, 2, 1]]).T
    for number in ("02", "03"):
        expected = np.array(rows[f"P_rect_{number}"], float).reshape(3, 4) @ rectify @ to_camera @ points
        camera = load_calibration(date / "calib_cam_to_cam.txt", camera=number).camera(rectified=True)
        local = np.linalg.inv(pose_in("velo_link", f"camera_{number}_optical_frame", transforms)) @ points
        found = camera.matrix @ local[:3]
        np.testing.assert_allclose(found[:2] / found[2], expected[:2] / expected[2], atol=0.02)
    assert pose_in("base_link", "camera_02_link", transforms)[2, 3] == pytest.approx(1.65, abs=0.03)
    assert pose_in("base_link", "imu_link", transforms)[:3, 3] == pytest.approx([-0.05, 0.32, 0.93], abs=0.01)
