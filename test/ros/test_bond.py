"""Heartbeat for Nav2's lifecycle manager, with a fake of the package bond."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="needs rclpy")
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from support.node_in_process import in_its_executor, node_inside
from support.ros_client import Client, profile

from mtl_perception.ros import bond

FIELDS = ("id", "instance_id", "active", "heartbeat_timeout", "heartbeat_period")


class Status(DiagnosticArray):
    """bond/msg/Status of bond_core, transported as a DiagnosticArray, because it has no type support here."""

    def __setattr__(self, name: str, value: object) -> None:
        if name not in FIELDS:
            super().__setattr__(name, value)
            return
        rest = [pair for status in self.status for pair in status.values if pair.key != name]
        self.status = [DiagnosticStatus(values=[*rest, KeyValue(key=name, value=repr(value))])]


# What rclpy's conversion checks.
Status.__name__, Status.__module__ = DiagnosticArray.__name__, DiagnosticArray.__module__


@pytest.fixture
def client():
    client = Client(name="lifecycle_manager")
    yield client
    client.close()


def test_manager_receives_heartbeats_while_the_node_is_active(
    weights_file: Path, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bond, "Status", Status)
    received: list[dict[str, str]] = []

    def keep(message: DiagnosticArray) -> None:
        assert message.header.stamp.sec > 0
        received.append({pair.key: pair.value for pair in message.status[0].values})

    client.node.create_subscription(DiagnosticArray, "/robot/bond", keep, profile(depth=100))
    with node_inside(weights_file, lambda pipeline: pipeline, namespace="/robot") as node:
        client.spin_until(lambda: len(received) >= 3, "heartbeats")
        first = received[0]["instance_id"]
        assert received[-1] == {
            "id": "'mtl_perception'",
            "instance_id": first,
            "active": "True",
            "heartbeat_timeout": "4.0",
            "heartbeat_period": "0.25",
        }
        in_its_executor(node, node.trigger_deactivate)
        client.spin_until(lambda: received[-1]["active"] == "False", "the end of the bond")
        assert received[-1]["instance_id"] == first
        count = len(received)
        client.spin_for(2 * bond.PERIOD)
        assert len(received) == count, "an inactive node has no heartbeat"
        in_its_executor(node, node.trigger_activate)
        client.spin_until(lambda: received[-1]["active"] == "True", "a new bond")
        assert received[-1]["instance_id"] != first


def test_node_without_the_package_has_no_bond(weights_file: Path, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bond, "Status", None)
    with node_inside(weights_file, lambda pipeline: pipeline, namespace="/alone") as node:
        client.spin_until(lambda: client.node.count_publishers("/alone/mtl_perception/points"), "the node")
        assert client.node.count_publishers("/alone/bond") == 0
        in_its_executor(node, node.trigger_deactivate)
        assert node.state_name == "inactive"
