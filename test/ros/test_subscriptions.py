"""Topics of the subscriptions, and what the ROS graph says about a silent one."""

from __future__ import annotations

import contextlib
import time
from types import SimpleNamespace

import pytest

pytest.importorskip("rclpy", reason="needs rclpy")
import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from mtl_perception.ros.environment import DISCOVERY_VARIABLES, describe_discovery
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
    subscription = MatchedSubscription(bare_node, Image, "/cam/other", lambda _: None, 1, "auto", remap_name="image")
    assert "/cam/other has no publisher; remap image" in subscription.explain_silence()
    _until(lambda: "no other node is visible here" not in subscription.explain_silence())
    other_node.create_publisher(CompressedImage, "/cam/other/compressed", 1)
    _until(lambda: "set image_transport to compressed" in subscription.explain_silence())
    other_node.create_publisher(CompressedImage, "/cam/other", 1)
    hint = "set image_transport to compressed"
    _until(
        lambda: (
            subscription.explain_silence()
            == f"/cam/other has type sensor_msgs/msg/CompressedImage, not sensor_msgs/msg/Image; {hint}"
        )
    )
    bare_node.create_publisher(Image, "/cam/other", 1)
    _until(lambda: "has a publisher, but no message was received" in subscription.explain_silence())


def test_calibration_that_may_have_been_published_once_is_explained(bare_node, other_node) -> None:
    subscription = MatchedSubscription(bare_node, CameraInfo, "/info", lambda _: None, 1, "auto", remap_name="camera_info")
    volatile = other_node.create_publisher(CameraInfo, "/info", 1)
    start = "/info has a publisher, but no message was received"
    hint = "; if it was published only once, publish it periodically or with transient local durability"
    _until(lambda: _publishers(subscription) == ["/other"] and subscription.explain_silence().startswith(start + hint))
    other_node.destroy_publisher(volatile)
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    other_node.create_publisher(CameraInfo, "/info", latched)
    _until(lambda: _publishers(subscription) == ["/other"] and subscription.is_latched)
    assert subscription.explain_silence().startswith(start) and hint not in subscription.explain_silence()


@pytest.mark.parametrize("kind", [Image, CompressedImage])
def test_video_packets_are_recognized(bare_node, monkeypatch: pytest.MonkeyPatch, kind: type) -> None:
    """As those of ffmpeg_image_transport, whose messages need not be installed here."""
    topics = {"/cam/image": "", "/cam/image/ffmpeg": "ffmpeg_image_transport_msgs/msg/FFMPEGPacket", "/cam/other": "a/msg/B"}
    monkeypatch.setattr(bare_node, "get_topic_names_and_types", lambda: [(name, [kind]) for name, kind in topics.items()])
    monkeypatch.setattr(bare_node, "count_publishers", lambda name: int(bool(topics.get(name))))
    hint = "; these are video packets: decode them to sensor_msgs/msg/Image with image_transport's republish"
    name = "/cam/image" if kind is Image else "/cam/image/compressed"
    subscription = MatchedSubscription(bare_node, kind, name, lambda _: None, 1, "auto", remap_name="image")
    start = f"{name} has no publisher, but /cam/image/ffmpeg has, of type ffmpeg_image_transport_msgs/msg/FFMPEGPacket"
    assert subscription.explain_silence() == start + hint
    packets = [SimpleNamespace(topic_type="theora_image_transport/msg/Packet")]
    monkeypatch.setattr(bare_node, "get_publishers_info_by_topic", lambda _: packets)
    wanted = f"sensor_msgs/msg/{kind.__name__}"
    assert subscription.explain_silence() == f"{name} has type theora_image_transport/msg/Packet, not {wanted}{hint}"


