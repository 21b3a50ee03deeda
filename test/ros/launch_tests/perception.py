"""Launch test: the outputs of the node that perception.launch.py starts.

Run with `launch_test` by ros/test_launch_perception.py.
"""

from __future__ import annotations

import os
import tempfile
import unittest
from pathlib import Path

import numpy as np
import pytest
import rclpy
import torch
from builtin_interfaces.msg import Time
from launch import LaunchDescription
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch_testing import post_shutdown_test
from launch_testing.actions import ReadyToTest
from launch_testing.asserts import assertExitCodes
from rclpy.executors import SingleThreadedExecutor
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from std_msgs.msg import Header

from mtl_perception import CameraModel, Frame, Pipeline
from mtl_perception.network.description import Description
from mtl_perception.network.model import MultiTaskRefineNet
from mtl_perception.types import CLOUD_DTYPE
from mtl_perception.weights.files import save_weights

ROOT = Path(__file__).resolve().parents[3]
WIDTH, HEIGHT = 96, 64
CAMERA = CameraModel(width=WIDTH, height=HEIGHT, fx=70.0, fy=72.0, cx=47.0, cy=30.5)
FRAME_ID = "front_optical_frame"
FOLDER = tempfile.TemporaryDirectory()
WEIGHTS = Path(FOLDER.name) / "random.safetensors"
PARAMETERS = Path(FOLDER.name) / "parameters.yaml"
# Not the default, so that the size of the outputs shows whether params_file is read.
OUTPUT_SCALE = 0.5


def generate_test_description() -> LaunchDescription:
    os.environ.setdefault("ROS_DOMAIN_ID", str(100 + os.getpid() % 100))
    description = Description(
        name="random",
        classes=("a", "b", "c"),
        colors=((255, 0, 0), (0, 255, 0), (0, 0, 255)),
        depth_transform="exp",
        depth_range=(0.0, 80.0),
    )
    save_weights(WEIGHTS, lively_network(description).state_dict(), description)
    PARAMETERS.write_text(
        f"/**:\n  ros__parameters:\n    weights: nowhere\n    output_scale: {OUTPUT_SCALE}\n    cpu_threads: 1\n"
        # Nearly all depth of a random network is at edges.
        "    points_edge_filter: 0.0\n"
    )
    arguments = {
        "namespace": "left",
        "image": "/camera/image_raw",
        "params_file": str(PARAMETERS),
        "weights": str(WEIGHTS),
        "device": "cpu",
    }
    node = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(ROOT / "launch/perception.launch.py")), launch_arguments=arguments.items()
    )
    return LaunchDescription([node, ReadyToTest()])


def lively_network(description: Description) -> MultiTaskRefineNet:
    """Return a network with large random weights and no biases, whose outputs depend strongly on the image."""
    torch.manual_seed(3)
    network = MultiTaskRefineNet(description)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.mul_(0.0 if name.endswith("bias") else 3.0 if parameter.dim() == 4 else 1.0)
    return network


def pixels() -> np.ndarray:
    """Return an image of color blocks: 64 x 96 x 3 uint8, RGB."""
    blocks = np.random.default_rng(5).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    return np.kron(blocks, np.ones((8, 8, 1), dtype=np.uint8))


class TestLaunchedNode(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        cls.context = rclpy.Context()
        rclpy.init(context=cls.context)
        cls.node = rclpy.create_node("launch_test", context=cls.context)
        cls.executor = SingleThreadedExecutor(context=cls.context)
        cls.executor.add_node(cls.node)

    @classmethod
    def tearDownClass(cls) -> None:
        cls.executor.shutdown()
        cls.node.destroy_node()
        rclpy.shutdown(context=cls.context)
        FOLDER.cleanup()

    def outputs_of(self, image: np.ndarray, header: Header) -> dict[str, object]:
        """Publish the image until all outputs have arrived, and return them."""
        got: dict[str, object] = {}
        kinds = {"segmentation/labels": Image, "depth/image": Image, "depth/camera_info": CameraInfo, "points": PointCloud2}
        for name, kind in kinds.items():
            self.node.create_subscription(
                kind, f"/left/mtl_perception/{name}", lambda message, name=name: got.update({name: message}), 1
            )
        images = self.node.create_publisher(Image, "/camera/image_raw", 1)
        infos = self.node.create_publisher(CameraInfo, "/camera/camera_info", 1)
        info = CameraInfo(header=header, width=WIDTH, height=HEIGHT, distortion_model="plumb_bob", d=[0.0] * 5)
        info.k = [CAMERA.fx, 0.0, CAMERA.cx, 0.0, CAMERA.fy, CAMERA.cy, 0.0, 0.0, 1.0]
        info.r = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
        info.p = [CAMERA.fx, 0.0, CAMERA.cx, 0.0, 0.0, CAMERA.fy, CAMERA.cy, 0.0, 0.0, 0.0, 1.0, 0.0]
        message = Image(header=header, width=WIDTH, height=HEIGHT, encoding="rgb8", step=WIDTH * 3)
        message.data.frombytes(image.tobytes())
        deadline = self.node.get_clock().now().nanoseconds + int(120e9)
        while len(got) < len(kinds):
            assert self.node.get_clock().now().nanoseconds < deadline, f"came in 120 s: {sorted(got)}"
            infos.publish(info)
            images.publish(message)
            self.executor.spin_once(timeout_sec=0.2)
        return got

    def test_outputs_equal_those_of_the_pipeline(self) -> None:
        image, header = pixels(), Header(stamp=Time(sec=12, nanosec=345), frame_id=FRAME_ID)
        got = self.outputs_of(image, header)
        pipeline = Pipeline(weights=str(WEIGHTS), device="cpu", output_scale=OUTPUT_SCALE, cpu_threads=1)
        expected = pipeline(Frame(image, CAMERA))
        assert expected.camera is not None
        height, width = HEIGHT // 2, WIDTH // 2
        for message in got.values():
            assert (message.header, message.height, message.width) == (header, height, width)

        labels = np.frombuffer(got["segmentation/labels"].data, np.uint8).reshape(height, width)
        np.testing.assert_array_equal(labels, expected.labels)
        assert len(np.unique(labels)) > 1
        depth = np.frombuffer(got["depth/image"].data, np.float32).reshape(height, width)
        np.testing.assert_array_equal(depth, expected.depth)
        cloud = np.frombuffer(got["points"].data, CLOUD_DTYPE).reshape(height, width)
        finite = np.isfinite(depth)
        assert 0.1 < finite.mean() < 1.0
        assert np.isnan(cloud["z"][~finite]).all()
        np.testing.assert_array_equal(cloud["z"][finite], depth[finite])
        np.testing.assert_array_equal(cloud["label"], labels)
        u = np.broadcast_to(np.arange(width), depth.shape)[finite]
        camera = got["depth/camera_info"]
        np.testing.assert_allclose(cloud["x"][finite], (u - camera.k[2]) / camera.k[0] * depth[finite], rtol=1e-5, atol=1e-5)
        assert camera.k[0] == pytest.approx(CAMERA.fx / 2)


@post_shutdown_test()
class TestAfterShutdown(unittest.TestCase):
    def test_node_exits_with_code_0(self, proc_info) -> None:
        assertExitCodes(proc_info)
