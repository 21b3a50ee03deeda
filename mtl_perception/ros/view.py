"""Logging of a running node's outputs for `view --live`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import rclpy
from rclpy.clock import Clock, ClockType
from rclpy.executors import ExternalShutdownException

from mtl_perception.errors import CameraError, FrameError, PerceptionError
from mtl_perception.messages.decode import stamp_ns
from mtl_perception.messages.decode_outputs import LABEL_INFO, OUTPUT_DECODERS, decode_label_info
from mtl_perception.messages.topics import OUTPUT_TOPICS
from mtl_perception.ros.convert import MESSAGE_TYPES
from mtl_perception.ros.environment import initialize
from mtl_perception.ros.parameters import creation_errors
from mtl_perception.ros.subscriptions import MATCH_PERIOD, MatchedSubscription
from mtl_perception.visualization.rerun import RerunLog

QUEUE_SIZE = 2
WAIT = 0.2
"""Seconds between two checks whether the viewer was closed."""


def watch(log: RerunLog, node: str, arguments: list[str], is_closed: Callable[[], bool], with_points: bool = True) -> None:
    """Log the outputs of a running node until the viewer is closed or the process is interrupted.

    Args:
        log: Log of overlays, labels, depth, confidence and points.
        node: Full name of the node, and of its camera if it has several: the prefix of the topics.
        arguments: ROS arguments.
        is_closed: Returns whether the viewer was closed.
        with_points: Whether to subscribe to the cloud.

    Raises:
        KeyboardInterrupt: The process was interrupted.
    """
    initialize([sys.argv[0], *arguments])
    try:
        with creation_errors():
            viewer = rclpy.create_node("viewer")
        subscriptions = [
            MatchedSubscription(
                viewer,
                MESSAGE_TYPES[row.type],
                f"{node}/{row.name}",
                partial(_log, log, row.name, viewer.get_logger()),
                QUEUE_SIZE,
                "auto",
                remap_name=row.name,
            )
            for row in OUTPUT_TOPICS
            if (row.name in OUTPUT_DECODERS or row.name == LABEL_INFO)
            and MESSAGE_TYPES[row.type] is not None
            and (with_points or row.name != "points")
        ]

        def match() -> None:
            for subscription in subscriptions:
                subscription.update()

        viewer.create_timer(MATCH_PERIOD, match, clock=Clock(clock_type=ClockType.STEADY_TIME))
        while not is_closed():
            rclpy.spin_once(viewer, timeout_sec=WAIT)
    except ExternalShutdownException:
        # Ctrl-C can also arrive as this.
        raise KeyboardInterrupt from None
    finally:
        rclpy.try_shutdown()


def _log(log: RerunLog, name: str, logger: Any, message: Any) -> None:
    try:
        if name == LABEL_INFO:
            log.set_classes(decode_label_info(message))
        else:
            log.log(OUTPUT_DECODERS[name](message), stamp_ns(message.header))
    except (FrameError, CameraError) as error:
        logger.warning(f"{name}: message skipped: {error}", throttle_duration_sec=5.0)
    except PerceptionError:
        # The viewer was closed in this moment.
        logger.debug("message not sent")
