"""Behavior that is not visible from outside the node."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
import types
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs rclpy")
import rclpy
from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.context import Context
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2
from std_msgs.msg import Header, String
from support.images import noise_image
from support.node_in_process import in_its_executor, node_inside
from support.ros_client import Camera, Client, profile
from support.ros_messages import OUTPUTS, camera_info, image, labels_of

from mtl_perception.errors import FrameError
from mtl_perception.messages import topics
from mtl_perception.messages.encode import cloud_fields, image_fields
from mtl_perception.ros import camera as camera_module
from mtl_perception.ros import compat, convert, main
from mtl_perception.ros.diagnostics import to_messages
from mtl_perception.ros.node import PerceptionNode
from mtl_perception.ros.subscriptions import MatchedSubscription, resolve_topics
from mtl_perception.runtime.diagnostics import evaluate
from mtl_perception.types import CLOUD_DTYPE

WIDTH, HEIGHT = 64, 48
PIXELS = noise_image(HEIGHT, WIDTH)


class Spy:
    """Wrapper of the pipeline that records the requested outputs and can block calls."""

    def __init__(self, pipeline) -> None:
        self.pipeline = pipeline
        self.asked: list[set[str]] = []
        self.started, self.may_go = threading.Event(), threading.Event()
        self.may_go.set()

    def batch(self, frames, outputs):
        self.asked += [set(requested) for requested in outputs]
        self.started.set()
        self.may_go.wait(60)
        return self.pipeline.batch(frames, outputs)

    def __getattr__(self, name: str):
        return getattr(self.pipeline, name)


@pytest.fixture
def node(weights_file: Path):
    # Nearly all depth of the random network is at edges; a cloud without points would be computed again with depth.
    with node_inside(weights_file, Spy, points_edge_filter=0.0, warm_up=False) as node:
        yield node


@pytest.fixture
def client(node):
    client = Client()
    yield client
    client.close()


class TestSubscriptions:
    @pytest.fixture(scope="class")
    def watched(self, weights_file: Path):
        """A node for all tests of the class, and its client."""
        settings = {"points_edge_filter": 0.0, "warm_up": False}
        with node_inside(weights_file, Spy, **settings) as node, contextlib.closing(Client()) as client:
            yield node, client

    @pytest.mark.parametrize(
        ("topics", "asked"),
        [
            (["segmentation/labels"], {"labels"}),
            (["segmentation/image"], {"labels"}),
            (["segmentation/image", "segmentation/overlay"], {"labels", "image"}),
            (["segmentation/confidence"], {"confidence"}),
            (["depth/image"], {"depth"}),
            (["depth/camera_info"], set()),
            (["points"], {"cloud"}),
            (["points", "segmentation/labels"], {"cloud", "labels"}),
        ],
    )
    def test_only_subscribed_outputs_are_computed(self, watched, topics: list[str], asked: set[str]) -> None:
        node, client = watched
        publishers = [
            publisher for publisher in node.publishers if publisher.topic_name.removeprefix("/mtl_perception/") in OUTPUTS
        ]
        assert len(publishers) == len(OUTPUTS)
        client.spin_until(lambda: not any(publisher.get_subscription_count() for publisher in publishers), "no subscriber")
        camera = Camera(client, outputs={topic: OUTPUTS[topic] for topic in topics})
        camera.publish_info(camera_info(WIDTH, HEIGHT))
        camera.connect(image(PIXELS))
        # Images sent by connect() may still be in progress.
        camera.wait_until_idle()
        node.session.pipeline.asked.clear()
        camera.exchange(image(PIXELS))
        assert node.session.pipeline.asked == [asked]
        camera.close()


def test_deactivation_waits_for_the_frame_in_progress(node, client: Client) -> None:
    """Otherwise two threads could use the pipeline after the next activation."""
    camera = Camera(client, outputs={"segmentation/labels": Image})
    camera.connect(image(PIXELS))
    spy = node.session.pipeline
    spy.started.clear()
    spy.may_go.clear()
    late = camera.publish(image(PIXELS))
    client.spin_until(spy.started.is_set)
    worker = node._worker
    timer = threading.Timer(0.5, spy.may_go.set)
    timer.start()
    assert in_its_executor(node, client, node.trigger_deactivate) == TransitionCallbackReturn.SUCCESS
    assert spy.may_go.is_set()
    assert not worker.is_alive()
    assert in_its_executor(node, client, node.trigger_activate) == TransitionCallbackReturn.SUCCESS
    camera.wait_until_heard()
    fresh = camera.exchange(image(PIXELS))
    assert set(np.unique(labels_of(fresh["segmentation/labels"]))) <= set(range(12))
    assert camera.order["segmentation/labels"] == sorted(camera.order["segmentation/labels"])
    assert late not in camera.received["segmentation/labels"] or late < max(camera.order["segmentation/labels"])


def test_internal_error_drops_the_frame_only(node, client: Client) -> None:
    camera = Camera(client, outputs={"segmentation/labels": Image})
    camera.connect(image(PIXELS))
    spy = node.session.pipeline

    class Broken:
        config = spy.config
        __getattr__ = spy.__getattr__

        def batch(self, frames, outputs):
            raise RuntimeError("a bug")

    node.session.pipeline = Broken()
    camera.publish(image(PIXELS))
    status = client.wait_status("frames", lambda s: "a bug" in s.message)
    assert status.level == status.ERROR
    assert client.counts()["rejected: internal"] == 1
    node.session.pipeline = spy
    camera.exchange(image(PIXELS))


def test_failed_activation_is_reported_until_one_succeeds(weights_file: Path, monkeypatch) -> None:
    context = Context()
    rclpy.init(context=context)
    node = PerceptionNode(context=context, parameter_overrides=[Parameter("weights", value=str(weights_file))])

    def network():
        return next(status for status in to_messages(evaluate(node.snapshot()), "node") if status.name.endswith(": network"))

    def refuse(*_):
        raise RuntimeError("no room for a subscription")

    assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
    with monkeypatch.context() as patched:
        patched.setattr("mtl_perception.ros.camera.CameraSubscriptions", refuse)
        assert node.trigger_activate() == TransitionCallbackReturn.FAILURE
    assert network().level == DiagnosticStatus.ERROR
    assert "no room for a subscription" in network().message
    assert node.trigger_activate() == TransitionCallbackReturn.SUCCESS
    assert (network().level, network().message) == (DiagnosticStatus.OK, "random on cpu")
    node.close()
    node.destroy_node()
    context.try_shutdown()


@pytest.mark.parametrize("private", [True, False])
def test_message_data_is_equal_with_and_without_the_private_attribute(monkeypatch: pytest.MonkeyPatch, private: bool) -> None:
    monkeypatch.setattr(compat, "can_fill_privately", lambda: private)
    message = convert.to_message("sensor_msgs/msg/Image", image_fields(PIXELS, "rgb8"), Header(frame_id="a"))
    read = deserialize_message(serialize_message(message), Image)
    assert bytes(read.data) == PIXELS.tobytes()
    assert (read.height, read.width, read.step, read.encoding, read.header.frame_id) == (HEIGHT, WIDTH, 3 * WIDTH, "rgb8", "a")


def test_private_attribute_works_with_this_rclpy() -> None:
    """It is much faster, so an rclpy that breaks it should be noticed."""
    assert compat.can_fill_privately()


def test_unsupported_encodings_are_left_to_cv_bridge(monkeypatch: pytest.MonkeyPatch) -> None:
    class Bridge:
        def imgmsg_to_cv2(self, message: Image, encoding: str) -> np.ndarray:
            if message.encoding != "multispectral4":
                raise RuntimeError("no such encoding")
            return np.full((message.height, message.width, 3), 9, np.uint8)

    def install(module: types.ModuleType | None) -> None:
        monkeypatch.setitem(sys.modules, "cv_bridge", module)
        convert.load_cv_bridge.cache_clear()

    install(_module_with(CvBridge=Bridge))
    assert (convert.to_rgb(image(PIXELS, "multispectral4")) == 9).all()
    with pytest.raises(FrameError, match="'hyperspectral8'"):
        convert.to_rgb(image(PIXELS, "hyperspectral8"))
    np.testing.assert_array_equal(convert.to_rgb(image(PIXELS, "rgb8")), PIXELS)
    install(None)
    with pytest.raises(FrameError, match="'multispectral4'"):
        convert.to_rgb(image(PIXELS, "multispectral4"))
    convert.load_cv_bridge.cache_clear()


def _module_with(**members: Any) -> types.ModuleType:
    module = types.ModuleType("fake")
    vars(module).update(members)
    return module


BROKEN = """
print("A module that was compiled using NumPy 1.x cannot be run in NumPy 2")
raise AttributeError("_ARRAY_API not found")
"""


def test_cv_bridge_of_another_numpy_disturbs_only_encodings_that_need_it(tmp_path: Path) -> None:
    """Its import raises an AttributeError where ROS's cv_bridge meets NumPy 2 of pip."""
    (tmp_path / "cv_bridge.py").write_text(BROKEN)
    code = """
import array
from sensor_msgs.msg import Image
from mtl_perception.errors import FrameError
from mtl_perception.ros import camera, convert
message = Image(height=1, width=2, step=6, encoding="rgb8", data=array.array("B", range(6)))
print(convert.to_rgb(message).tolist())
for _ in range(2):
    message.encoding = "hyperspectral3"
    try:
        convert.to_rgb(message)
    except FrameError as error:
        print(error.reason)
"""
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{Path(convert.__file__).parents[2]}"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    warning = BROKEN.split('"')[1]
    assert done.stdout.splitlines() == ["[[[0, 1, 2], [3, 4, 5]]]", warning, "encoding", "encoding"]


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


