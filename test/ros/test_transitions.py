"""Transitions in every order while images arrive, and resources afterwards."""

from __future__ import annotations

import contextlib
import gc
import os
import re
import threading
import time
import weakref
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("rclpy", reason="needs rclpy")
from support.images import noise_image
from support.node_in_process import ask, node_inside
from support.node_process import PATIENCE
from support.ros_client import Camera, Client
from support.ros_messages import camera_info, image

WIDTH, HEIGHT = 64, 48
PERIOD_NS = 33_333_333
"""Nanoseconds between the stamps of two images."""
LEGAL = {
    ("unconfigured", "configure"): "inactive",
    ("inactive", "activate"): "active",
    ("inactive", "cleanup"): "unconfigured",
    ("active", "deactivate"): "inactive",
}
SHUTDOWNS = {state: f"{state}_shutdown" for state in ("unconfigured", "inactive", "active")}
STEPS = ("configure", "activate", "deactivate", "cleanup")


@pytest.fixture
def node(weights_file: Path, request):
    settings = {"warm_up": False, "cpu_threads": 2, **getattr(request, "param", {"backend": "torch"})}
    with node_inside(weights_file, lambda pipeline: pipeline, **settings) as node:
        yield node


@pytest.fixture
def client(node) -> Iterator[Client]:
    with contextlib.closing(Client()) as client:
        yield client


@contextlib.contextmanager
def arrays(client: Client) -> Iterator[Camera]:
    """Publish images all the time, with subscriptions to all outputs."""
    camera = Camera(client)
    camera.publish_info(camera_info(WIDTH, HEIGHT))
    message, stop = image(noise_image(HEIGHT, WIDTH)), threading.Event()

    def publish() -> None:
        while not stop.wait(0.02):
            camera.publish(message)

    thread = threading.Thread(target=publish, name="camera")
    thread.start()
    try:
        yield camera
    finally:
        stop.set()
        thread.join()


def every_order_of_three() -> list[str]:
    """Return a sequence that contains every three consecutive steps (a greedy de Bruijn sequence)."""
    word, seen = [STEPS[0]] * 2, set()
    while True:
        for step in reversed(STEPS):
            triple = (*word[-2:], step)
            if triple not in seen:
                seen.add(triple)
                word.append(step)
                break
        else:
            assert len(seen) == len(STEPS) ** 3
            return word


def state_of(node) -> str:
    return str(node._state_machine.current_state[1])


def wait_until_working(node, client: Client) -> None:
    statistics = node.session.cameras[0].statistics
    before = statistics.processed
    client.spin_until(lambda: statistics.processed > before, "an image to be processed")


def bring(node, *steps: str) -> None:
    for step in steps:
        assert ask(node, step), step


def possessions(node) -> dict[str, Any]:
    """Return the resources of the process."""
    return {
        "threads of Python": Counter(thread.name.rstrip("0123456789_") for thread in threading.enumerate()),
        "threads": len(os.listdir("/proc/self/task")),
        "file descriptors": len(os.listdir("/proc/self/fd")),
        "shared memory": set(re.findall(r"/dev/shm/\S+", Path("/proc/self/maps").read_text())),
        "publishers": Counter(publisher.topic_name for publisher in node.publishers),
        "subscriptions": Counter(subscription.topic_name for subscription in node.subscriptions),
        "timers": len(list(node.timers)),
        "memory of the GPU": torch.cuda.memory_reserved() if torch.cuda.is_initialized() else 0,
    }


def assert_no_more(node, client: Client, than: dict[str, Any]) -> None:
    """Wait until threads and shared-memory segments are gone."""
    deadline = time.monotonic() + PATIENCE
    while more := {name: (found, than[name]) for name, found in possessions(node).items() if not found <= than[name]}:
        assert time.monotonic() < deadline, more
        time.sleep(0.1)
    client.spin_until(lambda: client.node.count_publishers("/mtl_perception/points") == 0, "others to see no publisher")


