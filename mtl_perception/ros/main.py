"""The node's process: `python -m mtl_perception node --ros-args …`, the same as `ros2 run mtl_perception perception_node`."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from typing import TYPE_CHECKING

from mtl_perception.errors import PerceptionError
from mtl_perception.inference.memory import configure_malloc
from mtl_perception.ros.signals import Answer, StopSignals

if TYPE_CHECKING:
    from mtl_perception.ros.node import PerceptionNode


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """None but ROS's own, which are split off before."""
    parser.epilog = "All settings are ROS arguments: --ros-args -p NAME:=VALUE -r image:=/camera/image_raw --params-file FILE"


def run(args: argparse.Namespace) -> int:
    """Run the node until it is told to stop."""
    return spin_node([sys.argv[0], *args.ros_arguments])


def spin_node(arguments: list[str]) -> int:
    """Create the node, bring it up unless `autostart` is false, and spin until a signal ends it.

    Returns:
        0 after SIGINT or SIGTERM.

    Raises:
        ConfigError: A parameter given at start does not fit, the ROS arguments cannot be read.
        PerceptionError: There is no ROS.
    """
    signals = StopSignals(Answer.LEAVE)
    configure_malloc()
    # Not before: these take seconds to import, and a signal may come meanwhile.
    try:
        import rclpy
        from rclpy.executors import SingleThreadedExecutor
        from rclpy.lifecycle import TransitionCallbackReturn

        from mtl_perception.ros.environment import initialize
        from mtl_perception.ros.node import PerceptionNode
    except ImportError as error:
        raise PerceptionError(f"{error}; is ROS 2 sourced in this shell?") from error

    node = None
    try:
        with signals.until_stopped():
            signals.answer = Answer.INTERRUPT
            initialize(arguments)
            node = PerceptionNode(arguments)
            executor = SingleThreadedExecutor()
            executor.add_node(node)
            # A node that cannot be configured stays, says why, and can be mended: parameter, then configure again.
            if node.config.autostart and node.trigger_configure() == TransitionCallbackReturn.SUCCESS and rclpy.ok():
                node.trigger_activate()
            signals.answer = Answer.NONE
            executor.spin()
    finally:
        signals.ignore()
        _finish(node)
    return 0


def _finish(node: PerceptionNode | None) -> None:
    import rclpy

    stopped = True
    with contextlib.suppress(Exception):
        if node is not None:
            stopped = node.close()
            node.destroy_node()
    with contextlib.suppress(Exception):
        rclpy.try_shutdown()
    if not stopped:
        # The interpreter must not be taken down around a thread that computes: that ends in an abort.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
