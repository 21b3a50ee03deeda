"""Subscriptions to the images and the CameraInfo of a camera."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.topic_endpoint_info import TopicEndpointInfo
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from mtl_perception.config import Config
from mtl_perception.messages.transports import describe_packets
from mtl_perception.ros.environment import describe_discovery, describe_other_users
from mtl_perception.ros.qos import keep_last, matching_profile
from mtl_perception.runtime.snapshots import TopicSnapshot

COMPRESSED = "sensor_msgs/msg/CompressedImage"
IMAGE = "sensor_msgs/msg/Image"
UNKNOWN_NAME = "_NODE_NAME_UNKNOWN_"
"""Name that rmw gives to the node of an endpoint whose node it does not know."""
ONCE = "; if it was published only once, publish it periodically or with transient local durability"
"""Hint about a calibration that may have been published before the node subscribed."""
MATCH_PERIOD = 0.1
"""Seconds between two checks of the publishers' QoS; short, because incompatible reliability means no images at all."""


class MatchedSubscription:
    """A subscription that is recreated when the publishers of its topic offer another QoS.

    Compressed images may also be published without the suffix of image_transport, as by simulators: if nothing is published on
    `/front/jpeg/compressed`, but compressed images are on `/front/jpeg`, that is the topic.

    Args:
        node: Node that subscribes.
        kind: Message class.
        topic: Full name of the topic.
        callback: Receives the messages.
        queue_size: History depth.
        reliability: auto, reliable or best_effort.
        remap_name: Name of the topic in remapping rules, for messages to the user.

    Attributes:
        topic: Full name of the topic.
        publishers: Full names of the nodes that publish messages of this type; one entry per publisher.
    """

    def __init__(
        self,
        node: Node,
        kind: type,
        topic: str,
        callback: Callable[[Any], None],
        queue_size: int,
        reliability: str,
        remap_name: str,
    ) -> None:
        self.topic = topic
        self.publishers: list[str] = []
        self._topics = dict.fromkeys((topic, topic.removesuffix("/compressed") if kind is CompressedImage else topic))
        self._node, self._kind, self._callback, self._remap_name = node, kind, callback, remap_name
        self._queue_size, self._reliability = queue_size, reliability
        self._type = f"{kind.__module__.split('.')[0]}/msg/{kind.__name__}"
        # Best effort is compatible with every publisher, until the publishers are known.
        self._profile = self._match() or keep_last(queue_size, reliable=False)
        self._subscription = node.create_subscription(kind, self.topic, callback, self._profile)

    def explain_silence(self) -> str:
        """Explain why no messages arrive, and what to do about it."""
        types = {info.topic_type for info in self._node.get_publishers_info_by_topic(self.topic)}
        if self._type in types:
            once = "" if self._kind is not CameraInfo or self.is_latched else ONCE
            return f"{self.topic} has a publisher, but no message was received{once}{describe_other_users()}"
        if types:
            hint = "; set image_transport to compressed" if self._kind is Image and types == {COMPRESSED} else ""
            hint = hint or describe_packets(types)
            return f"{self.topic} has type {', '.join(sorted(types))}, not {self._type}{hint}"
        if self._node.count_publishers(f"{self.topic}/compressed"):
            return f"{self.topic} has no publisher, but {self.topic}/compressed has; set image_transport to compressed"
        base = self.topic.removesuffix("/compressed")
        if self._kind is CompressedImage and any(
            info.topic_type == IMAGE for info in self._node.get_publishers_info_by_topic(base)
        ):
            return f"{self.topic} has no publisher, but {base} has; set image_transport to raw"
        for name, found in self._node.get_topic_names_and_types():
            if name.startswith(f"{base}/") and (hint := describe_packets(found)) and self._node.count_publishers(name):
                return f"{self.topic} has no publisher, but {name} has, of type {', '.join(found)}{hint}"
        candidates = self._candidates() or describe_discovery(self._node)
        return f"{self.topic} has no publisher; remap {self._remap_name} to the camera's topic{candidates}"

    def _candidates(self) -> str:
        """List topics of this type that other nodes publish."""
        own = f"{self._node.get_fully_qualified_name()}/"
        names = [name for name, types in self._node.get_topic_names_and_types() if self._type in types]
        names = sorted(name for name in names if not name.startswith(own) and self._node.count_publishers(name))
        return f" (published: {', '.join(names[:3])}{', …' if len(names) > 3 else ''})" if names else ""

    def snapshot(self, silent: bool) -> TopicSnapshot:
        """Summarize the subscription; `silent` tells that no messages arrive."""
        reliable = bool(self._profile.reliability.name == "RELIABLE")
        return TopicSnapshot(self.topic, tuple(self.publishers), reliable, self.explain_silence() if silent else "")

    @property
    def is_latched(self) -> bool:
        """Whether a new subscription receives the latest messages again."""
        return bool(self._profile.durability == DurabilityPolicy.TRANSIENT_LOCAL)

    def update(self) -> bool:
        """Subscribe again if the publishers offer another QoS or use the other topic, and return whether they do."""
        topic, profile = self.topic, self._match()
        if profile is None or (profile == self._profile and self.topic == topic):
            return False
        self._profile = profile
        self.subscribe_again()
        return True

    def subscribe_again(self) -> None:
        """Replace the subscription; if it is latched, the latest messages are received again."""
        self._node.destroy_subscription(self._subscription)
        self._subscription = self._node.create_subscription(self._kind, self.topic, self._callback, self._profile)

    def close(self) -> None:
        """Unsubscribe."""
        self._node.destroy_subscription(self._subscription)

    def _match(self) -> QoSProfile | None:
        published = {topic: self._node.get_publishers_info_by_topic(topic) for topic in self._topics}
        used = [topic for topic, found in published.items() if any(info.topic_type == self._type for info in found)]
        self.topic = used[0] if used else self.topic
        found = published[self.topic]
        self.publishers = [_full_name(info) for info in found if info.topic_type == self._type]
        return matching_profile(found, self._queue_size, self._reliability)


