"""Heartbeat for Nav2's lifecycle manager."""

from __future__ import annotations

import uuid

from rclpy.clock import Clock, ClockType
from rclpy.node import Node

from mtl_perception.ros.qos import keep_last

try:
    from bond.msg import Status
except ImportError:
    Status = None

PERIOD = 0.25
"""Seconds between two heartbeats, as in Nav2."""
TIMEOUT = 4.0
"""Seconds without heartbeat after which the manager considers the node dead; its own parameter bond_timeout counts."""


class Bond:
    """The node's side of a bond (bond_core): heartbeats on the topic `bond` until the bond is closed.

    The manager waits for the first one after it has activated the node, and stops all its nodes when they end. Its own
    heartbeats are ignored: the node works without a manager. Nothing is published if the package bond is not installed.

    Args:
        node: Node whose name is the id of the bond.
    """

    def __init__(self, node: Node) -> None:
        self._node, self._instance = node, str(uuid.uuid4())
        if Status is not None:
            self._publisher = node.create_publisher(Status, "bond", keep_last(5, reliable=True))
            self._timer = node.create_timer(PERIOD, self._beat, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def close(self) -> None:
        """Tell the manager that the node is no longer active."""
        if Status is not None:
            self._node.destroy_timer(self._timer)
            if self._node.context.ok():
                self._beat(active=False)
            self._node.destroy_publisher(self._publisher)

    def _beat(self, active: bool = True) -> None:
        if self._publisher.get_subscription_count() == 0:
            return
        status = Status()
        status.header.stamp = self._node.get_clock().now().to_msg()
        status.id, status.instance_id, status.active = self._node.get_name(), self._instance, active
        status.heartbeat_timeout, status.heartbeat_period = TIMEOUT, PERIOD
        self._publisher.publish(status)
