"""Faults of topics: outputs and diagnostics of the node."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs rclpy")
from sensor_msgs.msg import CompressedImage, Image
from support.camera_faults import (
    ERROR,
    HEIGHT,
    LABELS,
    OK,
    POINTS,
    WARN,
    WIDTH,
    Feed,
    assert_labels,
    camera_fixtures,
    other_node,
)
from support.images import noise_image
from support.ros_client import Camera, Client, profile
from support.ros_messages import camera_info, cloud_of, image, put_header, set_data, values_of

from mtl_perception import Pipeline

PIXELS = noise_image(HEIGHT, WIDTH)

short_memory, pipeline, node, client, connected, feed = camera_fixtures()


@pytest.fixture
def other():
    """Another publisher."""
    client = Client("second_camera", start_ns=time.time_ns())
    yield client
    client.close()


def test_two_image_publishers_are_reported(feed: Feed, other: Client, pipeline: Pipeline) -> None:
    second = other.node.create_publisher(Image, "/image", profile())
    feed.wait_for_status("camera", WARN, "/image has 2 publishers (/client, /second_camera); their images are mixed")
    other.spin_until(second.get_subscription_count)
    pixels, sent = feed.pixels(), set()

    def answered() -> set[int]:
        return sent & feed.camera.received[LABELS].keys()

    def send() -> None:
        # On a loaded machine an image may be replaced by the next one.
        message, stamp = image(pixels), time.time_ns()
        sent.add(stamp)
        put_header(message, stamp, "second_optical")
        second.publish(message)

    feed.until(answered, send)
    stamp = min(answered())
    assert_labels(feed.camera.answers(stamp), pixels, pipeline)
    assert feed.camera.received[LABELS][stamp].header.frame_id == "second_optical"
    other.node.destroy_publisher(second)
    feed.wait_for_status("camera", OK, "using camera_info")


def test_other_node_of_the_same_name_is_reported(feed: Feed, client: Client) -> None:
    namesake = Client("mtl_perception")
    message = feed.wait_for_status("network", WARN, "2 nodes are named /mtl_perception").message
    assert (
        "their outputs, parameters and services are mixed; stop the others, or start this one with -r __node:=NAME" in message
    )
    namesake.close()
    feed.wait_for_status("network", OK, "random on cpu")


def test_two_camera_info_publishers_are_reported(feed: Feed, other: Client, pipeline: Pipeline) -> None:
    second = Camera(other, info="/camera_info", outputs={})
    second.publish_info(camera_info(WIDTH, HEIGHT, k=[0.0] * 9, p=[0.0] * 12))
    status = feed.wait_for_status(
        "camera", ERROR, "/camera_info has 2 publishers (/client, /second_camera); their calibrations are mixed"
    )
    assert status.message.startswith("no point cloud: camera is uncalibrated")
    pixels = feed.pixels()
    assert_labels(feed.exchange(image(pixels), None, LABELS), pixels, pipeline)
    second.close()
    feed.camera.publish_info(camera_info(WIDTH, HEIGHT))
    feed.wait_for_status("camera", OK, "using camera_info")


def test_missing_frame_id_is_reported(feed: Feed, client: Client) -> None:
    stamp = feed.send(frame_id="")
    assert all(output.header.frame_id == "" for output in feed.camera.answers(stamp).values())
    status = client.wait_status("camera", lambda s: s.level == WARN)
    assert status.message == "images have no frame_id: outputs cannot be transformed to other frames"


def test_frame_id_with_a_leading_slash_is_reported(feed: Feed, client: Client) -> None:
    info = camera_info(WIDTH, HEIGHT)
    feed.camera.publish_info(info, frame_id="/camera_optical")
    stamp = feed.send(frame_id="/camera_optical")
    assert all(output.header.frame_id == "/camera_optical" for output in feed.camera.answers(stamp).values())
    status = client.wait_status("camera", lambda s: s.level == WARN)
    assert status.message == (
        "frame_id '/camera_optical' of images starts with a slash, which tf2 refuses: change it in the driver"
    )
    feed.camera.publish_info(info)


def test_16_bit_images_with_values_of_12_bits_are_reported(feed: Feed, client: Client, pipeline: Pipeline) -> None:
    samples = np.random.default_rng(0).integers(0, 4096, (HEIGHT, WIDTH), np.uint16)
    dark = np.repeat(np.round(samples * (255 / 65535)).astype(np.uint8)[..., None], 3, axis=2)
    assert_labels(feed.exchange(image(samples, "mono16"), None, LABELS), dark, pipeline)
    status = client.wait_status("camera", lambda s: s.level == WARN)
    assert status.message == (
        "images of mono16 are nearly black: values up to about 4112 of 65535; let the driver scale them to 16 bits, "
        "or send 8 bits (depth images cannot be used)"
    )
    feed.exchange(image(samples << 4, "mono16"), None, LABELS)
    client.wait_status("camera", lambda s: s.level == OK)


def test_compressed_16_bit_images_that_are_nearly_black_are_reported(weights_file: Path) -> None:
    """As of thermal cameras whose images image_transport compresses as PNG."""
    samples = np.random.default_rng(0).integers(0, 4096, (HEIGHT, WIDTH), np.uint16)
    png = cv2.imencode(".png", samples)[1].tobytes()
    with other_node(weights_file, image_transport="compressed") as client:
        feed = Feed(client, kind=CompressedImage)
        message = set_data(CompressedImage(format="mono16; png compressed mono16"), png)
        words = "images of mono16 are nearly black: values up to about"
        feed.wait_for_status("camera", WARN, words, lambda: feed.send(message))


def test_missing_k_beside_a_valid_p_is_reported(feed: Feed, client: Client) -> None:
    expected = feed.exchange(image(PIXELS))[POINTS].data
    feed.camera.publish_info(camera_info(WIDTH, HEIGHT, k=[0.0] * 9))
    client.wait_status("camera", lambda s: s.level == WARN and s.message == "K in camera_info is 0; using P")
    assert feed.exchange(image(PIXELS))[POINTS].data == expected
    feed.camera.publish_info(camera_info(WIDTH, HEIGHT))


def test_placeholder_intrinsics_drop_the_cloud_only(feed: Feed, pipeline: Pipeline) -> None:
    """As those of image_publisher without a calibration file, which are 1 for any size."""
    feed.camera.publish_info(camera_info(WIDTH, HEIGHT, fx=0.4, fy=0.4))
    words = "no point cloud: camera: implausible focal lengths for a 64x48 image: fx 0.4, fy 0.4"
    feed.wait_for_status("camera", ERROR, words)
    pixels = feed.pixels()
    outputs = feed.exchange(image(pixels), None, LABELS)
    assert_labels(outputs, pixels, pipeline)
    assert POINTS not in outputs
    feed.camera.publish_info(camera_info(WIDTH, HEIGHT))
    feed.wait_for_status("camera", OK, "using camera_info")


def test_raw_images_taken_for_rectified_ones_are_reported(weights_file: Path) -> None:
    words = (
        "images of /cam/image_raw seem to be raw, but input_rectified is true and camera_info has distortion: "
        "use the topic of rectified images, or set input_rectified to false (but not for bags of kitti2bag: they are rectified)"
    )
    with other_node(weights_file, remap=("image:=/cam/image_raw",)) as client:
        camera = Camera(client, "/cam/image_raw", "/cam/camera_info", outputs={LABELS: Image})
        camera.publish_info(camera_info(WIDTH, HEIGHT))
        camera.connect(image(PIXELS), LABELS)
        client.wait_status("camera", lambda s: s.level == OK)
        camera.publish_info(camera_info(WIDTH, HEIGHT, d=[-0.3, 0.1, 0.0, 0.0, 0.0]))
        client.wait_status("camera", lambda s: s.level == WARN and s.message == words)
        assert client.set(input_rectified=False)[0].successful
        client.wait_status("camera", lambda s: s.level == OK)


def test_latest_camera_info_is_used(feed: Feed, client: Client) -> None:
    def focal_length(outputs: dict[str, Any]) -> float:
        points = cloud_of(outputs[POINTS])
        seen = np.isfinite(points["z"])
        slopes = np.broadcast_to(np.arange(WIDTH) - (WIDTH / 2 - 1.25), seen.shape)[seen]
        return float(np.median(slopes * points["z"][seen] / points["x"][seen]))

    # Nearly all depth of a random network is at edges.
    assert client.set(points_edge_filter=0.0)[0].successful
    before = int(values_of(client.status("camera"))["camera_info changes"])
    for _ in range(20):
        assert focal_length(feed.exchange()) == pytest.approx(60, rel=1e-4)
    assert (client.status("camera").level, client.statuses["camera"].message) == (OK, "using camera_info")
    feed.camera.publish_info(camera_info(WIDTH, HEIGHT, fx=90.0))
    client.wait_status("camera", lambda s: int(values_of(s)["camera_info changes"]) == before + 1)
    assert focal_length(feed.exchange()) == pytest.approx(90, rel=1e-4)
    assert client.status("camera").level == OK
    feed.camera.publish_info(camera_info(WIDTH, HEIGHT))


def test_late_camera_info_adds_the_cloud(weights_file: Path, pipeline: Pipeline) -> None:
    with other_node(weights_file) as client:
        feed = Feed(client, calibrated=False)
        pixels = feed.pixels()
        feed.camera.connect(image(pixels), LABELS)
        assert_labels(feed.exchange(image(pixels), None, LABELS), pixels, pipeline)
        words = "no point cloud: no camera_info received yet: /apart/camera_info has no publisher; remap camera_info to"
        feed.wait_for_status("camera", WARN, words)
        assert not feed.camera.order[POINTS]
        late = Camera(client, "/apart/image", "/apart/camera_info", outputs={})
        late.publish_info(camera_info(WIDTH, HEIGHT))
        client.node.destroy_publisher(late.images)
        feed.wait_for_status("camera", OK, "using camera_info")
        assert cloud_of(feed.exchange()[POINTS]).shape == (HEIGHT, WIDTH)


def test_remapping_of_image_with_named_cameras_is_reported(weights_file: Path, pipeline: Pipeline) -> None:
    with other_node(weights_file, remap=("image:=/cam/image_raw",), cameras=["front"]) as client:
        feed = Feed(client, "front/")
        words = "remapping of image to /cam/image_raw has no effect, because the parameter cameras is set; remap front/image"
        feed.wait_for_status("front: camera", WARN, words)
        pixels = feed.pixels()
        assert_labels(feed.exchange(image(pixels)), pixels, pipeline, "front/")
        assert client.status("front: frames").level == OK
