"""Batches of several cameras, and publishing in parallel with inference."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs rclpy")
from sensor_msgs.msg import Image
from support.images import noise_image
from support.node_in_process import node_inside
from support.node_process import PATIENCE
from support.ros_client import Camera, Client
from support.ros_messages import image, labels_of, values_of

from mtl_perception import Frame, Pipeline

NAMES = ("front", "left", "right")
SIZES = {"front": (48, 64), "left": (48, 64), "right": (40, 72)}
IMAGES = {name: noise_image(*SIZES[name], seed=i) for i, name in enumerate(NAMES)}


def camera_of(client: Client, name: str) -> Camera:
    topics = (f"/inside/{name}/image", f"/inside/{name}/camera_info")
    camera = Camera(client, *topics, outputs={f"{name}/segmentation/labels": Image}, name=name)
    camera.connect(image(IMAGES[name]))
    return camera


class Gpu:
    """Wrapper of the pipeline that behaves like a GPU: it keeps the results of two calls, and processes batches."""

    result_sets = 2
    batch_limit = 8

    def __init__(self, pipeline) -> None:
        self.pipeline = pipeline
        self.batches: list[int] = []
        self.fails = False
        self.may_go = threading.Event()
        self.may_go.set()
        self._sets: list[dict] = [{}, {}]

    def batch(self, frames, outputs):
        self.may_go.wait(PATIENCE)
        self.batches.append(len(frames))
        self._sets.reverse()
        if self.fails and len(frames) > 1:
            raise RuntimeError("one of these")
        return [
            self._kept(i, self.pipeline(frame, wanted)) for i, (frame, wanted) in enumerate(zip(frames, outputs, strict=True))
        ]

    def _kept(self, number: int, result):
        kept = self._sets[0].setdefault((number, result.labels.shape), np.empty_like(result.labels))
        kept[:] = result.labels
        return replace(result, labels=kept)

    def __getattr__(self, name: str):
        return getattr(self.pipeline, name)


@pytest.fixture
def node(weights_file: Path):
    settings = {"warm_up": False, "cameras": list(NAMES)}
    with node_inside(weights_file, Gpu, namespace="/inside", **settings) as node:
        yield node


@pytest.fixture
def client(node):
    client = Client(node_name="/inside/mtl_perception")
    yield client
    client.close()


@pytest.fixture(scope="module")
def pipeline(weights_file: Path) -> Pipeline:
    return Pipeline(weights=str(weights_file), device="cpu", warm_up=False)


@pytest.mark.parametrize("fails", [False, True])
def test_failed_batch_is_retried_one_by_one(node, client: Client, pipeline, fails: bool) -> None:
    gpu, cameras = node.session.pipeline, {name: camera_of(client, name) for name in NAMES}
    gpu.may_go.clear()
    gpu.batches.clear()
    gpu.fails = fails
    received = client.counts("left: frames")["received"]
    cameras["left"].publish(image(IMAGES["left"]))
    client.wait_status("left: frames", lambda s: int(values_of(s)["frames received"]) > received)
    stamps = {}
    for name, camera in cameras.items():
        before = client.counts(f"{name}: frames")["received"]
        stamps[name] = camera.publish(image(IMAGES[name]))
        # All images are received before the network is free.
        client.wait_status(f"{name}: frames", lambda s, n=before: int(values_of(s)["frames received"]) > n)
    gpu.may_go.set()
    for name, camera in cameras.items():
        found = camera.answers(stamps[name])[f"{name}/segmentation/labels"]
        np.testing.assert_array_equal(labels_of(found), pipeline(Frame(IMAGES[name])).labels)
    assert gpu.batches == ([1, 3, 1, 1, 1] if fails else [1, 3])
    assert all(client.counts(f"{name}: frames")["rejected"] == 0 for name in NAMES)


def test_frame_being_published_is_not_overwritten(node, client: Client, pipeline, monkeypatch) -> None:
    """With publishing slower than inference; deactivation waits for both."""
    camera = camera_of(client, "front")
    publish, overlapped = type(node.session.cameras[0]).publish, []

    def slow(self, *arguments) -> None:
        calls = len(node.session.pipeline.batches)
        time.sleep(0.1)
        overlapped.append(len(node.session.pipeline.batches) > calls)
        publish(self, *arguments)

    monkeypatch.setattr("mtl_perception.ros.camera.Camera.publish", slow)
    arrays = [noise_image(*SIZES["front"], seed=seed) for seed in range(12)]
    sent = {}
    for pixels in arrays:
        sent[camera.publish(image(pixels))] = pixels
        client.spin_for(0.05)
    worker = node._worker
    task = node.executor.create_task(node.trigger_deactivate)
    client.spin_until(task.done)
    assert not worker.is_alive()
    client.spin_for(0.3)
    order = [stamp for stamp in camera.order["front/segmentation/labels"] if stamp in sent]
    assert any(overlapped)
    assert order and order == sorted(order)
    for stamp in order:
        found = camera.received["front/segmentation/labels"][stamp]
        np.testing.assert_array_equal(labels_of(found), pipeline(Frame(sent[stamp])).labels)
    counts = client.counts("front: frames")
    assert counts["received"] == counts["processed"] + counts["replaced"]
    assert counts["processed"] >= len(overlapped)
