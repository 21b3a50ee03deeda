"""A real node that is sent nonsense: it counts and names what it refuses, and goes on."""

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
from support.fuzzing import REASONS, fuzz, refused
from support.image_files import PICTURES
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
    """A camera of a node in this process."""

    def __init__(self, node: PerceptionNode, topic: str, kind: type) -> None:
        self.node, self.client = node, Client()
        self.camera = Camera(self.client, topic, kind=kind, outputs={name: OUTPUTS[name] for name in TOPICS})
        self.camera.publish_info(camera_info(16, 12))

    def send(self, message: Any) -> str:
        """What became of a picture: the reason for which it was refused, or nothing."""
        statistics = self.node.session.cameras[0].statistics
        before, refused_before = statistics.received, dict(statistics.rejected)
        self.camera.images.publish(message)
        wait_for(lambda: statistics.received > before and done(statistics) == statistics.received)
        # Nobody reads them otherwise.
        self.client.spin_for(0.001)
        assert statistics.received == before + 1
        reasons = [reason for reason, count in statistics.rejected.items() if count > refused_before.get(reason, 0)]
        return "".join(reasons)


def done(statistics: Any) -> int:
    return statistics.processed + statistics.replaced + statistics.unwanted + sum(statistics.rejected.values())


def wait_for(condition: Any) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "the node has not done with a picture"
        time.sleep(0.002)


@pytest.fixture(scope="class")
def sender(request: pytest.FixtureRequest, weights_file: Path) -> Iterator[Sender]:
    transport = request.cls.transport
    kind, topic = {"raw": (Image, "/image"), "compressed": (CompressedImage, "/image/compressed")}[transport]
    settings = {"image_transport": transport, "warm_up": False, "device": "cpu", "backend": "torch"}
    with node_inside(weights_file, lambda pipeline: pipeline, **settings) as node:
        sender = Sender(node, topic, kind)
        good(sender)
        yield sender
        sender.client.close()


def good(sender: Sender) -> None:
    """The node answers a picture and its calibration as ever."""
    sender.camera.publish_info(camera_info(16, 12))
    message: Any = image(noise_image(12, 16))
    if sender.camera.topic != "/image":
        message = set_data(CompressedImage(format="png"), PICTURES["PNG"])
    answers = sender.camera.connect(message)
    points = answers["points"]
    assert (points.width, points.height) == (16, 12)


def as_message(kind: type, fields: SimpleNamespace) -> Any:
    """The message of those fields, as far as ROS can send them; None where it cannot."""
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


def assert_told_in_lines(sender: Sender) -> None:
    """Whatever was sent, diagnostics say it in printable lines of bounded length."""
    for status in diagnostics_of(sender):
        for text in (status.message, *(value.value for value in status.values)):
            assert len(text) < 1000 and text.isprintable(), (status.name, text[:200])


def as_before(sender: Sender) -> None:
    """After all that, the node is as it was."""
    for name, value in (("input_scale", 1.0), ("output_scale", 1.0), ("input_rectified", True), ("min_depth", 0.0)):
        assert sender.node.set_parameters([Parameter(name, value=value)])[0].successful
    good(sender)
    statistics = sender.node.session.cameras[0].statistics
    assert "internal" not in statistics.rejected, statistics.last_rejection
    assert done(statistics) == statistics.received


class TestRaw:
    transport = "raw"

    @given(fields=images)
    @fuzz("Image, to the node", 0.03, mebibytes=512)
    def test_images(self, sender: Sender, fields: SimpleNamespace) -> None:
        message = as_message(Image, fields)
        if message is None:
            return
        reason = sender.send(message)
        assert reason in ("", *REASONS)
        assert_told_in_lines(sender)
        refused["Image, to the node"] += bool(reason)

    @given(fields=infos, fits=st.booleans())
    @fuzz("CameraInfo, to the node", 0.02, mebibytes=512)
    def test_camera_infos(self, sender: Sender, fields: SimpleNamespace, fits: bool) -> None:
        """Whatever the calibration, a good picture is never refused for it; why there is no cloud is told."""
        message = as_message(CameraInfo, fields)
        if message is None:
            return
        if fits:
            message.width, message.height = 16, 12
        calibrations = sender.node.session.cameras[0].calibrations
        before = calibrations.latest
        sender.camera.infos.publish(message)
        wait_for(lambda: calibrations.latest is not before)
        assert sender.send(image(noise_image(12, 16))) == ""
        assert_told_in_lines(sender)
        (told,) = [status for status in diagnostics_of(sender) if status.name.endswith(": camera")]
        refused["CameraInfo, to the node"] += bool(told.level != told.OK and told.message)

    @given(name=sometimes(st.sampled_from(NAMES), st.text(max_size=8)), value=values)
    @fuzz("parameters, to the node", 0.02)
    def test_parameters(self, sender: Sender, name: str, value: Any) -> None:
        """Refused with a reason, or taken; the set that is there is always one that could be started with."""
        try:
            parameter = Parameter(name, value=value)
        except (TypeError, AssertionError):
            return  # what ROS has no type for
        node = sender.node
        try:
            (result,) = node.set_parameters([parameter])
        except ParameterNotDeclaredException:
            # What the service answers with a reason.
            return
        assert result.successful or result.reason
        refused["parameters, to the node"] += not result.successful
        assert Config.from_mapping({known: node.get_parameter(known).value for known in NAMES})

    def test_the_node_is_as_it_was(self, sender: Sender) -> None:
        as_before(sender)


class TestCompressed:
    transport = "compressed"

    @given(data=damaged([data for data in PICTURES.values() if len(data) < 2000]), form=st.sampled_from(FORMATS))
    @fuzz("CompressedImage, to the node", 0.02, mebibytes=512)
    def test_compressed_images(self, sender: Sender, data: bytes, form: str) -> None:
        reason = sender.send(set_data(CompressedImage(format=form), data))
        assert reason in ("", *REASONS)
        assert_told_in_lines(sender)
        refused["CompressedImage, to the node"] += bool(reason)

    def test_the_node_is_as_it_was(self, sender: Sender) -> None:
        as_before(sender)
