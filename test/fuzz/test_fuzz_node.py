"""Fuzz tests of a running node: it rejects, counts and reports malformed messages and parameters."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="needs rclpy")
from fuzz.test_fuzz_messages import FORMATS, images, infos
from fuzz.test_fuzz_parameters import NAMES, values
from hypothesis import given
from hypothesis import strategies as st
from rclpy.exceptions import ParameterNotDeclaredException
from rclpy.parameter import Parameter
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, RegionOfInterest
from support.bad_input import damaged, sometimes
from support.fuzzing import REASONS, fuzz, rejected
from support.image_files import IMAGE_FILES
from support.images import noise_image
from support.node_in_process import node_inside
from support.node_process import PATIENCE
from support.ros_client import Camera, Client
from support.ros_messages import OUTPUTS, camera_info, image, put_header, set_data

from mtl_perception.config import Config
from mtl_perception.ros.diagnostics import to_messages
from mtl_perception.ros.node import PerceptionNode
from mtl_perception.runtime.diagnostics import evaluate

TOPICS = ("segmentation/labels", "depth/camera_info", "points")


class Sender:
    """Publisher of a camera that a node in this process subscribes to."""

    def __init__(self, node: PerceptionNode, topic: str, kind: type) -> None:
        self.node, self.client = node, Client()
        self.camera = Camera(self.client, topic, kind=kind, outputs={name: OUTPUTS[name] for name in TOPICS})
        self.camera.publish_info(camera_info(16, 12))

    def send(self, message: Any) -> str:
        """Publish an image, wait for the node, and return the reason of a rejection, or an empty text."""
        statistics = self.node.session.cameras[0].statistics
        before, rejected_before = statistics.received, dict(statistics.rejected)
        self.camera.images.publish(message)
        wait_for(lambda: statistics.received > before and done(statistics) == statistics.received)
        # Take the outputs from the queues of the subscriptions.
        self.client.spin_for(0.001)
        assert statistics.received == before + 1
        reasons = [reason for reason, count in statistics.rejected.items() if count > rejected_before.get(reason, 0)]
        return "".join(reasons)


def done(statistics: Any) -> int:
    return statistics.processed + statistics.replaced + statistics.unwanted + sum(statistics.rejected.values())


def wait_for(condition: Any) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "the node did not process a message in time"
        time.sleep(0.002)


@pytest.fixture(scope="class")
def sender(request: pytest.FixtureRequest, weights_file: Path) -> Iterator[Sender]:
    transport = request.cls.transport
    kind, topic = {"raw": (Image, "/image"), "compressed": (CompressedImage, "/image/compressed")}[transport]
    settings = {"image_transport": transport, "warm_up": False, "device": "cpu", "backend": "torch"}
    with node_inside(weights_file, lambda pipeline: pipeline, **settings) as node:
        sender = Sender(node, topic, kind)
        assert_node_works(sender)
        yield sender
        sender.client.close()


def assert_node_works(sender: Sender) -> None:
    """Check that the node processes a valid image and CameraInfo."""
    sender.camera.publish_info(camera_info(16, 12))
    message: Any = image(noise_image(12, 16))
    if sender.camera.topic != "/image":
        message = set_data(CompressedImage(format="png"), IMAGE_FILES["PNG"])
    answers = sender.camera.connect(message)
    points = answers["points"]
    assert (points.width, points.height) == (16, 12)


def as_message(kind: type, fields: SimpleNamespace) -> Any:
    """Return a message with these fields, or None if rclpy does not accept a value."""
    message = kind()
    for name, value in vars(fields).items():
        try:
            if name == "header":
                put_header(message, 1, "camera")
                message.header.stamp.sec, message.header.stamp.nanosec = value.stamp.sec, value.stamp.nanosec
            elif name == "data":
                set_data(message, bytes(value))
            elif name == "roi":
                message.roi = RegionOfInterest(**vars(value))
            else:
                setattr(message, name, [float(v) for v in value] if name in ("d", "k", "r", "p") else value)
        except AssertionError:
            return None
    return message


def diagnostics_of(sender: Sender) -> list[Any]:
    return to_messages(evaluate(sender.node.snapshot()), "node")


def assert_diagnostics_are_short(sender: Sender) -> None:
    """Check that diagnostics are printable lines of limited length."""
    for status in diagnostics_of(sender):
        for text in (status.message, *(value.value for value in status.values)):
            assert len(text) < 1000 and text.isprintable(), (status.name, text[:200])


def assert_node_works_as_before(sender: Sender) -> None:
    """Reset the parameters, and check that the node works and has counted every message."""
    for name, value in (("input_scale", 1.0), ("output_scale", 1.0), ("input_rectified", True), ("min_depth", 0.0)):
        assert sender.node.set_parameters([Parameter(name, value=value)])[0].successful
    assert_node_works(sender)
    statistics = sender.node.session.cameras[0].statistics
    assert "internal" not in statistics.rejected, statistics.last_rejection
    assert done(statistics) == statistics.received


class TestRaw:
    transport = "raw"

    @given(fields=images)
    @fuzz("Image, to the node", 0.03, mebibytes=512)
    def test_image_is_processed_or_rejected_with_a_reason(self, sender: Sender, fields: SimpleNamespace) -> None:
        message = as_message(Image, fields)
        if message is None:
            return
        reason = sender.send(message)
        assert reason in ("", *REASONS)
        assert_diagnostics_are_short(sender)
        rejected["Image, to the node"] += bool(reason)

    @given(fields=infos, fits=st.booleans())
    @fuzz("CameraInfo, to the node", 0.02, mebibytes=512)
    def test_camera_info_never_rejects_a_valid_image(self, sender: Sender, fields: SimpleNamespace, fits: bool) -> None:
        message = as_message(CameraInfo, fields)
        if message is None:
            return
        if fits:
            message.width, message.height = 16, 12
        calibrations = sender.node.session.cameras[0].calibrations
        calibrations.latest = None
        sender.camera.infos.publish(message)
        wait_for(lambda: calibrations.latest is not None)
        assert sender.send(image(noise_image(12, 16))) == ""
        assert_diagnostics_are_short(sender)
        (status,) = [status for status in diagnostics_of(sender) if status.name.endswith(": camera")]
        rejected["CameraInfo, to the node"] += bool(status.level != status.OK and status.message)

    @given(name=sometimes(st.sampled_from(NAMES), st.text(max_size=8)), value=values)
    @fuzz("parameters, to the node", 0.02)
    def test_parameter_is_accepted_or_refused_with_a_reason(self, sender: Sender, name: str, value: Any) -> None:
        """The parameters of the node remain a valid configuration."""
        try:
            parameter = Parameter(name, value=value)
        except (TypeError, AssertionError):
            return  # no ROS parameter type
        node = sender.node
        try:
            (result,) = node.set_parameters([parameter])
        except ParameterNotDeclaredException:
            # The service would return this as a reason.
            return
        assert result.successful or result.reason
        rejected["parameters, to the node"] += not result.successful
        assert Config.from_mapping({known: node.get_parameter(known).value for known in NAMES})

    def test_node_still_works(self, sender: Sender) -> None:
        assert_node_works_as_before(sender)


class TestCompressed:
    transport = "compressed"

    @given(data=damaged([data for data in IMAGE_FILES.values() if len(data) < 2000]), form=st.sampled_from(FORMATS))
    @fuzz("CompressedImage, to the node", 0.02, mebibytes=512)
    def test_compressed_image_is_processed_or_rejected_with_a_reason(self, sender: Sender, data: bytes, form: str) -> None:
        reason = sender.send(set_data(CompressedImage(format=form), data))
        assert reason in ("", *REASONS)
        assert_diagnostics_are_short(sender)
        rejected["CompressedImage, to the node"] += bool(reason)

    def test_node_still_works(self, sender: Sender) -> None:
        assert_node_works_as_before(sender)
