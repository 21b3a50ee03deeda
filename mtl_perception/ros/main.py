"""The command `node`: run the ROS 2 node, like `ros2 run mtl_perception perception_node`."""

from __future__ import annotations

import argparse
import contextlib
import gc
import os
import sys
from typing import TYPE_CHECKING

from mtl_perception.errors import PerceptionError, import_hint
from mtl_perception.inference.memory import configure_malloc
from mtl_perception.ros.signals import Answer, StopSignals

if TYPE_CHECKING:
    from mtl_perception.ros.node import PerceptionNode


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare no arguments besides those after --ros-args, which are split off before."""
    parser.epilog = "Settings are ROS arguments: --ros-args -p NAME:=VALUE -r image:=/camera/image_raw --params-file FILE"


def run(args: argparse.Namespace) -> int:
    """Run the node until SIGINT or SIGTERM."""
    return spin_node([sys.argv[0], *args.ros_arguments])


def spin_node(arguments: list[str]) -> int:
    """Create the node, configure and activate it unless `autostart` is false, and spin until SIGINT or SIGTERM.

    Args:
        arguments: Command line, including the name of the program.

    Returns:
        Exit code 0.

    Raises:
        ConfigError: A parameter given at startup or a ROS argument is invalid.
        PerceptionError: rclpy cannot be imported.
    """
    signals = StopSignals(Answer.LEAVE)
    configure_malloc()
    # Imported after the signal handlers are set, because these imports take seconds, a fifth of them for collecting garbage.
    gc.disable()
    try:
        import rclpy
        from rclpy.executors import SingleThreadedExecutor
        from rclpy.lifecycle import TransitionCallbackReturn

        from mtl_perception.ros.environment import initialize
        from mtl_perception.ros.node import PerceptionNode
    except ImportError as error:
        raise PerceptionError(f"{error}{import_hint(error)}") from error
    finally:
        # Later collections leave the objects of modules out.
        gc.freeze()
        gc.enable()

    node = None
    try:
        with signals.until_stopped():
            signals.answer = Answer.INTERRUPT
            initialize(arguments)
            node = PerceptionNode(arguments)
            executor = SingleThreadedExecutor()
            executor.add_node(node)
            # After a failure the node stays unconfigured, so that parameters can be corrected and it can be configured again.
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

    # Also if closing the node fails, its thread may still be running.
    stopped = node is None
    with contextlib.suppress(Exception):
        if node is not None:
            stopped = node.close()
            node.destroy_node()
    with contextlib.suppress(Exception):
        rclpy.try_shutdown()
    if not stopped:
        # Finalizing the interpreter while the worker thread is computing would abort the process.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