def once_through(node, client: Client) -> dict[str, Any]:
    """Run through the lifecycle once, and return the resources of the unconfigured node."""
    wait_until_working(node, client)
    bring(node, "deactivate", "cleanup", "configure", "activate")
    wait_until_working(node, client)
    bring(node, "deactivate", "cleanup")
    return possessions(node)


def test_every_order_of_transitions_under_load(node, client: Client) -> None:
    with arrays(client):
        before = once_through(node, client)
        assert "/diagnostics" in before["publishers"] and "/mtl_perception/points" not in before["publishers"]
        assert "/image" not in before["subscriptions"]
        state, seen = "unconfigured", Counter()
        for step in 2 * every_order_of_three():
            expected = LEGAL.get((state, step))
            assert ask(node, step) == (expected is not None), (state, step)
            seen[(state, step)] += 1
            state = expected or state
            assert state_of(node) == node.state_name == state
            for other in set(SHUTDOWNS) - {state}:
                assert not ask(node, SHUTDOWNS[other])
            assert state_of(node) == state
            assert (node._worker is not None) == (state == "active")
            assert (node.session is not None) == (state != "unconfigured")
            if expected == "active":
                wait_until_working(node, client)
        assert set(seen) == {(state, step) for state in SHUTDOWNS for step in STEPS} and min(seen.values()) >= 2
        while state != "unconfigured":
            bring(node, "deactivate" if state == "active" else "cleanup")
            state = state_of(node)
        assert_no_more(node, client, before)
    # Older messages may still be queued.
    client.wait_status("network", lambda s: (s.level, s.message) == (s.OK, "unconfigured"))


@pytest.mark.parametrize("node", [{"backend": "torch"}, {"backend": "auto"}], indirect=True, ids=["torch", "auto"])
def test_cleanup_releases_all_resources(node, client: Client) -> None:
    with arrays(client):
        before = once_through(node, client)
        for _ in range(3):
            bring(node, "configure", "activate")
            wait_until_working(node, client)
            working = possessions(node)
            assert working["threads of Python"]["perception"] == 1
            assert working["publishers"] > before["publishers"] and working["subscriptions"]["/image"] == 1
            pipeline = weakref.ref(node.session.pipeline)
            gc.disable()
            try:
                bring(node, "deactivate", "cleanup")
                assert pipeline() is None, "its memory is free at once, not when the garbage is collected"
            finally:
                gc.enable()
        assert_no_more(node, client, before)


@pytest.mark.parametrize("state", SHUTDOWNS)
def test_shutdown_from_each_state_finalizes_the_node(node, client: Client, state: str) -> None:
    ways = {"unconfigured": ("deactivate", "cleanup"), "inactive": ("deactivate",), "active": ()}
    with arrays(client):
        wait_until_working(node, client)
        bring(node, *ways[state])
        assert ask(node, SHUTDOWNS[state])
        assert state_of(node) == node.state_name == "finalized"
        for step in (*STEPS, *SHUTDOWNS.values()):
            assert not ask(node, step)
        assert state_of(node) == "finalized"
        assert node.session is None and node._worker is None
        own = possessions(node)
        assert "perception" not in own["threads of Python"]
        assert "/mtl_perception/points" not in own["publishers"] and "/image" not in own["subscriptions"]
    assert client.wait_status("network", lambda s: s.message == "finalized").level == b"\x00"


def test_inactive_node_does_no_work(node, client: Client, monkeypatch) -> None:
    calls: list[int] = []
    forward = type(node.session.pipeline._backend.engine).forward
    monkeypatch.setattr(
        type(node.session.pipeline._backend.engine), "forward", lambda self, *given: calls.append(1) or forward(self, *given)
    )
    with arrays(client):
        wait_until_working(node, client)
        assert calls
        bring(node, "deactivate")
        statistics = node.session.cameras[0].statistics
        received, computed, last = statistics.received, len(calls), client._next_ns + 50 * PERIOD_NS
        client.spin_until(lambda: client._next_ns >= last, "50 images to be published")
        assert (statistics.received, len(calls)) == (received, computed)
        assert not [thread for thread in threading.enumerate() if thread.name in ("perception", "publishing")]
