"""A ROS client and a camera that do not use mtl_perception."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="needs rclpy")
import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.srv import DescribeParameters, GetParameters, SetParameters
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, Image

from support.node_process import PATIENCE
from support.ros_messages import OUTPUTS, put_header, stamp_of, values_of

START_NS = 1_700_000_000_123_456_789


def profile(reliable: bool = True, latched: bool = False, depth: int = 10) -> QoSProfile:
    return QoSProfile(
        depth=depth,
        reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
    )


class Client:
    """A ROS node in this process that spins only while waiting."""

    def __init__(self, name: str = "client", node_name: str = "/mtl_perception", start_ns: int = START_NS) -> None:
        self._context = Context()
        rclpy.init(context=self._context)
        self.node = rclpy.create_node(name, context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self._node_name = node_name
        self._next_ns = start_ns
        self._clients: dict[str, Any] = {}
        self.statuses: dict[str, DiagnosticStatus] = {}
        self.diagnostics_received = 0
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, profile())

    def close(self) -> None:
        self._executor.shutdown()
        self.node.destroy_node()
        self._context.try_shutdown()

    def spin_until(self, condition: Callable[[], Any], what: str = "", seconds: float = PATIENCE) -> Any:
        """Spin until a condition is true, and return its value."""
        deadline = time.monotonic() + seconds
        while not (value := condition()):
            assert time.monotonic() < deadline, f"waited {seconds:.0f} s without success for {what or 'a condition'}"
            self._executor.spin_once(timeout_sec=0.05)
        return value

    def spin_for(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self._executor.spin_once(timeout_sec=0.02)

    def next_stamp(self) -> int:
        self._next_ns += 33_333_333
        return self._next_ns

    # Parameters and lifecycle.

    def call(self, kind: Any, service: str, **fields: Any) -> Any:
        name = f"{self._node_name}/{service}"
        if name not in self._clients:
            self._clients[name] = self.node.create_client(kind, name)
            self.spin_until(self._clients[name].service_is_ready, name)
            # Discovery is not symmetric: the reply of a server that has not discovered this client would be lost.
            self.spin_for(0.3)
        future = self._clients[name].call_async(kind.Request(**fields))
        self.spin_until(future.done, name)
        return future.result()

    def set(self, **values: Any) -> list[Any]:
        """Set parameters one by one, and return the results."""
        parameters = [Parameter(name, value=value).to_parameter_msg() for name, value in values.items()]
        return list(self.call(SetParameters, "set_parameters", parameters=parameters).results)

    def get(self, *names: str) -> list[Any]:
        values = self.call(GetParameters, "get_parameters", names=list(names)).values
        return [rclpy.parameter.parameter_value_to_python(value) for value in values]

    def describe(self, *names: str) -> list[Any]:
        return list(self.call(DescribeParameters, "describe_parameters", names=list(names)).descriptors)

    def change_state(self, name: str) -> bool:
        number = {
            "configure": Transition.TRANSITION_CONFIGURE,
            "cleanup": Transition.TRANSITION_CLEANUP,
            "activate": Transition.TRANSITION_ACTIVATE,
            "deactivate": Transition.TRANSITION_DEACTIVATE,
            "unconfigured_shutdown": Transition.TRANSITION_UNCONFIGURED_SHUTDOWN,
            "inactive_shutdown": Transition.TRANSITION_INACTIVE_SHUTDOWN,
            "active_shutdown": Transition.TRANSITION_ACTIVE_SHUTDOWN,
        }[name]
        return bool(self.call(ChangeState, "change_state", transition=Transition(id=number)).success)

    def state(self) -> str:
        return str(self.call(GetState, "get_state").current_state.label)

    # Diagnostics.

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        name = self._node_name.lstrip("/")
        mine = {s.name.removeprefix(f"{name}: "): s for s in message.status if s.name.startswith(f"{name}: ")}
        if mine:
            self.statuses = mine
            self.diagnostics_received += 1

    def status(self, part: str) -> DiagnosticStatus:
        """Wait for the next message with a status, and return it."""
        seen = self.diagnostics_received
        self.spin_until(lambda: self.diagnostics_received > seen, "diagnostics")
        return self.statuses[part]

    def wait_status(
        self, part: str, condition: Callable[[DiagnosticStatus], Any], seconds: float = PATIENCE
    ) -> DiagnosticStatus:
        deadline = time.monotonic() + seconds
        while not condition(status := self.status(part)):
            assert time.monotonic() < deadline, f"timed out, last: {status}"
        return status

    def values(self, part: str = "frames") -> dict[str, str]:
        return values_of(self.status(part))

    def counts(self, part: str = "frames") -> dict[str, int]:
        values = self.values(part)
        counts = {name.removeprefix("frames "): int(value) for name, value in values.items() if name.startswith("frames ")}
        counts.update({name: int(value) for name, value in values.items() if name.startswith("rejected: ")})
        return counts


class Camera:
    """Publisher of images and camera_info that collects the node's outputs by stamp."""

    def __init__(
        self,
        client: Client,
        image: str = "/image",
        info: str = "/camera_info",
        kind: Any = Image,
        reliable: bool = True,
        outputs: dict[str, Any] | None = None,
        outputs_reliable: bool = True,
        name: str = "",
    ) -> None:
        self.client = client
        self.frames = f"{name}: frames" if name else "frames"
        self.topic = image
        self.reliable = reliable
        self.images = client.node.create_publisher(kind, image, profile(reliable))
        self.infos = client.node.create_publisher(CameraInfo, info, profile(reliable)) if info else None
        self.received: dict[str, dict[int, Any]] = {}
        self.order: dict[str, list[int]] = {}
        self._subscriptions: dict[str, Any] = {}
        for topic, message_kind in (OUTPUTS if outputs is None else outputs).items():
            self.subscribe(topic, message_kind, outputs_reliable)
        self.wait_until_heard()

    def subscribe(self, topic: str, kind: Any, reliable: bool = True) -> None:
        self.received[topic], self.order[topic] = {}, []

        def keep(message: Any) -> None:
            stamp = stamp_of(message)
            self.received[topic][stamp] = message
            self.order[topic].append(stamp)

        name = f"{self.client._node_name}/{topic}"
        self._subscriptions[topic] = self.client.node.create_subscription(kind, name, keep, profile(reliable))

    def unsubscribe(self, topic: str) -> None:
        self.client.node.destroy_subscription(self._subscriptions.pop(topic))

    def close(self) -> None:
        for subscription in self._subscriptions.values():
            self.client.node.destroy_subscription(subscription)
        for publisher in (self.images, self.infos):
            if publisher is not None:
                self.client.node.destroy_publisher(publisher)

    def wait_until_heard(self) -> None:
        """Wait until the node's subscriptions match the QoS of this camera."""
        node = self.client.node
        wanted = ReliabilityPolicy.RELIABLE if self.reliable else ReliabilityPolicy.BEST_EFFORT
        for publisher in (self.images, self.infos):
            if publisher is None:
                continue

            def heard(publisher: Any = publisher) -> bool:
                readers = node.get_subscriptions_info_by_topic(publisher.topic_name)
                right = [reader for reader in readers if reader.qos_profile.reliability == wanted]
                return bool(right) and publisher.get_subscription_count() == len(readers)

            self.client.spin_until(heard, f"a matching subscription to {publisher.topic_name}")

    def publish(self, message: Any, frame_id: str = "camera_optical", stamp: int | None = None) -> int:
        """Publish an image, and return its stamp."""
        stamp = self.client.next_stamp() if stamp is None else stamp
        put_header(message, stamp, frame_id)
        self.images.publish(message)
        return stamp

    def publish_info(self, info: CameraInfo, frame_id: str = "camera_optical") -> None:
        """Publish a camera_info, and wait until the node has probably received it.

        Its acknowledgment would take up to 3 s, the heartbeat period of Fast DDS.
        """
        assert self.infos is not None
        put_header(info, self.client._next_ns, frame_id)
        self.infos.publish(info)
        self.client.spin_for(0.1)

    def exchange(self, message: Any, *topics: str, frame_id: str = "camera_optical") -> dict[str, Any]:
        """Publish an image and return the outputs by topic; wait for `topics`, or for all subscribed ones."""
        stamp = self.publish(message, frame_id)
        return self.answers(stamp, *topics)

    def answers(self, stamp: int, *topics: str) -> dict[str, Any]:
        wanted = topics or tuple(self._subscriptions)
        missing = lambda: [topic for topic in wanted if stamp not in self.received[topic]]  # noqa: E731
        self.client.spin_until(lambda: not missing(), f"outputs on {wanted}")
        return {topic: self.received[topic][stamp] for topic in self.received if stamp in self.received[topic]}

    def connect(self, message: Any, *topics: str, seconds: float = PATIENCE) -> dict[str, Any]:
        """Publish an image repeatedly until all outputs arrive, when discovery is complete."""
        deadline = time.monotonic() + seconds
        wanted = topics or tuple(self._subscriptions)
        stamps: list[int] = []
        while True:
            stamps.append(self.publish(message))
            until = time.monotonic() + 0.5
            while time.monotonic() < until:
                self.client.spin_for(0.02)
                for stamp in stamps:
                    if all(stamp in self.received[topic] for topic in wanted):
                        self.wait_until_idle()
                        return {topic: self.received[topic][stamp] for topic in wanted}
            assert time.monotonic() < deadline, "the node does not answer"

    def wait_until_idle(self) -> None:
        """Wait until the node has finished all received images."""

        def done() -> bool:
            counts = self.client.counts(self.frames)
            return counts["received"] == sum(counts[n] for n in ("processed", "replaced", "rejected", "without subscriber"))

        self.client.spin_until(done, "the node to be idle")
