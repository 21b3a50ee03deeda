"""Faults of the images of a camera: outputs and diagnostics of the node."""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs rclpy")
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage, Image
from support.camera_faults import (
    ERROR,
    LABELS,
    OK,
    POINTS,
    SECOND,
    STALE,
    WARN,
    WITHOUT_COMPILATION,
    Feed,
    Gate,
    assert_labels,
    camera_fixtures,
    other_node,
)
from support.node_in_process import ask, node_inside
from support.node_process import node_process
from support.ros_client import Camera, Client, profile
from support.ros_messages import cloud_of, image, set_data, values_of

from mtl_perception import Pipeline
from mtl_perception.config import Config
from mtl_perception.ros.diagnostics import CHECK_PERIOD

short_memory, pipeline, node, client, connected, feed = camera_fixtures()


# Missing images.


def test_no_camera_at_start(node, client: Client) -> None:
    status = client.wait_status("frames", lambda s: s.level == WARN)
    # Settings of discovery follow until the node has discovered the client.
    assert status.message.startswith("no image received yet: /image has no publisher; remap image to the camera's topic")
    assert client.status("stream").level == OK


def test_missing_and_returning_images_are_logged(tmp_path: Path, weights_file: Path) -> None:
    arguments = ["-r", "__ns:=/logged", "-p", f"weights:={weights_file}", "-p", "warm_up:=false", "-p", "backend:=torch"]
    with node_process(tmp_path / "node.log", *arguments) as process:
        client = Client("logged", "/logged/mtl_perception")
        other = client.node.create_publisher(Image, "/cam/image", profile())
        hint = "remap image to the camera's topic (published: /cam/image"
        process.wait_for_output(f"frames: no image received yet: /logged/image has no publisher; {hint}")
        client.node.destroy_publisher(other)
        camera = Camera(client, "/logged/image", "/logged/camera_info", outputs={})

        def is_logged() -> bool:
            # The node may not have discovered the publisher of the first image.
            camera.publish(image(np.zeros((48, 64, 3), np.uint8)))
            return "[logged.mtl_perception]: frames: processing" in process.output

        client.spin_until(is_logged, "the end of the silence")
        process.wait_for_output("receiving images on /logged/image: 64x48 rgb8")
        process.wait_for_output("images are not processed until an output has a subscriber")
        client.close()


def test_camera_stops_and_returns(feed: Feed, client: Client, pipeline: Pipeline) -> None:
    status = client.wait_status("frames", lambda s: s.level != OK)
    assert status.level == STALE
    assert re.match(r"no image for \d+\.\d s: /image has a publisher, but no message was received", status.message)
    pixels = feed.pixels()
    assert_labels(feed.exchange(image(pixels)), pixels, pipeline)
    assert feed.wait_for_status("frames", OK, "processing")


def test_camera_that_stops_while_the_node_is_inactive_is_reported_after_activation(weights_file: Path) -> None:
    with node_inside(weights_file, Gate, "/again", image_timeout=0.5, **WITHOUT_COMPILATION) as node:
        client = Client("again", "/again/mtl_perception", start_ns=time.time_ns())
        Feed(client).wait_for_status("frames", OK, "processing")
        assert ask(node, "deactivate")
        assert node.session.cameras[0].monitor.last is None, "its latest image is kept"
        client.spin_for(0.6)
        assert ask(node, "activate")
        status = client.wait_status("frames", lambda s: s.level != OK)
        assert (status.level, status.message) == (
            WARN,
            "no image received yet: /again/image has a publisher, but no message was received",
        )
        client.close()


def test_silence_is_reported_before_the_next_period(weights_file: Path) -> None:
    """With the default parameters, within two seconds."""
    assert Config().image_timeout + 2 * CHECK_PERIOD < 2
    with other_node(weights_file, image_timeout=1.0, diagnostics_period=60.0) as client:
        feed = Feed(client)
        feed.wait_for_status("frames", OK, "processing")
        client.spin_until(lambda: client.statuses["frames"].level == STALE, "STALE", seconds=30)


