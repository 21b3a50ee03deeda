"""Static transforms of each kind of source."""

from __future__ import annotations

from pathlib import Path

import cv2
import pytest
from rosbags.typesys import get_types_from_msg
from support.bags import START_NS, Messages, bag_image, drive, write_bag

from mtl_perception.camera.transforms import StaticTransform
from mtl_perception.sources.open import open_source


def edges(transforms: list[StaticTransform]) -> set[tuple[str, str]]:
    return {(transform.parent, transform.child) for transform in transforms}


def write_images(folder: Path) -> Path:
    folder.mkdir(parents=True)
    cv2.imwrite(str(folder / "0000000000.png"), bag_image(0))
    return folder


def test_image_folder_knows_the_axes_of_its_camera_only(tmp_path: Path) -> None:
    found = open_source(write_images(tmp_path / "images")).static_transforms()
    assert edges(found) == {("camera_link", "camera_optical_frame")}


def test_kitti_drive_knows_the_car(tmp_path: Path) -> None:
    write_images(tmp_path / "2011_09_26_drive_0001_sync/image_03/data")
    drive_folder = tmp_path / "2011_09_26_drive_0001_sync"
    alone = {("camera_03_link", "camera_03_optical_frame")}
    assert edges(open_source(drive_folder).static_transforms()) == alone
    rows = "".join(f"P_rect_0{n}: 30 0 16 0 0 30 12 0 0 0 1 0\nS_rect_0{n}: 32 24\n" for n in range(4))
    (tmp_path / "calib_cam_to_cam.txt").write_text(f"R_rect_00: 1 0 0 0 1 0 0 0 1\n{rows}")
    assert edges(open_source(drive_folder).static_transforms()) == alone
    pose = "R: 0 -1 0 0 0 -1 1 0 0\nT: 0 -0.08 -0.27\n"
    (tmp_path / "calib_velo_to_cam.txt").write_text(pose)
    (tmp_path / "calib_imu_to_velo.txt").write_text(pose)
    car = {("base_link", "velo_link"), ("velo_link", "imu_link")}
    cameras = {edge for n in range(4) for edge in camera_edges(f"camera_0{n}")}
    source = open_source(drive_folder)
    assert edges(source.static_transforms()) == car | cameras
    assert next(iter(source)).frame_id in {child for _, child in cameras}


def camera_edges(name: str) -> set[tuple[str, str]]:
    return {("velo_link", f"{name}_link"), (f"{name}_link", f"{name}_optical_frame")}


def test_synthetic_camera_is_above_the_road() -> None:
    pytest.importorskip("open3d", reason="needs open3d")
    base, optical = open_source("synthetic:1").static_transforms()
    assert edges([base, optical]) == {("base_link", "camera_link"), ("camera_link", "camera_optical_frame")}
    assert base.translation == (0.0, 0.0, 1.65)


def static_message(make: Messages, parent: str, child: str, x: float):
    types = make.store.types
    transform = types["geometry_msgs/msg/TransformStamped"](
        make.header(START_NS, parent),
        child,
        types["geometry_msgs/msg/Transform"](
            types["geometry_msgs/msg/Vector3"](x, 2.0, 3.0), types["geometry_msgs/msg/Quaternion"](0.0, 0.0, 1.0, 0.0)
        ),
    )
    kind = "tf2_msgs/msg/TFMessage"
    if kind not in types:
        make.store.register(get_types_from_msg("geometry_msgs/TransformStamped[] transforms", kind))
    return types[kind]([transform])


@pytest.mark.parametrize("kind", ["ros1", "mcap", "db3"])
def test_bag_has_its_recorded_transforms(tmp_path: Path, kind: str) -> None:
    make = Messages(kind == "ros1")
    slash = "/" if kind == "ros1" else ""
    records = [
        ("/tf_static", static_message(make, f"{slash}base_link", f"{slash}front_optical", 1.0), START_NS),
        ("/tf_static", static_message(make, "base_link", "lidar", 5.0), START_NS + 1),
        *drive(kind),
        ("/tf_static", static_message(make, "base_link", "front_optical", 7.0), START_NS + 10**9),
    ]
    found = open_source(write_bag(tmp_path / "bag", kind, records)).static_transforms()
    turned = (0.0, 0.0, 1.0, 0.0)
    assert found == [
        StaticTransform("base_link", "front_optical", (7.0, 2.0, 3.0), turned),
        StaticTransform("base_link", "lidar", (5.0, 2.0, 3.0), turned),
    ]


def test_camera_frame_that_a_bag_does_not_connect_gets_its_link(tmp_path: Path) -> None:
    make = Messages()
    alone = open_source(write_bag(tmp_path / "alone", "mcap", drive("mcap")))
    assert edges(alone.static_transforms()) == {("front", "front_optical")}
    unrelated = [("/tf_static", static_message(make, "base_link", "lidar", 5.0), START_NS), *drive("mcap")]
    found = open_source(write_bag(tmp_path / "unrelated", "mcap", unrelated)).static_transforms()
    assert edges(found) == {("base_link", "lidar"), ("front", "front_optical")}
