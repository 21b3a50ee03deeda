"""Failures of the inference device, with each value of `on_device_error`.

A simulated GPU, made of CPU tensors, fails on demand.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip("rclpy", reason="needs rclpy")
from lifecycle_msgs.msg import State
from rclpy.lifecycle import TransitionCallbackReturn
from support.faulty_gpu import LOST, Gpu, faulty_gpu, spoil_outputs
from support.images import noise_image
from support.node_in_process import in_its_executor, node_inside
from support.ros_client import Camera, Client
from support.ros_messages import OUTPUTS, camera_info, cloud_of, depth_of, image, labels_of, values_of

from mtl_perception import CameraModel, Frame, Pipeline
from mtl_perception.inference.torch.engine import TorchEngine
from mtl_perception.runtime import recovery

WIDTH, HEIGHT = 64, 48
PIXELS = noise_image(HEIGHT, WIDTH)
CAMERA = CameraModel(WIDTH, HEIGHT, 60.0, 62.0, WIDTH / 2 - 1.25, HEIGHT / 2 + 0.75)
FRAME = Frame(PIXELS, CAMERA)


@pytest.fixture
def gpu(monkeypatch) -> Gpu:
    """A simulated GPU, with short backoff."""
    monkeypatch.setattr(recovery, "MIN_BACKOFF", 0.05)
    monkeypatch.setattr(recovery, "MAX_BACKOFF", 0.2)
    return faulty_gpu(monkeypatch)


def camera_of(client: Client, name: str) -> Camera:
    under = f"{name}/" if name else ""
    outputs = {f"{under}{topic}": kind for topic, kind in OUTPUTS.items()}
    camera = Camera(client, f"/{under}image", f"/{under}camera_info", outputs=outputs, name=name)
    camera.publish_info(camera_info(WIDTH, HEIGHT))
    camera.connect(image(PIXELS))
    return camera


@pytest.fixture
def start(weights_file: Path):
    """A function that starts a node and a camera: `start(on_device_error=…)`."""
    with ExitStack() as stack:

        def start(**settings) -> SimpleNamespace:
            node = stack.enter_context(node_inside(weights_file, lambda made: made, warm_up=False, **settings))
            client = stack.enter_context(closing(Client()))
            cameras = [camera_of(client, name) for name in settings.get("cameras", [""])]
            return SimpleNamespace(node=node, client=client, camera=cameras[0], other=cameras[-1])

        yield start


def publish_until(at, part: str, condition: Callable) -> SimpleNamespace:
    """Publish images one by one until a status fulfills the condition; return the status and the stamps."""
    stamps = []

    def so():
        stamps.append(at.camera.publish(image(PIXELS)))
        at.camera.wait_until_idle()
        status = at.client.status(part)
        return status if condition(status) else None

    status = at.client.spin_until(so)
    return SimpleNamespace(status=status, stamps=stamps)


def is_right(at) -> bool:
    """Return whether the outputs for an image equal those of a pipeline on the CPU."""
    outputs = at.camera.exchange(image(PIXELS))
    expected = Pipeline(weights=at.node.config.weights, device="cpu", backend="torch", warm_up=False)(FRAME)
    return bool((labels_of(outputs["segmentation/labels"]) == expected.labels).mean() > 0.99)


def network(at):
    return at.client.status("network")


def test_single_failure_drops_one_frame_only(gpu: Gpu, start) -> None:
    at = start()
    before = at.node.session.pipeline._backend
    failures = [torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")] * 2  # The frame is tried twice.
    gpu.faults = list(failures)
    lost = at.camera.publish(image(PIXELS))
    status = at.client.wait_status("frames", lambda s: "out of memory" in s.message)
    assert status.level == status.ERROR
    assert is_right(at)
    assert all(lost not in received for received in at.camera.received.values())
    counts = at.client.counts()
    assert (counts["rejected: device"], counts["rejected"]) == (1, 1)
    assert at.node.session.pipeline._backend is before and gpu.made == 1
    assert network(at).level == network(at).WARN  # Because programs were freed.
    assert values_of(network(at))["device failures"] == "1"
    assert values_of(network(at))["device recoveries"] == "0"


def test_retry_rebuilds_the_pipeline_until_it_works(gpu: Gpu, start) -> None:
    at = start()
    assert at.node.config.on_device_error == "retry"
    gpu.fault = RuntimeError(LOST)
    down = publish_until(at, "network", lambda s: "attempt 3" in s.message)
    assert down.status.level == down.status.ERROR
    assert "device cuda:0 failed while" in down.status.message
    assert "CUDA error: unspecified launch failure; rebuild attempt" in down.status.message
    assert "restart the node" in down.status.message
    assert at.client.status("frames").level == at.client.status("frames").ERROR
    assert at.client.counts()["rejected: device"] == len(down.stamps)
    gpu.fault = None
    publish_until(at, "network", lambda s: s.level == s.OK)
    assert is_right(at)
    values = values_of(network(at))
    assert (values["device"], values["device recoveries"]) == ("cuda:0", "1")
    assert int(values["device failures"]) >= 5
    for received in at.camera.received.values():
        assert not set(received) & set(down.stamps)
    publish_until(at, "frames", lambda s: s.message == "processing")


def test_cpu_policy_continues_on_the_cpu_until_the_next_configuration(gpu: Gpu, start) -> None:
    at = start(on_device_error="cpu")
    assert at.node.session.pipeline.result_sets == 2
    gpu.fault = RuntimeError(LOST)
    found = publish_until(at, "network", lambda s: "running on cpu until the next configuration" in s.message)
    assert len(found.stamps) <= 4
    assert found.status.level == found.status.WARN
    assert "because cuda:0 failed: device cuda:0 failed while" in found.status.message
    assert values_of(found.status)["device"] == "cpu"
    assert at.node.session.pipeline.result_sets == 1
    arrays = [noise_image(HEIGHT, WIDTH, seed) for seed in range(5)]
    expected = Pipeline(weights=at.node.config.weights, device="cpu", warm_up=False)
    for pixels in arrays:
        outputs = at.camera.exchange(image(pixels))
        np.testing.assert_array_equal(labels_of(outputs["segmentation/labels"]), expected(Frame(pixels)).labels)
    assert at.client.counts()["rejected: device"] == 2
    gpu.fault = None
    for step in ("deactivate", "cleanup", "configure", "activate"):
        assert in_its_executor(at.node, getattr(at.node, f"trigger_{step}")) == TransitionCallbackReturn.SUCCESS
    assert (network(at).level, network(at).message) == (network(at).OK, "random on cuda:0")


def test_failed_cpu_is_rebuilt(start, monkeypatch) -> None:
    at = start(on_device_error="cpu", backend="torch")
    before, fails = at.node.session.pipeline._backend, iter([True] * 2)
    forward = TorchEngine.forward

    def full(self, *arguments):
        if next(fails, False):
            raise MemoryError("Unable to allocate 8 GiB")
        return forward(self, *arguments)

    monkeypatch.setattr(TorchEngine, "forward", full)
    found = publish_until(at, "network", lambda s: values_of(s)["device recoveries"] == "1")
    assert len(found.stamps) == 3
    assert (found.status.level, found.status.message) == (found.status.OK, "random on cpu")
    assert at.node.session.pipeline._backend is not before
    assert values_of(at.client.status("frames"))["last rejection"].startswith("device cpu: out of memory while processing")


def test_all_cameras_recover_together(gpu: Gpu, start) -> None:
    at = start(cameras=["front", "left"])
    cameras = [at.camera, at.other]
    gpu.fault = RuntimeError(LOST)

    def publish() -> bool:
        for camera in cameras:
            camera.publish(image(PIXELS))
        for camera in cameras:
            camera.wait_until_idle()
        return True

    at.client.spin_until(lambda: publish() and "attempt" in network(at).message)
    assert all(at.client.counts(camera.frames)["rejected: device"] > 0 for camera in cameras)
    gpu.fault = None
    at.client.spin_until(lambda: publish() and network(at).level == network(at).OK)
    for camera in cameras:
        camera.exchange(image(PIXELS))
        assert at.client.counts(camera.frames)["rejected"] == at.client.counts(camera.frames)["rejected: device"]
    assert values_of(network(at))["device recoveries"] == "1"


def test_stop_policy_ends_unconfigured_and_allows_configuration(gpu: Gpu, start) -> None:
    at = start(on_device_error="stop")
    worker = at.node._worker
    gpu.fault = RuntimeError(LOST)

    def stopped():
        # More than two, because images may replace others before they are processed.
        at.camera.publish(image(PIXELS))
        status = network(at)
        return status if status.level == status.ERROR and values_of(status)["state"] == "unconfigured" else None

    status = at.client.spin_until(stopped)
    assert status.message.startswith(
        "stopped because the inference device failed (on_device_error is stop): device cuda:0 failed while"
    )
    assert at.node._state_machine.current_state[0] == State.PRIMARY_STATE_UNCONFIGURED
    assert not worker.is_alive() and at.node.session is None
    assert at.client.node.count_publishers("/mtl_perception/points") == 0
    gpu.fault = None
    for step in ("configure", "activate"):
        assert in_its_executor(at.node, getattr(at.node, f"trigger_{step}")) == TransitionCallbackReturn.SUCCESS
    at.camera.wait_until_heard()
    at.camera.connect(image(PIXELS), "segmentation/labels")
    assert network(at).level == network(at).OK


def test_weights_are_reloaded_after_nonfinite_outputs(start) -> None:
    at = start(backend="torch")
    at.node.session.pipeline._backend.engine._network.get_parameter("depth.bias").fill_(float("nan"))
    lost = [at.camera.publish(image(PIXELS)) for _ in range(2) if at.camera.wait_until_idle() is None]
    status = at.client.wait_status("frames", lambda s: values_of(s).get("rejected: not_finite") == "2")
    assert status.level == status.ERROR
    assert "device cpu, fp32: depth output is non-finite for every pixel" in status.message
    assert is_right(at)
    assert not any(stamp in received for stamp in lost for received in at.camera.received.values())
    assert values_of(network(at))["device recoveries"] == "1"


def test_nonfinite_pixels_are_published_as_invalid(start, monkeypatch) -> None:
    at = start()
    before = at.camera.exchange(image(PIXELS))
    spoil_outputs(monkeypatch, float("nan"))
    outputs = at.camera.exchange(image(PIXELS))
    labels, depth = labels_of(outputs["segmentation/labels"]), depth_of(outputs["depth/image"])
    confidence, cloud = labels_of(outputs["segmentation/confidence"]), cloud_of(outputs["points"])
    spoilt, far = (slice(0, 16), slice(0, 16)), (slice(32, None), slice(32, None))
    assert (labels[spoilt] == 255).all() and (confidence[spoilt] == 0).all() and (cloud["label"][spoilt] == 255).all()
    assert np.isnan(depth[spoilt]).all() and all(np.isnan(cloud[axis][spoilt]).all() for axis in "xyz")
    assert not outputs["points"].is_dense
    np.testing.assert_array_equal(depth[far], depth_of(before["depth/image"])[far])
    np.testing.assert_array_equal(labels[far], labels_of(before["segmentation/labels"])[far])
    assert at.client.counts()["rejected"] == 0
