"""A camera at work whose pictures can be anything, and a node that it is shown to, as fixtures of a test file."""

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
from support.ros_client import Camera, Client
from support.ros_messages import camera_info, image, labels_of

WIDTH, HEIGHT = 64, 48
OUTPUTS = {"segmentation/labels": Image, "points": PointCloud2}
LABELS, POINTS = OUTPUTS
OK, WARN, ERROR, STALE = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR, DiagnosticStatus.STALE
PARTS = ("frames", "stream", "camera")
SECOND = 10**9
CHEAP: dict[str, Any] = {"backend": "torch", "warm_up": False}
"""Nothing is compiled: the pictures are few, and of several sizes."""


class Gate:
    """Stands before the pipeline, and holds frames back while it is shut."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        self.reached, self.open = threading.Event(), threading.Event()
        self.open.set()

    def batch(self, frames: Any, outputs: Any) -> Any:
        self.reached.set()
        self.open.wait(60)
        return self.pipeline.batch(frames, outputs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.pipeline, name)


class Feed:
    """A camera at work: each of its pictures is another one, and has the present time for a stamp."""

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

    def picture(self, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
        return noise_image(height, width, seed=next(self._seeds))

    def send(self, message: Any = None, stamp: int | None = None, frame_id: str = "camera_optical") -> int:
        message = image(self.picture()) if message is None else message
        return self.camera.publish(message, frame_id, time.time_ns() if stamp is None else stamp)

    def exchange(self, message: Any = None, stamp: int | None = None, *topics: str) -> dict[str, Any]:
        return self.camera.answers(self.send(message, stamp), *topics)

    def until(self, what: Callable[[], Any], send: Callable[[], Any] | None = None) -> Any:
        """Pictures, until something is so."""
        deadline = time.monotonic() + 60
        while not (value := what()):
            assert time.monotonic() < deadline, f"in vain, last: {self.client.statuses}"
            (send or self.send)()
            self.client.spin_for(0.05)
        return value

    def told(self, part: str, level: bytes, words: str, send: Callable[[], Any] | None = None) -> DiagnosticStatus:
        """Pictures, until a status has this level and these words."""

        def said() -> DiagnosticStatus | None:
            status = self.client.statuses.get(part)
            return status if status is not None and status.level == level and words in status.message else None

        return self.until(said, send)

    def well(self) -> None:
        """Good pictures, until nothing is found of which the test before was the cause."""
        self.until(lambda: all(self.client.statuses[part].level == OK for part in PARTS))


@contextlib.contextmanager
def apart(weights: Path, **settings: Any) -> Iterator[Client]:
    """A client of another node, with settings of its own."""
    with node_inside(weights, Gate, "/apart", **CHEAP, **settings):
        client = Client("apart", "/apart/mtl_perception", start_ns=time.time_ns())
        yield client
        client.close()


def camera_fixtures() -> tuple[Any, ...]:
    """Fixtures, to be named `short_memory`, `pipeline`, `node`, `client`, `connected` and `feed`."""

    @pytest.fixture(scope="module", autouse=True)
    def short_memory():
        """What happened once is told for 1 s, so that the tests need not wait longer for it to be over."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(stream_monitor, "REPORT_TIME", 1.0)
            yield

    @pytest.fixture(scope="module")
    def pipeline(weights_file: Path) -> Pipeline:
        return Pipeline(weights=str(weights_file), device="cpu", **CHEAP)

    @pytest.fixture(scope="module")
    def node(weights_file: Path):
        with node_inside(weights_file, Gate, image_timeout=1.0, **CHEAP) as node:
            yield node

    @pytest.fixture(scope="module")
    def client(node):
        client = Client(start_ns=time.time_ns())
        yield client
        client.close()

    @pytest.fixture(scope="module")
    def connected(client: Client):
        feed = Feed(client)
        feed.camera.connect(image(feed.picture()))
        return feed

    @pytest.fixture
    def feed(connected: Feed) -> Feed:
        connected.well()
        return connected

    return short_memory, pipeline, node, client, connected, feed


def assert_labels(outputs: dict[str, Any], picture: np.ndarray, pipeline: Pipeline, under: str = "") -> None:
    """They are those of this picture."""
    np.testing.assert_array_equal(labels_of(outputs[under + LABELS]), pipeline(Frame(picture), {"labels"}).labels)
