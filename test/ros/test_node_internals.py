"""Behavior that is not visible from outside the node."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs rclpy")
import rclpy
from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.context import Context
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from sensor_msgs.msg import Image
from std_msgs.msg import String
from support.images import noise_image
from support.node_in_process import in_its_executor, node_inside, started
from support.node_process import PATIENCE
from support.ros_client import Camera, Client, profile
from support.ros_messages import OUTPUTS, camera_info, image, labels_of

from mtl_perception.errors import ConfigError
from mtl_perception.messages import topics
from mtl_perception.ros import camera as camera_module
from mtl_perception.ros import convert, main
from mtl_perception.ros.diagnostics import to_messages
from mtl_perception.ros.node import PerceptionNode
from mtl_perception.runtime.diagnostics import evaluate

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
        self.may_go.wait(PATIENCE)
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
    assert in_its_executor(node, node.trigger_deactivate) == TransitionCallbackReturn.SUCCESS
    assert spy.may_go.is_set()
    assert not worker.is_alive()
    assert in_its_executor(node, node.trigger_activate) == TransitionCallbackReturn.SUCCESS
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


def participants() -> int:
    """Return the number of DDS participants of this process, each of which has an event thread."""
    return sum(path.read_text().startswith("dds.ev") for path in Path("/proc/self/task").glob("*/comm"))


@pytest.mark.skipif("fastrtps" not in rclpy.get_rmw_implementation_identifier(), reason="counts the threads of Fast DDS")
def test_destroyed_and_refused_nodes_leave_no_participant() -> None:
    before = participants()
    gc.disable()
    try:
        with started():
            assert participants() == before + 1
        with pytest.raises(ConfigError, match="max_depth"), started("-p", "max_depth:=-1.0"):
            pass
        assert participants() == before
    finally:
        gc.enable()


def test_process_ends_at_once_if_the_node_cannot_be_closed(monkeypatch) -> None:
    """Its worker may still be computing; finalizing the interpreter meanwhile would abort the process."""
    exits: list[int] = []
    monkeypatch.setattr(os, "_exit", exits.append)
    monkeypatch.setattr(rclpy, "try_shutdown", lambda: None)
    main._finish(None)
    assert exits == []
    main._finish(SimpleNamespace(close=lambda: 1 / 0))
    assert exits == [0]
