"""The node in the process of the test, spinning in a thread."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="needs rclpy")
import rclpy
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.parameter import Parameter

from mtl_perception.ros.node import PerceptionNode
from support.node_process import PATIENCE


@contextlib.contextmanager
def node_inside(
    weights: Path, before: Callable[[Any], Any], namespace: str = "", remap: tuple[str, ...] = (), **settings: Any
) -> Iterator[PerceptionNode]:
    """Run an active node with `before(pipeline)` as its pipeline, and end it after the block."""
    context = Context()
    rclpy.init(context=context, args=["test", "--ros-args", *(part for rule in remap for part in ("-r", rule))])
    values = {"weights": str(weights), "diagnostics_period": 0.1, **settings}
    overrides = [Parameter(name, value=value) for name, value in values.items()]
    node = PerceptionNode(context=context, parameter_overrides=overrides, namespace=namespace)
    node.trigger_configure()
    assert node.session is not None, node.failure
    node.session.pipeline = before(node.session.pipeline)
    node.trigger_activate()
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)

    def spin() -> None:
        with contextlib.suppress(ExternalShutdownException):
            executor.spin()

    thread = threading.Thread(target=spin)
    thread.start()
    try:
        yield node
    finally:
        executor.shutdown()
        thread.join()
        node.close()
        node.destroy_node()
        context.try_shutdown()
        context.destroy()


@contextlib.contextmanager
def started(*ros_arguments: str, **options: object) -> Iterator[PerceptionNode]:
    """Create the node as `node --ros-args …` does, unconfigured, in this process."""
    context = Context()
    arguments = ["node", "--ros-args", *ros_arguments]
    rclpy.init(args=arguments, context=context)
    try:
        node = PerceptionNode(arguments, context=context, **options)
        try:
            yield node
        finally:
            node.destroy_node()
    finally:
        context.try_shutdown()
        context.destroy()


def in_its_executor(node: PerceptionNode, transition: Callable[[], Any]) -> Any:
    """Make a transition in the node's executor, as its service does, and return the result.

    The service is not called, because two participants in one process do not always discover each other's services
    (once in about twenty runs); `ros/test_node_lifecycle.py` calls it between processes.
    """
    task, done = node.executor.create_task(transition), threading.Event()
    task.add_done_callback(lambda _: done.set())
    assert done.wait(PATIENCE), transition.__name__
    return task.result()


def ask(node: PerceptionNode, transition: str) -> bool:
    """Return whether the node's service makes a transition."""
    number = getattr(Transition, f"TRANSITION_{transition.upper()}")
    request = ChangeState.Request(transition=Transition(id=number))

    def answer() -> Any:
        return node._service_change_state.callback(request, ChangeState.Response())

    return bool(in_its_executor(node, answer).success)
