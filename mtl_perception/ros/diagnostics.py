"""Publisher of the node's diagnostics."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import QoSProfile

from mtl_perception.runtime.diagnostics import Level, Schedule, Status, evaluate
from mtl_perception.runtime.finding_log import FindingLog
from mtl_perception.runtime.snapshots import Snapshot

CHECK_PERIOD = 0.1
"""Seconds between two checks for new findings."""


class DiagnosticsPublisher:
    """Publishes diagnostics once per period, and at once when a finding appears or ends; logs findings that last.

    Args:
        node: Node that publishes.
        snapshot: Returns the state of the node.
        period: Seconds between two messages.
    """

    def __init__(self, node: Node, snapshot: Callable[[], Snapshot], period: float) -> None:
        self._node, self._snapshot = node, snapshot
        self._log = FindingLog()
        self._publisher = node.create_publisher(DiagnosticArray, "/diagnostics", QoSProfile(depth=10))
        self.set_period(period)
        # The steady clock continues while simulated time stands still.
        node.create_timer(CHECK_PERIOD, self.update, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def set_period(self, period: float) -> None:
        """Change the period in seconds."""
        self._schedule = Schedule(period, CHECK_PERIOD)

    def update(self) -> None:
        """Publish if a message is due, and log what is to be logged."""
        snapshot, now = self._snapshot(), time.monotonic()
        statuses = evaluate(snapshot)
        if self._schedule.is_due(statuses, now):
            message = DiagnosticArray(status=to_messages(statuses, self._node.get_fully_qualified_name().lstrip("/")))
            message.header.stamp = self._node.get_clock().now().to_msg()
            self._publisher.publish(message)
        for level, text in self._log.update(statuses, now, is_active=snapshot.state == "active"):
            # rclpy refuses another severity in the same place of the code.
            if level == Level.OK:
                self._node.get_logger().info(text)
            elif level == Level.ERROR:
                self._node.get_logger().error(text)
            else:
                self._node.get_logger().warning(text)


def to_messages(statuses: Sequence[Status], node_name: str) -> list[DiagnosticStatus]:
    """Convert statuses to messages, with the node's name as prefix and hardware id."""
    return [
        DiagnosticStatus(
            name=f"{node_name}: {status.name}",
            hardware_id=node_name,
            level=bytes([status.level]),
            message=status.message,
            values=[KeyValue(key=key, value=value) for key, value in status.values().items()],
        )
        for status in statuses
    ]