CHECKED = """
import numpy as np
from std_msgs.msg import Header
from mtl_perception.camera.model import Calibration, CameraModel
from mtl_perception.messages.encode import MessageEncoder
from mtl_perception.messages.topics import OUTPUT_TOPICS
from mtl_perception.labels import STREET
from mtl_perception.ros.convert import MESSAGE_TYPES, to_message
from mtl_perception.types import CLOUD_DTYPE, Outputs
plane = np.zeros((2, 3), np.uint8)
result = Outputs(plane, plane, plane.astype(np.float32), cloud=np.zeros((2, 3), CLOUD_DTYPE),
                camera=CameraModel(3, 2, 1.0, 1.0, 1.0, 1.0), image=np.zeros((2, 3, 3), np.uint8))
for row in OUTPUT_TOPICS:
    if MESSAGE_TYPES[row.type] is not None:
        message = to_message(row.type, row.encode(MessageEncoder(STREET), result), Header())
        print(row.name, list(message.d) if row.name.endswith("camera_info") else "")
"""


def test_messages_pass_field_checks() -> None:
    """Humble always checks fields, later distributions on request."""
    environment = {**os.environ, "ROS_PYTHON_CHECK_FIELDS": "1"}
    done = subprocess.run([sys.executable, "-c", CHECKED], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert set(OUTPUTS) <= {line.split(" ")[0] for line in done.stdout.splitlines()}
    assert "depth/camera_info [0.0, 0.0, 0.0, 0.0, 0.0]" in done.stdout


def test_frame_with_a_failing_message_is_not_published_partially(node, client: Client, monkeypatch) -> None:
    camera = Camera(client, outputs={"segmentation/labels": Image, "segmentation/confidence": Image})
    camera.connect(image(PIXELS))

    def broken(kind, fields, header):
        if fields["encoding"] == "mono8" and fields["data"].max() > 30:  # Confidence, not labels.
            raise RuntimeError("cannot be filled")
        return convert.to_message(kind, fields, header)

    monkeypatch.setattr("mtl_perception.ros.camera.to_message", broken)
    stamp = camera.publish(image(PIXELS))
    client.wait_status("frames", lambda s: "cannot be filled" in s.message)
    assert stamp not in camera.order["segmentation/labels"]
    monkeypatch.undo()
    camera.exchange(image(PIXELS))


def test_label_info_follows_min_confidence(weights_file: Path, monkeypatch) -> None:
    """A string takes the place of vision_msgs/LabelInfo, which the test environment lacks."""
    monkeypatch.setitem(convert.MESSAGE_TYPES, topics.LABEL_INFO, String)
    build = camera_module.to_message

    def to_message(kind, fields, header):
        return String(data=json.dumps(fields)) if kind == topics.LABEL_INFO else build(kind, fields, header)

    monkeypatch.setattr(camera_module, "to_message", to_message)
    with node_inside(weights_file, Spy, min_confidence=0.25, warm_up=False):
        client, received = Client(), []
        client.node.create_subscription(
            String,
            "/mtl_perception/segmentation/label_info",
            lambda message: received.append(json.loads(message.data)),
            profile(latched=True, depth=1),
        )
        client.spin_until(lambda: received)
        assert received[0]["threshold"] == 0.25
        client.set(overlay_opacity=0.75, max_depth=20.0)
        client.set(min_confidence=0.5)
        client.spin_until(lambda: len(received) > 1)
        assert [fields["threshold"] for fields in received] == [0.25, 0.5]
        assert received[1]["class_map"] == received[0]["class_map"] != []
        client.close()


def test_uncalibrated_camera_is_reported_without_subscribers(node, client: Client) -> None:
    camera = Camera(client, outputs={})
    info = camera_info(WIDTH, HEIGHT)
    info.k[0] = 0.0
    client.spin_until(lambda: camera.publish_info(info) or "uncalibrated" in client.status("camera").message)
    assert client.status("camera").level == client.status("camera").ERROR


def test_sensor_msgs_py_reads_the_cloud() -> None:
    reader = pytest.importorskip(
        "sensor_msgs_py.point_cloud2", reason="needs sensor_msgs_py, which comes with a ROS installation"
    )
    cloud = np.zeros((3, 4), CLOUD_DTYPE)
    cloud["x"], cloud["z"] = np.arange(12).reshape(3, 4), 7.5
    cloud["z"][1, 2] = np.nan
    cloud["rgb"], cloud["label"] = 0x00123456, np.arange(12).reshape(3, 4)
    message = deserialize_message(
        serialize_message(convert.to_message("sensor_msgs/msg/PointCloud2", cloud_fields(cloud), Header())), PointCloud2
    )
    points = reader.read_points(message, reshape_organized_cloud=True)
    assert points.shape in ((3, 4), (4, 3))  # Some releases swap the dimensions.
    flat = points.reshape(-1)
    for name in ("x", "y", "z", "label"):
        np.testing.assert_array_equal(flat[name], cloud[name].reshape(-1))
    assert (flat["rgb"].view(np.uint32) == 0x00123456).all()
    assert not message.is_dense


def test_process_ends_at_once_if_the_node_cannot_be_closed(monkeypatch) -> None:
    """Its worker may still be computing; finalizing the interpreter meanwhile would abort the process."""
    exits: list[int] = []
    monkeypatch.setattr(os, "_exit", exits.append)
    monkeypatch.setattr(rclpy, "try_shutdown", lambda: None)
    main._finish(None)
    assert exits == []
    main._finish(SimpleNamespace(close=lambda: 1 / 0))
    assert exits == [0]
