"""The node in an environment without the packages of the extras."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="needs rclpy")
from support.images import noise_image
from support.node_process import Process
from support.ros_client import Camera, Client
from support.ros_messages import camera_info, cloud_of, image, labels_of
from support.small_install import small_install


def test_node_publishes_labels_and_points_without_optional_packages(tmp_path: Path, weights_file: Path) -> None:
    arguments = ["node", "--ros-args", "-p", f"weights:={weights_file}", "-p", "diagnostics_period:=0.1"]
    process = Process(arguments, tmp_path / "node.log", small_install(tmp_path), forked=False)
    client = Client()
    try:
        camera = Camera(client)
        camera.publish_info(camera_info(64, 48))
        outputs = camera.exchange(image(noise_image(48, 64)), "segmentation/labels", "points")
        assert labels_of(outputs["segmentation/labels"]).shape == (48, 64)
        assert cloud_of(outputs["points"]).shape == (48, 64)
    finally:
        client.close()
        assert process.stop() == 0
    assert "Traceback" not in process.output
