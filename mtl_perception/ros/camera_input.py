"""The camera's two topics: pictures and camera_info, subscribed as their publishers offer them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from mtl_perception.camera.model import Calibration, CameraModel
from mtl_perception.config import Config
from mtl_perception.errors import CameraError
from mtl_perception.messages.decode import decode_camera_info
from mtl_perception.ros.qos import keep_last, matching_profile, same_contract

LOOK_PERIOD = 0.1
"""Seconds between two looks at what the publishers offer: short, as a wrong reliability can mean no picture at all."""


CACHED_MODELS = 32


class MatchedSubscription:
    """A subscription that is made anew when the topic's publishers offer another quality of service.

    Attributes:
        topic: Full name.
        name: As it is remapped by.
        publishers: Full names of the nodes that publish messages of its type, one for each publisher, at the latest look.
    """

    def __init__(
        self,
        node: Node,
        kind: type,
        topic: str,
        callback: Callable[[Any], None],
        depth: int,
        reliability: str,
        may_latch: bool,
        name: str,
    ) -> None:
        self.topic, self.name = topic, name
        self._node, self._kind, self._callback = node, kind, callback
        self._depth, self._reliability, self._may_latch = depth, reliability, may_latch
        self._type = f"{kind.__module__.split('.')[0]}/msg/{kind.__name__}"
        self.publishers: list[str] = []
        # Until publishers are known: best effort, which any publisher serves.
        self._profile = self._wanted() or keep_last(depth, reliable=False)
        self._subscription = node.create_subscription(kind, topic, callback, self._profile)

    @property
    def is_reliable(self) -> bool:
        """Whether lost messages are sent again."""
        return bool(self._profile.reliability.name == "RELIABLE")

    def why_silent(self) -> str:
        """What may keep messages away, and what to do about it."""
        found = {info.topic_type for info in self._node.get_publishers_info_by_topic(self.topic)}
        if self._type in found:
            return f"{self.topic} has a publisher, which sends nothing"
        if found:
            return f"{self.topic} is of type {', '.join(sorted(found))}, not {self._type}"
        if self._node.count_publishers(f"{self.topic}/compressed"):
            return f"{self.topic} has no publisher, but {self.topic}/compressed has: set image_transport to compressed"
        return f"{self.topic} has no publisher: remap {self.name} to the camera's topic"

    def look(self) -> None:
        """Adapt, if the offers changed."""
        wanted = self._wanted()
        if wanted is None or same_contract(wanted, self._profile):
            return
        self._node.destroy_subscription(self._subscription)
        self._profile = wanted
        self._subscription = self._node.create_subscription(self._kind, self.topic, self._callback, wanted)

    def close(self) -> None:
        """No more callbacks."""
        self._node.destroy_subscription(self._subscription)

    def _wanted(self) -> QoSProfile | None:
        found = self._node.get_publishers_info_by_topic(self.topic)
        self.publishers = [
            f"{info.node_namespace.rstrip('/')}/{info.node_name}" for info in found if info.topic_type == self._type
        ]
        return matching_profile(found, self._depth, self._reliability, self._may_latch)


class CameraInput:
    """Subscribes to a camera, keeps its latest camera_info, and makes the model for a picture's size.

    Args:
        node: The topics are relative to it, and its remappings hold.
        config: Transport and quality of service.
        on_image: Called with each Image or CompressedImage, in the executor's thread.
        name: The camera's, under which its topics are; empty: under none.

    Attributes:
        frame_id: Of the latest camera_info, None before the first.
        changes: How often camera_info told of another calibration than before.
        ignored: Remappings that have no effect, in words.
    """

    def __init__(self, node: Node, config: Config, on_image: Callable[[Any], None], name: str = "") -> None:
        # Replaced whole by the executor's thread, read by the worker's: never half of one and half of the other.
        self._latest: Calibration | CameraError | None = None
        self._models: dict[tuple[Calibration, int, int, bool], CameraModel | CameraError] = {}
        self.frame_id: str | None = None
        self.changes = 0
        self.ignored = ignored_remappings(node, name)
        compressed = config.image_transport == "compressed"
        kind = CompressedImage if compressed else Image
        topic, info_topic = topics(node, compressed, name)
        # First, as the executor serves them in this order: a camera_info that came with a picture is known for it.
        self.infos = MatchedSubscription(
            node,
            CameraInfo,
            info_topic,
            self._on_info,
            1,
            config.camera_info_reliability,
            may_latch=True,
            name=f"{name}/camera_info" if name else "camera_info",
        )
        self.images = MatchedSubscription(
            node,
            kind,
            topic,
            on_image,
            config.image_queue_size,
            config.image_reliability,
            may_latch=False,
            name=f"{name}/image" if name else "image",
        )
        self._node = node
        self._timer = node.create_timer(LOOK_PERIOD, self._look, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def close(self) -> None:
        """Unsubscribe."""
        self._node.destroy_timer(self._timer)
        self.images.close()
        self.infos.close()

    def model(self, width: int, height: int, rectified: bool) -> CameraModel | CameraError | None:
        """The camera of a picture of this size, by the latest camera_info.

        Args:
            width: The picture's width, pixels.
            height: The picture's height, pixels.
            rectified: Whether the pictures are rectified.

        Returns:
            The model; or why there is none; None while no camera_info has come.
        """
        latest = self._latest
        if not isinstance(latest, Calibration):
            return latest
        key = (latest, width, height, rectified)
        model = self._models.get(key)
        if model is None:
            try:
                model = latest.for_image(width, height).camera(rectified)
            except CameraError as error:
                model = error
            # A camera that changes all the time (zoom, stabilisation) must not fill the memory.
            if len(self._models) > CACHED_MODELS:
                self._models.clear()
            self._models[key] = model
        return model

    def state(self, size: tuple[int, int] | None, rectified: bool) -> CameraModel | CameraError | None:
        """As `model`, for pictures of `size` (width, height); for the calibration's own size while that is not known."""
        if size is None and isinstance(self._latest, Calibration):
            size = (self._latest.width, self._latest.height)
        return self.model(*(size or (1, 1)), rectified)

    def note(self, width: int, height: int) -> str:
        """What is odd, though usable, about the camera_info for a picture of this size; empty if nothing is."""
        calibration = self._latest
        if isinstance(calibration, Calibration) and (calibration.width, calibration.height) != (width, height):
            return f"camera_info is for {calibration.width}x{calibration.height}, scaled to the picture's {width}x{height}"
        return ""

    def _look(self) -> None:
        self.infos.look()
        self.images.look()

    def _on_info(self, message: CameraInfo) -> None:
        self.frame_id = message.header.frame_id
        before = self._latest
        try:
            self._latest = decode_camera_info(message)
        except CameraError as error:
            # Not the one before: a camera that says nonsense now may have changed.
            self._latest = error
        if isinstance(before, Calibration) and self._latest != before:
            self.changes += 1


