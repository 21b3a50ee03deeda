"""Fixtures of a test module: a node, and a camera whose images the test controls."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs rclpy")
from diagnostic_msgs.msg import DiagnosticStatus
from sensor_msgs.msg import CompressedImage, Image, PointCloud2

from mtl_perception import Frame, Pipeline
from mtl_perception.runtime import stream_monitor
from support.images import noise_image
from support.node_in_process import node_inside
from support.node_process import PATIENCE
from support.ros_client import Camera, Client
from support.ros_messages import camera_info, image, labels_of

WIDTH, HEIGHT = 64, 48
OUTPUTS = {"segmentation/labels": Image, "points": PointCloud2}
LABELS, POINTS = OUTPUTS
OK, WARN, ERROR, STALE = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR, DiagnosticStatus.STALE
PARTS = ("frames", "stream", "camera")
SECOND = 10**9
WITHOUT_COMPILATION: dict[str, Any] = {"backend": "torch", "warm_up": False}
"""Parameters without compilation, because the images are few and of several sizes."""


class Gate:
    """Wrapper of the pipeline that blocks while `open` is cleared."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        self.reached, self.open = threading.Event(), threading.Event()
        self.open.set()

    def batch(self, frames: Any, outputs: Any) -> Any:
        self.reached.set()
        self.open.wait(PATIENCE)
        return self.pipeline.batch(frames, outputs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.pipeline, name)


class Feed:
    """A camera with different images, stamped with the current time."""

    def __init__(self, client: Client, prefix: str = "", calibrated: bool = True, kind: Any = Image) -> None:
        outputs = {f"{prefix}{topic}": output for topic, output in OUTPUTS.items()}
        under = f"{client._node_name.rsplit('/', 1)[0]}/{prefix}"
        info = f"{under}camera_info" if calibrated else ""
        self.client = client
        topic = f"{under}image/compressed" if kind is CompressedImage else f"{under}image"
        self.camera = Camera(client, topic, info, kind, outputs=outputs, name=prefix.rstrip("/"))
        self._seeds = itertools.count()
        if calibrated:
            self.camera.publish_info(camera_info(WIDTH, HEIGHT))

    def pixels(self, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
        return noise_image(height, width, seed=next(self._seeds))

    def send(self, message: Any = None, stamp: int | None = None, frame_id: str = "camera_optical") -> int:
        message = image(self.pixels()) if message is None else message
        return self.camera.publish(message, frame_id, time.time_ns() if stamp is None else stamp)

    def exchange(self, message: Any = None, stamp: int | None = None, *topics: str) -> dict[str, Any]:
        return self.camera.answers(self.send(message, stamp), *topics)

    def until(self, what: Callable[[], Any], send: Callable[[], Any] | None = None) -> Any:
        """Publish images until a condition is true, and return its value."""
        deadline = time.monotonic() + PATIENCE
        while not (value := what()):
            assert time.monotonic() < deadline, f"without success, last: {self.client.statuses}"
            (send or self.send)()
            self.client.spin_for(0.05)
        return value

    def wait_for_status(self, part: str, level: bytes, words: str, send: Callable[[], Any] | None = None) -> DiagnosticStatus:
        """Publish images until a status has a level and contains words, and return it."""

        def matching_status() -> DiagnosticStatus | None:
            status = self.client.statuses.get(part)
            return status if status is not None and status.level == level and words in status.message else None

        return self.until(matching_status, send)

    def wait_until_ok(self) -> None:
        """Publish images until no findings of the previous test are left."""
        self.until(lambda: all(self.client.statuses[part].level == OK for part in PARTS))


@contextlib.contextmanager
def other_node(weights: Path, **settings: Any) -> Iterator[Client]:
    """Run another node with its own parameters, and yield a client of it."""
    with node_inside(weights, Gate, "/apart", **WITHOUT_COMPILATION, **settings):
        client = Client("apart", "/apart/mtl_perception", start_ns=time.time_ns())
        yield client
        client.close()


def camera_fixtures() -> tuple[Any, ...]:
    """Return the fixtures `short_memory`, `pipeline`, `node`, `client`, `connected` and `feed`."""

    @pytest.fixture(scope="module", autouse=True)
    def short_memory():
        """Report single events for 0.5 s only, so that the tests wait no longer."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(stream_monitor, "REPORT_TIME", 0.5)
            yield

    @pytest.fixture(scope="module")
    def pipeline(weights_file: Path) -> Pipeline:
        return Pipeline(weights=str(weights_file), device="cpu", **WITHOUT_COMPILATION)

    @pytest.fixture(scope="module")
    def node(weights_file: Path):
        with node_inside(weights_file, Gate, image_timeout=1.0, **WITHOUT_COMPILATION) as node:
            yield node

    @pytest.fixture(scope="module")
    def client(node):
        client = Client(start_ns=time.time_ns())
        yield client
        client.close()

    @pytest.fixture(scope="module")
    def connected(client: Client):
        feed = Feed(client)
        feed.camera.connect(image(feed.pixels()))
        return feed

    @pytest.fixture
    def feed(connected: Feed) -> Feed:
        connected.wait_until_ok()
        return connected

    return short_memory, pipeline, node, client, connected, feed


def assert_labels(outputs: dict[str, Any], pixels: np.ndarray, pipeline: Pipeline, under: str = "") -> None:
    """Check that the labels are those of an image."""
    np.testing.assert_array_equal(labels_of(outputs[under + LABELS]), pipeline(Frame(pixels), {"labels"}).labels)
