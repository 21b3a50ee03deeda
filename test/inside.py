"""The node within the test's process, spinning in a thread: for what cannot be seen from outside."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="needs rclpy")
import rclpy
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.parameter import Parameter

from mtl_perception.ros.node import PerceptionNode


@contextlib.contextmanager
def node_inside(
    weights: Path, before: Callable[[Any], Any], namespace: str = "", remap: tuple[str, ...] = (), **settings: Any
) -> Iterator[PerceptionNode]:
    """The node, active, with `before(pipeline)` in the place of its pipeline; ended at the end of the block."""
    context = Context()
    rclpy.init(context=context, args=["test", "--ros-args", *(part for rule in remap for part in ("-r", rule))])
    values = {"weights": str(weights), "diagnostics_period": 0.1, **settings}
    overrides = [Parameter(name, value=value) for name, value in values.items()]
    node = PerceptionNode(context=context, parameter_overrides=overrides, namespace=namespace)
    node.trigger_configure()
    node.pipeline = before(node.pipeline)
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
