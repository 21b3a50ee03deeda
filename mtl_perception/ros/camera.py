"""A camera of the node: subscriptions, publishers and statistics."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from rclpy.lifecycle import LifecycleNode
from sensor_msgs.msg import CameraInfo, CompressedImage
from std_msgs.msg import Header

from mtl_perception.config import Config
from mtl_perception.errors import CameraError, one_line
from mtl_perception.image.header import image_size
from mtl_perception.messages.decode import decode_camera_info, describe_dark_samples, original_encoding, stamp_ns
from mtl_perception.messages.encode import MessageEncoder
from mtl_perception.messages.topics import OUTPUT_TOPICS, OutputTopic
from mtl_perception.result import Result
from mtl_perception.ros.convert import MESSAGE_TYPES, to_message, to_rgb
from mtl_perception.ros.qos import keep_last
from mtl_perception.ros.subscriptions import CameraSubscriptions
from mtl_perception.runtime.calibrations import CalibrationCache
from mtl_perception.runtime.snapshots import CameraSnapshot, InputSnapshot
from mtl_perception.runtime.statistics import Statistics
from mtl_perception.runtime.stream_monitor import Arrival, StreamMonitor
from mtl_perception.types import Frame, History

HEADER_BYTES = 2**16
"""Number of bytes of a compressed image that are searched for its size, to bound the time in the executor."""

LATE_SUBSCRIBER = 0.5
"""Seconds without an image, and with a new subscriber, after which a latched image is received again: discovery is not
symmetric, so the subscriber may not have discovered the publisher yet."""


class Camera:
    """Topics and statistics of a camera.

    Args:
        node: Node that subscribes and publishes.
        name: Prefix of the topics; empty for the only camera of a node.

    Attributes:
        statistics: Frame counts since configuration.
        monitor: Monitor of the images since activation.
        calibrations: Calibration since activation.
        subscriptions: Subscriptions while the node is active, otherwise None.
        image_size: Width and height of the latest image in pixels; None before the first.
        image_frame_id: frame_id of the latest image; None before the first.
        image_remark: Remark on the values of the latest image; usually empty.
    """

    def __init__(self, node: LifecycleNode, name: str = "") -> None:
        self.name = name
        self.statistics = Statistics()
        self.monitor = StreamMonitor()
        self.calibrations = CalibrationCache()
        self.subscriptions: CameraSubscriptions | None = None
        self.image_size: tuple[int, int] | None = None
        self.image_frame_id: str | None = None
        self.image_remark = ""
        self._info_frame_id: str | None = None
        self._on_image: Callable[[Any], None] | None = None
        self._node = node
        self._publishers: dict[str, Any] = {}
        # Outputs that had a subscriber when the latest image of a latched topic arrived, and since when others have one.
        self._served: frozenset[str] = frozenset()
        self._late_since: float | None = None
        self._history = History()

    def create_publishers(self, config: Config) -> None:
        """Create the publishers of all outputs."""
        prefix = f"~/{self.name}/" if self.name else "~/"
        for output in OUTPUT_TOPICS:
            message_type = MESSAGE_TYPES[output.type]
            if message_type is None:
                continue
            if output.latched:
                profile = keep_last(1, reliable=True, latched=True)
            else:
                profile = keep_last(config.output_queue_size, config.output_reliability == "reliable")
            self._publishers[output.name] = self._node.create_lifecycle_publisher(
                message_type, f"{prefix}{output.name}", profile
            )

    def destroy_publishers(self) -> None:
        """Destroy the publishers."""
        for publisher in self._publishers.values():
            self._node.destroy_lifecycle_publisher(publisher)
        self._publishers.clear()

    def subscribe(self, config: Config, on_image: Callable[[Any], None]) -> None:
        """Subscribe to images and CameraInfo; `on_image` receives the image messages in the executor's thread."""
        # Images may come from another camera than before.
        self.image_size = self.image_frame_id = self._info_frame_id = None
        self.image_remark = ""
        self.calibrations = CalibrationCache()
        self.statistics.reset_silence()
        self.monitor = StreamMonitor()
        self._on_image = on_image
        self._served, self._late_since = frozenset(), None
        self.subscriptions = CameraSubscriptions(
            self._node, config, self._receive, self._on_camera_info, self._on_update, self.name
        )
        for text in self.subscriptions.ignored_remappings:
            self._node.get_logger().warning(text)

    def unsubscribe(self) -> None:
        """Unsubscribe from images and CameraInfo."""
        if self.subscriptions is not None:
            self.subscriptions.close()
            self.subscriptions = None
        # Free the worker with the pipeline, and the latest images.
        self._on_image = None
        self._history = History()
        self.monitor.forget_last()

    def publish_latched(self, encoder: MessageEncoder) -> None:
        """Publish the outputs that do not depend on an image."""
        for output in OUTPUT_TOPICS:
            if output.latched and output.name in self._publishers:
                header = Header(stamp=self._node.get_clock().now().to_msg())
                self._publishers[output.name].publish(to_message(output.type, encoder.label_info(), header))

    def subscribed_outputs(self) -> list[OutputTopic]:
        """Return the outputs that have a subscriber."""
        return [
            output
            for output in OUTPUT_TOPICS
            if output.name in self._publishers
            and not output.latched
            and self._publishers[output.name].get_subscription_count() > 0
        ]

    def to_frame(self, message: Any, rectified: bool) -> Frame:
        """Decode an image message; the frame has a camera model if there is a usable CameraInfo.

        Raises:
            FrameError: The image is malformed or its encoding is not supported.
        """
        image = to_rgb(message)
        height, width = image.shape[:2]
        self.image_size, self.image_frame_id = (width, height), message.header.frame_id
        self.image_remark = describe_dark_samples(original_encoding(message), image)
        model = self.calibrations.state(self.image_size, rectified).model
        return Frame(image, model, stamp_ns(message.header), message.header.frame_id, self._history)

    def publish(self, outputs: list[OutputTopic], encoder: MessageEncoder, result: Result, header: Header) -> None:
        """Publish outputs of a result under the header of its image."""
        # All messages are built before the first is published, so that a frame is published completely or rejected.
        encoded = [(output, output.encode(encoder, result)) for output in outputs]
        messages = [(output.name, to_message(output.type, fields, header)) for output, fields in encoded if fields is not None]
        for name, message in messages:
            self._publishers[name].publish(message)

    def snapshot(self, config: Config) -> CameraSnapshot:
        """Summarize the camera for diagnostics."""
        statistics = self.statistics.snapshot()
        stream = self.monitor.snapshot(time.monotonic(), config.image_timeout)
        if self.subscriptions is None:
            return CameraSnapshot(self.name, statistics, stream)
        silent = statistics.silence is None or statistics.silence > config.image_timeout
        source = InputSnapshot(
            image=self.subscriptions.image.snapshot(silent),
            camera_info=self.subscriptions.camera_info.snapshot(self.calibrations.latest is None),
            state=self.calibrations.state(self.image_size, config.input_rectified),
            image_size=self.image_size,
            image_frame_id=self.image_frame_id,
            image_remark=self.image_remark,
            info_frame_id=self._info_frame_id,
            info_changes=self.calibrations.changes,
            ignored_remappings=self.subscriptions.ignored_remappings,
        )
        return CameraSnapshot(self.name, statistics, stream, source)

    def _receive(self, message: Any) -> None:
        subscriptions = self.subscriptions
        if self._on_image is None or subscriptions is None:
            return
        if subscriptions.image.is_latched:
            self._served = frozenset(output.name for output in self.subscribed_outputs())
        is_first = self.statistics.last_received_at is None
        self._on_image(message)
        # After the hand-over, so that it does not delay the image.
        arrival = self._arrival(message, subscriptions.image.is_latched)
        self.monitor.observe(arrival)
        if is_first:
            self._node.get_logger().info(f"receiving images on {subscriptions.image.topic}: {arrival.form}")

    def _on_update(self, is_replaced: bool) -> None:
        """Receive the latest image again if an output gained a subscriber and no other image follows, as for a still image."""
        subscriptions, last, now = self.subscriptions, self.monitor.last, time.monotonic()
        if is_replaced:
            self.monitor.forget_last()
        if subscriptions is None or last is None or now - last.at < LATE_SUBSCRIBER or not subscriptions.image.is_latched:
            return
        if {output.name for output in self.subscribed_outputs()} <= self._served:
            self._late_since = None
        elif self._late_since is None:
            self._late_since = now
        elif now - self._late_since >= LATE_SUBSCRIBER:
            self._late_since = None
            self.monitor.forget_last()
            subscriptions.image.subscribe_again()

    def _on_camera_info(self, message: CameraInfo) -> None:
        self._info_frame_id = message.header.frame_id
        try:
            self.calibrations.update(decode_camera_info(message))
        except CameraError as error:
            self.calibrations.update(str(error))

    def _arrival(self, message: Any, is_latched: bool) -> Arrival:
        clock = self._node.get_clock()
        if isinstance(message, CompressedImage):
            size, encoding = image_size(bytes(memoryview(message.data)[:HEADER_BYTES])), message.format
        else:
            size, encoding = (message.width, message.height), message.encoding
        # Untrusted text of any length.
        encoding = one_line(encoding, 40) if encoding else "without encoding"
        form = f"{size[0]}x{size[1]} {encoding}" if size else encoding
        return Arrival(
            stamp_ns(message.header),
            time.monotonic(),
            clock.now().nanoseconds,
            clock.ros_time_is_active,
            form,
            message.data,
            is_latched,
        )
