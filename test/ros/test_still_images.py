"""Still images: one message of a transient local publisher, which no other follows."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs rclpy")
from sensor_msgs.msg import Image
from support.camera_faults import OK, WITHOUT_COMPILATION, Gate
from support.images import noise_image
from support.node_in_process import node_inside
from support.ros_client import Client, profile
from support.ros_messages import depth_of, image, labels_of, put_header, stamp_of

from mtl_perception import Frame, Pipeline

PIXELS = noise_image(48, 64)


@pytest.fixture(scope="module")
def client():
    client = Client("still", "/still/mtl_perception", start_ns=time.time_ns())
    yield client
    client.close()


@pytest.fixture(scope="module")
def stamp(client: Client) -> int:
    """Stamp of an image that is published once, before the node starts."""
    publisher, message = client.node.create_publisher(Image, "/still/image", profile(latched=True, depth=1)), image(PIXELS)
    put_header(message, client.next_stamp(), "map_camera")
    publisher.publish(message)
    return stamp_of(message)


@pytest.fixture(scope="module")
def labels(client: Client) -> list[Image]:
    return subscribe(client, "segmentation/labels")


@pytest.fixture(scope="module")
def node(stamp: int, labels: list[Image], weights_file: Path) -> Any:
    with node_inside(weights_file, Gate, "/still", **WITHOUT_COMPILATION) as node:
        yield node


def subscribe(client: Client, topic: str) -> list[Image]:
    """Return a list to which the messages of an output will be appended."""
    received: list[Image] = []
    client.node.create_subscription(Image, f"/still/mtl_perception/{topic}", received.append, profile())
    return received


@pytest.fixture(scope="module")
def pipeline(weights_file: Path) -> Pipeline:
    return Pipeline(weights=str(weights_file), device="cpu", **WITHOUT_COMPILATION)


def test_image_published_before_the_node_starts_is_processed(
    client: Client, node: Any, stamp: int, labels: list[Image], pipeline: Pipeline
) -> None:
    client.spin_until(lambda: labels, "labels of the still image")
    assert (stamp_of(labels[0]), labels[0].header.frame_id) == (stamp, "map_camera")
    np.testing.assert_array_equal(labels_of(labels[0]), pipeline(Frame(PIXELS), {"labels"}).labels)
    assert client.values("stream")["repeated stamps"] == "0"


def test_late_subscriber_of_an_output_receives_the_still_image(
    client: Client, node: Any, stamp: int, labels: list[Image], pipeline: Pipeline
) -> None:
    """As RViz does that is started after the node."""
    client.spin_until(lambda: labels, "labels of the still image")
    depth = subscribe(client, "depth/image")
    client.spin_until(lambda: depth, "depth of the still image")
    assert stamp_of(depth[0]) == stamp
    np.testing.assert_array_equal(depth_of(depth[0]), pipeline(Frame(PIXELS), {"depth"}).depth)
    words = "behind the node's clock: a transient local publisher published it earlier, or images are delayed"
    assert client.wait_status("stream", lambda status: status.message.endswith(words)).message.count(";") == 0
    client.wait_status("stream", lambda status: status.level == OK)
    assert len(depth) == 1, "the image is not processed again without a new subscriber"
    assert client.values("stream")["repeated stamps"] == "0"
