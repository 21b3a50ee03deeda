"""Topics of the subscriptions, and what the ROS graph says about a silent one."""

from __future__ import annotations

import contextlib
import time

import pytest

pytest.importorskip("rclpy", reason="needs rclpy")
import rclpy
from rclpy.context import Context
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from mtl_perception.ros.subscriptions import MatchedSubscription, resolve_topics


@contextlib.contextmanager
def _plain_node(name: str):
    context = Context()
    rclpy.init(context=context, args=["test", "--ros-args", "-r", "image:=/cam/image_raw/compressed"])
    node = rclpy.create_node(name, context=context)
    yield node
    node.destroy_node()
    context.try_shutdown()


@pytest.fixture
def bare_node():
    with _plain_node("bare") as node:
        yield node


@pytest.fixture
def other_node():
    """A node in another context, because a participant refuses two types for one topic."""
    with _plain_node("other") as node:
        yield node


def test_silence_is_explained_from_the_ros_graph(bare_node, other_node) -> None:
    subscription = MatchedSubscription(
        bare_node, Image, "/cam/other", lambda _: None, 1, "auto", match_durability=False, remap_name="image"
    )
    assert "/cam/other has no publisher; remap image" in subscription.explain_silence()
    other_node.create_publisher(CompressedImage, "/cam/other/compressed", 1)
    _until(lambda: "set image_transport to compressed" in subscription.explain_silence())
    other_node.create_publisher(CompressedImage, "/cam/other", 1)
    _until(lambda: "has type sensor_msgs/msg/CompressedImage, not sensor_msgs/msg/Image" in subscription.explain_silence())
    bare_node.create_publisher(Image, "/cam/other", 1)
    _until(lambda: "has a publisher, but no message was received" in subscription.explain_silence())


def test_topics_of_other_nodes_are_suggested(bare_node, other_node) -> None:
    subscription = MatchedSubscription(
        bare_node, CameraInfo, "/cam/camera_info", lambda _: None, 1, "auto", match_durability=True, remap_name="camera_info"
    )
    expected = "/cam/camera_info has no publisher; remap camera_info to the camera's topic"
    bare_node.create_publisher(CameraInfo, "/bare/depth/camera_info", 1)
    other_node.create_publisher(Image, "/cam/image", 1)
    # As some drivers do.
    other_node.create_publisher(CameraInfo, "/cam/image/camera_info", 1)
    _until(lambda: subscription.explain_silence() == f"{expected} (published: /cam/image/camera_info)")
    for name in "cba":
        other_node.create_publisher(CameraInfo, f"/{name}", 1)
    _until(lambda: subscription.explain_silence() == f"{expected} (published: /a, /b, /c, …)")


def test_image_can_be_remapped_to_the_compressed_topic(bare_node) -> None:
    assert resolve_topics(bare_node, compressed=True) == ("/cam/image_raw/compressed", "/cam/camera_info")


def _until(condition) -> None:
    deadline = time.monotonic() + 20
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert condition()