def test_only_the_newest_image_of_a_burst_is_processed(feed: Feed, client: Client, node, pipeline: Pipeline) -> None:
    feed.camera.wait_until_idle()
    before = client.counts()
    gate = node.session.pipeline
    gate.reached.clear()
    gate.open.clear()
    sent = [feed.send()]
    client.spin_until(gate.reached.is_set)
    pixels = feed.pixels()
    for number in range(5):
        sent.append(feed.send(image(pixels if number == 4 else feed.pixels())))
        client.spin_until(lambda n=number: client.counts()["received"] == before["received"] + n + 2)
    gate.open.set()
    assert_labels(feed.camera.answers(sent[-1]), pixels, pipeline)
    feed.camera.wait_until_idle()
    after = client.counts()
    assert (after["processed"] - before["processed"], after["replaced"] - before["replaced"]) == (2, 4)
    assert not set(sent[1:-1]) & set(feed.camera.order[LABELS])
    feed.wait_until_ok()


# Frozen and changed images.


def test_repeated_stamps_are_reported(feed: Feed, client: Client, pipeline: Pipeline) -> None:
    stamp = time.time_ns()
    for count in (1, 2, 3):
        pixels = feed.pixels()
        feed.send(image(pixels), stamp)
        client.spin_until(lambda n=count: feed.camera.order[LABELS].count(stamp) == n)
        assert_labels({LABELS: feed.camera.received[LABELS][stamp]}, pixels, pipeline)
    named = f"consecutive images have the stamp {stamp // SECOND}.{stamp % SECOND:09d}"
    feed.wait_for_status("stream", WARN, named, lambda: feed.send(stamp=stamp))
    client.wait_status("stream", lambda s: int(values_of(s)["repeated stamps"]) >= 2)


def test_frozen_images_are_reported(feed: Feed, client: Client, pipeline: Pipeline) -> None:
    pixels = feed.pixels()
    status = feed.wait_for_status("stream", WARN, "image has not changed for", lambda: feed.send(image(pixels)))
    assert "frozen" in status.message
    assert client.status("frames").level == OK
    assert_labels(feed.exchange(image(pixels)), pixels, pipeline)
    feed.wait_for_status("stream", OK, "no anomalies")


def test_changes_of_size_and_encoding_are_reported(feed: Feed, client: Client, pipeline: Pipeline) -> None:
    before = int(values_of(client.status("stream"))["size or encoding changes"])
    gray = cv2.cvtColor(feed.pixels(24, 32), cv2.COLOR_RGB2GRAY)

    def change() -> None:
        feed.exchange()
        feed.exchange(image(gray, "mono8"))

    status = feed.wait_for_status("stream", WARN, "images changed from 64x48 rgb8 to 32x24 mono8", change)
    assert int(values_of(status)["size or encoding changes"]) > before
    status = client.wait_status("camera", lambda s: s.level == WARN)
    assert status.message == "camera_info is for 64x48; intrinsics are scaled to the image's 32x24"
    outputs = feed.exchange(image(gray, "mono8"))
    assert_labels(outputs, cv2.cvtColor(gray, cv2.COLOR_GRAY2RGB), pipeline)
    assert cloud_of(outputs[POINTS]).shape == (24, 32)


def test_long_encodings_and_frame_ids_are_truncated(feed: Feed, client: Client) -> None:
    strange = image(feed.pixels())
    strange.encoding = "rgb8\n" * 20_000
    frame = "camera\n" * 20_000
    status = feed.wait_for_status(
        "stream", WARN, "images changed from", lambda: feed.camera.publish(strange, frame, time.time_ns())
    )
    assert len(status.message) < 1000 and status.message.isprintable()
    status = feed.wait_for_status("camera", WARN, "frame_id of camera_info is", lambda: feed.send(frame_id=frame))
    assert len(status.message) < 1000 and status.message.isprintable()
    assert all(len(value.value) < 1000 and value.value.isprintable() for value in status.values)
    feed.wait_until_ok()


def test_size_that_does_not_match_the_calibration_drops_the_cloud_only(feed: Feed, client: Client, pipeline: Pipeline) -> None:
    pixels = feed.pixels(48, 48)
    outputs = feed.exchange(image(pixels), None, LABELS)
    assert_labels(outputs, pixels, pipeline)
    status = client.wait_status("camera", lambda s: s.level == ERROR)
    assert "no point cloud: the calibration is for 64x48, the image has 48x48" in status.message
    feed.camera.wait_until_idle()
    client.spin_for(0.1)
    assert feed.camera.order[LABELS][-1] not in feed.camera.order[POINTS]