def ignored_remappings(node: Node, camera: str) -> list[str]:
    """What is remapped though a camera of several, `camera`, has its topics under its name; empty for the only camera."""
    if not camera:
        return []
    namespace = node.get_namespace().rstrip("/")
    resolved = {name: node.resolve_topic_name(name) for name in ("image", "camera_info")}
    return [
        f"the remapping of {name} to {topic} has no effect, as there are several cameras: remap {camera}/{name}"
        for name, topic in resolved.items()
        if topic != f"{namespace}/{name}"
    ]


def topics(node: Node, compressed: bool, name: str = "") -> tuple[str, str]:
    """Full names of the pictures' topic and of camera_info, which is its sibling unless it is remapped by itself.

    Args:
        node: Its remappings hold.
        compressed: Pictures come on `image/compressed`; `image` remapped to a name that ends so is taken at its word.
        name: The camera's, under which both are looked for; empty: under none.
    """
    under = f"{name}/" if name else ""
    image = node.resolve_topic_name(f"{under}image")
    if compressed:
        image = image.removesuffix("/compressed")
    info = node.resolve_topic_name(f"{under}camera_info")
    namespace = node.get_namespace().rstrip("/")
    if info == f"{namespace}/{under}camera_info":
        info = node.resolve_topic_name(f"{image.rsplit('/', 1)[0]}/camera_info")
    return (f"{image}/compressed" if compressed else image), info
