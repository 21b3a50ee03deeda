"""Several cameras with one network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs rclpy")
from sensor_msgs.msg import Image, PointCloud2
from support.images import noise_image
from support.node_fixtures import node_and_client
from support.ros_client import Camera, Client
from support.ros_messages import camera_info, cloud_of, image, labels_of, values_of

from mtl_perception import CameraModel, Frame, Pipeline

NAMES = ("front", "left", "right")
SIZES = {"front": (48, 64), "left": (48, 64), "right": (40, 72)}
IMAGES = {name: noise_image(*SIZES[name], seed=i) for i, name in enumerate(NAMES)}
FOCAL_LENGTHS = {"front": 60.0, "left": 70.0, "right": 80.0}


def connected(client: Client, name: str, size: tuple[int, int] | None = None) -> Camera:
    outputs = {f"{name}/segmentation/labels": Image, f"{name}/points": PointCloud2}
    camera = Camera(client, f"/{name}/image", f"/{name}/camera_info", outputs=outputs, name=name)
    height, width = size or SIZES[name]
    camera.publish_info(camera_info(width, height, fx=FOCAL_LENGTHS[name]))
    return camera


node, client = node_and_client("-p", f"cameras:=[{','.join(NAMES)}]")


@pytest.fixture(scope="module")
def cameras(client: Client):
    # Before the first camera is published.
    assert "remap left/image to the camera's topic" in client.wait_status("left: frames", lambda s: s.message).message
    cameras = {name: connected(client, name) for name in NAMES}
    for name, camera in cameras.items():
        camera.connect(image(IMAGES[name]))
    yield cameras
    for camera in cameras.values():
        camera.close()


def test_each_camera_gets_its_own_outputs_under_its_own_header(cameras: dict[str, Camera], weights_file: Path) -> None:
    pipeline = Pipeline(weights=str(weights_file), device="cpu", warm_up=False)
    # All at once, so that they are processed as a batch.
    stamps = {name: camera.publish(image(IMAGES[name]), f"{name}_optical") for name, camera in cameras.items()}
    for name, camera in cameras.items():
        found = camera.answers(stamps[name])
        height, width = SIZES[name]
        model = CameraModel(width, height, FOCAL_LENGTHS[name], 62.0, width / 2 - 1.25, height / 2 + 0.75)
        expected = pipeline(Frame(IMAGES[name], model))
        np.testing.assert_array_equal(labels_of(found[f"{name}/segmentation/labels"]), expected.labels)
        assert cloud_of(found[f"{name}/points"]).tobytes() == expected.cloud.tobytes()
        assert {message.header.frame_id for message in found.values()} == {f"{name}_optical"}


def test_each_camera_has_its_diagnostics(cameras: dict[str, Camera], client: Client) -> None:
    parts = {f"{name}: {part}" for name in NAMES for part in ("frames", "stream", "camera")}
    client.wait_status("network", lambda status: True)
    assert set(client.statuses) == parts | {"network"}
    for name in NAMES:
        values = values_of(client.status(f"{name}: camera"))
        assert (values["image topic"], values["camera_info topic"]) == (f"/{name}/image", f"/{name}/camera_info")
        assert values["image size"] == f"{SIZES[name][1]}x{SIZES[name][0]}"


def test_malformed_image_of_one_camera_does_not_affect_the_others(cameras: dict[str, Camera], client: Client) -> None:
    before = {name: client.counts(f"{name}: frames") for name in NAMES}
    for camera in cameras.values():
        camera.wait_until_idle()
    stamps = {}
    for name, camera in cameras.items():
        stamps[name] = camera.publish(image(IMAGES[name], "hyperspectral8" if name == "left" else "rgb8"))
    for name in ("front", "right"):
        cameras[name].answers(stamps[name])
    status = client.wait_status("left: frames", lambda s: "rejected: encoding" in values_of(s))
    assert status.level == status.WARN
    assert "hyperspectral8" in status.message
    for name in ("front", "right"):
        assert client.counts(f"{name}: frames")["rejected"] == before[name]["rejected"]
        assert client.status(f"{name}: frames").message == "processing"
    cameras["left"].exchange(image(IMAGES["left"]))


def test_flood_of_one_camera_does_not_starve_another(cameras: dict[str, Camera], client: Client) -> None:
    flood = image(noise_image(480, 640))
    before = {name: client.counts(f"{name}: frames") for name in NAMES}
    stamps = []
    for turn in range(60):
        cameras["left"].publish(flood)
        # Every image of the slow camera should be processed.
        if turn % 20 == 0:
            stamps.append(cameras["front"].publish(image(IMAGES["front"])))
        client.spin_for(0.02)
        if turn % 20 == 19:
            cameras["front"].answers(stamps[-1])
    cameras["left"].wait_until_idle()
    after = {name: client.counts(f"{name}: frames") for name in NAMES}
    assert all(stamp in cameras["front"].received["front/segmentation/labels"] for stamp in stamps)
    assert after["left"]["replaced"] > before["left"]["replaced"]
    assert after["front"]["replaced"] == before["front"]["replaced"]
    assert after["right"] == before["right"]
