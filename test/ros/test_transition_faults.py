"""Failing transitions: reason in log and diagnostics, released resources, and repetition without a restart."""

from __future__ import annotations

import contextlib
import gc
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="needs rclpy")
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from sensor_msgs.msg import Image
from support.images import noise_image
from support.node_in_process import ask, in_its_executor, node_inside
from support.ros_client import Camera, Client
from support.ros_messages import image, labels_of

from mtl_perception.inference.torch import engine as run
from mtl_perception.inference.torch.engine import TorchEngine
from mtl_perception.ros import camera
from mtl_perception.ros.subscriptions import CameraSubscriptions

WIDTH, HEIGHT = 64, 48
PIXELS = noise_image(HEIGHT, WIDTH)
WORKS = {"device": "cpu", "warm_up": True, "backend": "torch"}


@pytest.fixture
def node(weights_file: Path):
    with node_inside(weights_file, lambda pipeline: pipeline, backend="torch", warm_up=False) as node:
        yield node


@pytest.fixture
def client(node) -> Iterator[Client]:
    with contextlib.closing(Client()) as client:
        yield client


def state_of(node) -> str:
    return str(node._state_machine.current_state[1])


def put(node, client: Client, **values) -> None:
    changes = [Parameter(name, value=value) for name, value in values.items()]
    results = in_its_executor(node, lambda: node.set_parameters(changes))
    assert all(result.successful for result in results), results


def no_memory(*_, **__):
    raise RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: you tried to …")


def refuse(*_, **__):
    raise RuntimeError("the middleware has no more")


def assert_works(node, client: Client) -> None:
    """Configure and activate the node, and check the labels of an image."""
    assert ask(node, "configure")
    assert ask(node, "activate")
    seen = Camera(client, outputs={"segmentation/labels": Image})
    assert labels_of(seen.connect(image(PIXELS))["segmentation/labels"]).shape == (HEIGHT, WIDTH)
    status = client.wait_status("network", lambda s: s.level == s.OK)
    assert status.message == "random on cpu"


@pytest.mark.parametrize(
    ("wrong", "patched", "words"),
    [
        ({"weights": "/nowhere/at_all.safetensors"}, None, "/nowhere/at_all.safetensors"),
        ({"weights": "no_such_name"}, None, "no_such_name"),
        ({"device": "cuda:99"}, None, "device 'cuda:99': "),
        ({"precision": "fp16", "device": "cpu"}, None, "precision fp16 needs a GPU"),
        ({"backend": "torch"}, (run.copy, "deepcopy", no_memory), "device cpu: out of memory while loading the network: "),
        ({"warm_up": True}, (TorchEngine, "forward", no_memory), "device cpu: out of memory while processing a 1242x375 image"),
        ({}, (camera.Camera, "create_publishers", refuse), "RuntimeError: the middleware has no more"),
    ],
    ids=["missing file", "unknown name", "wrong device", "wrong precision", "no memory", "no memory later", "no publisher"],
)
def test_failed_configure_reports_the_reason_and_can_be_repeated(
    node, client: Client, weights_file: Path, monkeypatch, capfd, wrong: dict, patched, words: str
) -> None:
    for step in ("deactivate", "cleanup"):
        assert ask(node, step)
    mended = {name: node.get_parameter(name).value for name in wrong}
    put(node, client, **wrong)
    with monkeypatch.context() as context:
        if patched:
            context.setattr(*patched)
        for _ in range(2):
            capfd.readouterr()
            assert not ask(node, "configure")
            assert state_of(node) == "unconfigured"
            status = client.wait_status("network", lambda s: s.level == s.ERROR)
            assert words in status.message
            assert node.session is None and client.node.count_publishers("/mtl_perception/points") == 0
            log = capfd.readouterr().err
            assert "cannot configure: " in log and words in log and "Traceback" not in log
        assert not ask(node, "activate")
    put(node, client, **mended)
    assert_works(node, client)


def test_failed_configure_frees_memory_immediately(node, client: Client, monkeypatch) -> None:
    for step in ("deactivate", "cleanup"):
        assert ask(node, step)
    made = []
    monkeypatch.setattr(
        camera.Camera, "create_publishers", lambda *_: made.append(weakref.ref(node.session.pipeline)) or refuse()
    )
    gc.disable()
    try:
        assert not ask(node, "configure")
        assert made[0]() is None
    finally:
        gc.enable()


@pytest.mark.parametrize(
    ("transition", "patched", "words"),
    [
        ("cleanup", (camera.Camera, "destroy_publishers"), "cannot cleanup: RuntimeError: the middleware has no more"),
        (
            "deactivate",
            (CameraSubscriptions, "close"),
            "cannot deactivate: RuntimeError: the middleware has no more",
        ),
    ],
)
def test_error_in_a_transition_ends_unconfigured(
    node, client: Client, monkeypatch, capfd, transition: str, patched, words: str
) -> None:
    worker = node._worker
    if transition == "cleanup":
        assert ask(node, "deactivate")
    right, times = getattr(*patched), []

    def once(self, *arguments):
        times.append(1)
        return refuse() if len(times) == 1 else right(self, *arguments)

    monkeypatch.setattr(*patched, once)
    assert not ask(node, transition)
    assert state_of(node) == node.state_name == "unconfigured"
    assert words in capfd.readouterr().err
    status = client.wait_status("network", lambda s: s.level == s.ERROR)
    assert status.message == "RuntimeError: the middleware has no more"
    assert not worker.is_alive()
    assert client.node.count_publishers("/mtl_perception/points") == 0
    assert_works(node, client)


def test_error_in_error_processing_finalizes_the_node(node, client: Client, monkeypatch) -> None:
    assert ask(node, "deactivate")
    monkeypatch.setattr(camera.Camera, "destroy_publishers", refuse)
    assert not ask(node, "cleanup")
    assert state_of(node) == node.state_name == "finalized"
    status = client.wait_status("network", lambda s: s.level == s.ERROR)
    assert status.message == "RuntimeError: the middleware has no more"
    assert client.status("frames").message == "finalized"


@pytest.mark.parametrize("first", ["deactivate", "active_shutdown"])
def test_other_transition_before_the_requested_stop(node, client: Client, first: str) -> None:
    """The worker thread requests the stop, and another transition is requested before it is made."""

    def both() -> TransitionCallbackReturn:
        node._request_stop("lost")
        return node.trigger_deactivate() if first == "deactivate" else node.trigger_shutdown()

    result = in_its_executor(node, both)
    client.spin_for(0.3)
    if first == "deactivate":
        assert (result, state_of(node)) == (TransitionCallbackReturn.ERROR, "unconfigured")
        assert client.wait_status("network", lambda s: s.level == s.ERROR).message.endswith("is stop): lost")
        assert_works(node, client)
    else:
        assert (result, state_of(node)) == (TransitionCallbackReturn.SUCCESS, "finalized")