def test_topics_of_other_nodes_are_suggested(bare_node, other_node) -> None:
    subscription = MatchedSubscription(
        bare_node, CameraInfo, "/cam/camera_info", lambda _: None, 1, "auto", remap_name="camera_info"
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


def test_compressed_topic_without_the_suffix_is_found(bare_node, other_node) -> None:
    """As in simulators, and in drivers that publish JPEG without image_transport."""
    received: list[CompressedImage] = []
    subscription = MatchedSubscription(
        bare_node, CompressedImage, "/cam/image/compressed", received.append, 1, "auto", remap_name="image"
    )
    raw = other_node.create_publisher(Image, "/cam/image", 1)
    start = "/cam/image/compressed has no publisher, but /cam/image has"
    _until(lambda: subscription.explain_silence() == f"{start}; set image_transport to raw")
    other_node.destroy_publisher(raw)
    publisher = other_node.create_publisher(CompressedImage, "/cam/image", 1)
    _until(lambda: _publishers(subscription) == ["/other"])
    assert subscription.topic == "/cam/image"
    _until(lambda: publisher.get_subscription_count() == 1)
    publisher.publish(CompressedImage(format="jpeg"))
    executor = SingleThreadedExecutor(context=bare_node.context)
    executor.add_node(bare_node)
    _until(lambda: executor.spin_once(timeout_sec=0.1) or received)
    assert received[0].format == "jpeg"
    executor.shutdown()
    # The name of image_transport comes first.
    other_node.create_publisher(CompressedImage, "/cam/image/compressed", 1)
    _until(lambda: _publishers(subscription) == ["/other"] and subscription.topic == "/cam/image/compressed")
    _until(lambda: publisher.get_subscription_count() == 0)


def test_settings_of_discovery_are_named_if_no_node_is_visible(bare_node, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in DISCOVERY_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ROS_LOCALHOST_ONLY", "1")
    visible = [("bare", "/"), ("_ros2cli_daemon_0_f3", "/"), ("launch_ros_4711", "/")]
    monkeypatch.setattr(bare_node, "get_node_names_and_namespaces", lambda: visible)
    settings = f"ROS_DOMAIN_ID={bare_node.context.get_domain_id()}, ROS_LOCALHOST_ONLY=1"
    expected = f"; no other node is visible here with {settings}, which may differ where the camera runs"
    assert describe_discovery(bare_node) == expected
    visible.append(("camera", "/"))
    assert describe_discovery(bare_node) == ""


def test_image_can_be_remapped_to_the_compressed_topic(bare_node) -> None:
    assert resolve_topics(bare_node, compressed=True) == ("/cam/image_raw/compressed", "/cam/camera_info")


def test_compressed_topic_without_the_suffix_can_be_remapped(other_node) -> None:
    """As in simulators, and in drivers that publish JPEG without image_transport."""
    context = Context()
    rclpy.init(context=context, args=["test", "--ros-args", "-r", "image/compressed:=/front/image_rect_compressed"])
    node = rclpy.create_node("jpeg", context=context)
    assert resolve_topics(node, compressed=True) == ("/front/image_rect_compressed", "/front/camera_info")
    received: list[CompressedImage] = []
    subscription = MatchedSubscription(
        node, CompressedImage, resolve_topics(node, compressed=True)[0], received.append, 1, "auto", remap_name="image"
    )
    publisher = other_node.create_publisher(CompressedImage, "/front/image_rect_compressed", 1)
    _until(lambda: _publishers(subscription) == ["/other"])
    _until(lambda: publisher.get_subscription_count() == 1)
    node.destroy_node()
    context.try_shutdown()


def test_publishers_that_are_no_nodes_have_no_name(bare_node, other_node, monkeypatch: pytest.MonkeyPatch) -> None:
    """As those of micro-ROS, whose placeholders for a name would only confuse."""
    other_node.create_publisher(Image, "/cam/other", 1)
    subscription = MatchedSubscription(bare_node, Image, "/cam/other", lambda _: None, 1, "auto", remap_name="image")
    _until(lambda: _publishers(subscription) == ["/other"])
    found = bare_node.get_publishers_info_by_topic("/cam/other")
    found[0].node_name, found[0].node_namespace = "_NODE_NAME_UNKNOWN_", "_NODE_NAMESPACE_UNKNOWN_"
    monkeypatch.setattr(bare_node, "get_publishers_info_by_topic", lambda topic: found)
    subscription.update()
    assert subscription.publishers == ["unknown node"]


def _publishers(subscription: MatchedSubscription) -> list[str]:
    subscription.update()
    return subscription.publishers


def _until(condition) -> None:
    deadline = time.monotonic() + 20
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert condition()