def _full_name(info: TopicEndpointInfo) -> str:
    # Publishers without a ROS node, such as those of micro-ROS, have no name in the graph.
    if info.node_name == UNKNOWN_NAME:
        return "unknown node"
    return f"{info.node_namespace.rstrip('/')}/{info.node_name}"


class CameraSubscriptions:
    """Subscriptions to the images and the CameraInfo of a camera.

    Args:
        node: Node that subscribes; topics are resolved in its namespace and with its remappings.
        config: Transport and QoS.
        on_image: Receives each Image or CompressedImage.
        on_camera_info: Receives each CameraInfo.
        on_update: Called after each check of the publishers, with whether the subscription to images was replaced.
        camera: Name of the camera, which prefixes its topics; empty for none.

    Attributes:
        ignored_remappings: Messages about remappings without effect.
    """

    def __init__(
        self,
        node: Node,
        config: Config,
        on_image: Callable[[Any], None],
        on_camera_info: Callable[[CameraInfo], None],
        on_update: Callable[[bool], None],
        camera: str = "",
    ) -> None:
        compressed = config.image_transport == "compressed"
        topic, info_topic = resolve_topics(node, compressed, camera)
        prefix = f"{camera}/" if camera else ""
        self.ignored_remappings = find_ignored_remappings(node, camera)
        # CameraInfo first, because the executor runs callbacks in this order: it is then known for the image it came with.
        self.camera_info = MatchedSubscription(
            node,
            CameraInfo,
            info_topic,
            on_camera_info,
            1,
            config.camera_info_reliability,
            remap_name=f"{prefix}camera_info",
        )
        self.image = MatchedSubscription(
            node,
            CompressedImage if compressed else Image,
            topic,
            on_image,
            config.image_queue_size,
            config.image_reliability,
            remap_name=f"{prefix}image",
        )
        self._node, self._on_update = node, on_update
        self._timer = node.create_timer(MATCH_PERIOD, self.update, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def update(self) -> None:
        """Match the QoS of the publishers."""
        self.camera_info.update()
        self._on_update(self.image.update())

    def close(self) -> None:
        """Unsubscribe."""
        self._node.destroy_timer(self._timer)
        self.image.close()
        self.camera_info.close()


def find_ignored_remappings(node: Node, camera: str) -> list[str]:
    """Describe remappings of `image` and `camera_info`, which have no effect on a camera with a name."""
    if not camera:
        return []
    namespace = node.get_namespace().rstrip("/")
    resolved = {name: node.resolve_topic_name(name) for name in ("image", "camera_info")}
    return [
        f"remapping of {name} to {topic} has no effect, because the parameter cameras is set; remap {camera}/{name}"
        for name, topic in resolved.items()
        if topic != f"{namespace}/{name}"
    ]


def resolve_topics(node: Node, compressed: bool, camera: str = "") -> tuple[str, str]:
    """Return the full names of the image topic and of camera_info, its sibling unless camera_info is remapped.

    Args:
        node: Node whose namespace and remappings apply.
        compressed: Whether images are on `image/compressed`; a remapping of `image` may include the suffix, and one of
            `image/compressed` names a topic without it.
        camera: Name of the camera, which prefixes its topics; empty for none.
    """
    prefix = f"{camera}/" if camera else ""
    image = node.resolve_topic_name(f"{prefix}image")
    if compressed:
        suffixed = f"{image.removesuffix('/compressed')}/compressed"
        image = node.resolve_topic_name(suffixed)
    info = node.resolve_topic_name(f"{prefix}camera_info")
    namespace = node.get_namespace().rstrip("/")
    if info == f"{namespace}/{prefix}camera_info":
        base = image.removesuffix("/compressed") if compressed else image
        info = node.resolve_topic_name(f"{base.rsplit('/', 1)[0]}/camera_info")
    return image, info