def test_frozen_and_changed_compressed_images_are_reported(weights_file: Path, pipeline: Pipeline) -> None:
    def png(pixels: np.ndarray) -> CompressedImage:
        return set_data(CompressedImage(format="png"), cv2.imencode(".png", pixels[..., ::-1])[1].tobytes())

    with other_node(weights_file, image_timeout=1.0, image_transport="compressed") as client:
        feed = Feed(client, kind=CompressedImage)
        feed.camera.connect(png(feed.pixels()))
        pixels = feed.pixels(24, 32)

        def change() -> None:
            feed.exchange(png(feed.pixels()))
            feed.exchange(png(pixels))

        feed.wait_for_status("stream", WARN, "images changed from 64x48 png to 32x24 png", change)
        feed.wait_for_status("stream", WARN, "image has not changed for", lambda: feed.send(png(pixels)))
        assert_labels(feed.exchange(png(pixels)), pixels, pipeline)


# Clocks.


def test_backward_stamp_jumps_are_reported(feed: Feed, client: Client, pipeline: Pipeline) -> None:
    """As by a bag that restarts."""
    start = time.time_ns() - 100 * SECOND
    pixels, rounds = feed.pixels(), itertools.count()
    outputs: dict[str, Any] = {}

    def begin_anew() -> None:
        first = start + next(rounds)
        feed.exchange(stamp=first + 12 * SECOND)
        outputs.update(feed.exchange(image(pixels), first))

    status = feed.wait_for_status("stream", WARN, "stamps jumped back by 12.0 s", begin_anew)
    assert_labels(outputs, pixels, pipeline)
    assert int(values_of(status)["backward stamp jumps"]) >= 1
    ages = [value for name, value in client.values().items() if name.startswith("stamp age")]
    assert float(ages[0]) >= 0


@pytest.mark.parametrize(
    ("stamp", "words"),
    [
        (lambda: time.time_ns() + 5 * SECOND, "ahead of the node's clock: the clocks of camera and node differ"),
        (lambda: time.time_ns() - 3 * SECOND, "behind the node's clock: images are delayed"),
        (lambda: time.time_ns() - 3 * 366 * 86400 * SECOND, "3.0 years behind the node's clock: a recording"),
        (lambda: 12 * SECOND + time.time_ns() % SECOND, "they are simulated time (set use_sim_time)"),
        (lambda: 0, "stamps are zero: the driver does not set them"),
    ],
    ids=["future", "past", "recording", "simulation", "zero"],
)
def test_stamps_of_another_clock_are_reported(
    feed: Feed, client: Client, pipeline: Pipeline, stamp: Callable[[], int], words: str
) -> None:
    pixels, stamped = feed.pixels(), stamp()
    assert_labels(feed.exchange(image(pixels), stamped), pixels, pipeline)
    feed.wait_for_status("stream", WARN, words, lambda: feed.send(stamp=stamp()))
    age = client.values()["stamp age median [ms]"]
    assert age == "-" or 0 <= float(age) < 60_000
    feed.wait_for_status("stream", OK, "no anomalies")


def test_simulated_time(weights_file: Path, pipeline: Pipeline) -> None:
    """Without /clock, with it, with images of another clock, and after a reset."""
    with other_node(weights_file, use_sim_time=True) as client:
        feed = Feed(client)
        feed.wait_for_status("stream", WARN, "use_sim_time is set, but nothing was received on /clock yet")
        clock = client.node.create_publisher(Clock, "/clock", profile())
        now = itertools.count(1000 * SECOND, SECOND // 20)

        def simulated(offset: int = 0, message: Any = None) -> int:
            time_ns = next(now)
            message_of_clock = Clock()
            message_of_clock.clock.sec, message_of_clock.clock.nanosec = divmod(time_ns, SECOND)
            clock.publish(message_of_clock)
            client.spin_for(0.02)
            return feed.send(message, time_ns + offset)

        feed.wait_for_status("stream", OK, "no anomalies", simulated)
        feed.wait_for_status(
            "stream", WARN, "ahead of simulated time: they are not based on /clock", lambda: simulated(10**9 * SECOND)
        )
        feed.wait_for_status("stream", OK, "no anomalies", simulated)
        now = itertools.count(5 * SECOND, SECOND // 20)
        pixels = feed.pixels()
        assert_labels(feed.camera.answers(simulated(message=image(pixels))), pixels, pipeline)
        feed.wait_for_status("stream", WARN, "stamps jumped back by", simulated)
        feed.wait_for_status("stream", OK, "no anomalies", simulated)
