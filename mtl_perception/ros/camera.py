"""One camera of the node: where its pictures come from, what is published for it, what was counted."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from rclpy.lifecycle import LifecycleNode
from sensor_msgs.msg import CompressedImage
from std_msgs.msg import Header

from mtl_perception.camera.model import CameraModel
from mtl_perception.config import Config
from mtl_perception.errors import one_line
from mtl_perception.messages.decode import stamp_ns
from mtl_perception.messages.encode import MessageEncoder
from mtl_perception.messages.image_header import image_size
from mtl_perception.messages.topics import OUTPUT_TOPICS, OutputTopic
from mtl_perception.ros.camera_input import CameraInput
from mtl_perception.ros.convert import MESSAGE_TYPES, to_message, to_rgb
from mtl_perception.ros.qos import keep_last, output_profile
from mtl_perception.ros.statistics import Statistics
from mtl_perception.runtime.stream_monitor import Arrival, StreamWatch
from mtl_perception.types import Frame, Result

HEADER_BYTES = 2**16
"""The size of a compressed picture is looked for in so many of its bytes: the executor has no time for strange ones."""


class Camera:
    """Topics and counts of a camera.

    Args:
        node: Subscribes and publishes.
        name: Its topics are under this name; empty for the only camera of a node, whose topics are under none.

    Attributes:
        input: Its subscriptions, while the node is active.
        watch: What is odd about its pictures, since the node became active.
        last_size: Width and height of the latest picture, None before the first.
        last_frame_id: Frame of the latest picture, None before the first.
    """

    def __init__(self, node: LifecycleNode, name: str = "") -> None:
        self.name = name
        self.statistics = Statistics()
        self.watch = StreamWatch()
        self.input: CameraInput | None = None
        self.last_size: tuple[int, int] | None = None
        self.last_frame_id: str | None = None
        self._node = node
        self._outputs: dict[str, Any] = {}

    def create_outputs(self, config: Config) -> None:
        """Make the publishers of all outputs."""
        profile = output_profile(config)
        under = f"~/{self.name}/" if self.name else "~/"
        for row in OUTPUT_TOPICS:
            kind = MESSAGE_TYPES[row.type]
            if kind is None:
                continue
            quality = keep_last(1, reliable=True, latched=True) if row.latched else profile
            self._outputs[row.name] = self._node.create_lifecycle_publisher(kind, f"{under}{row.name}", quality)

    def destroy_outputs(self) -> None:
        """Let go of the publishers."""
        for publisher in self._outputs.values():
            self._node.destroy_lifecycle_publisher(publisher)
        self._outputs.clear()

    def listen(self, config: Config, on_image: Callable[[Any], None]) -> None:
        """Subscribe; `on_image` gets each picture's message, in the executor's thread."""
        # Pictures may come from another camera than before.
        self.last_size = self.last_frame_id = None
        self.statistics.begin()
        watch = self.watch = StreamWatch()

        def take(message: Any) -> None:
            on_image(message)
            # Afterwards, when the picture is on its way.
            watch.saw(self._arrival(message))

        self.input = CameraInput(self._node, config, take, self.name)
        for text in self.input.ignored:
            self._node.get_logger().warning(text)

    def stop_listening(self) -> None:
        """Unsubscribe."""
        if self.input is not None:
            self.input.close()
            self.input = None
        # It holds the latest picture.
        self.watch.last = None

    def _arrival(self, message: Any) -> Arrival:
        clock = self._node.get_clock()
        if isinstance(message, CompressedImage):
            size, encoding = image_size(bytes(memoryview(message.data)[:HEADER_BYTES])), message.format
        else:
            size, encoding = (message.width, message.height), message.encoding
        # A stranger's text, of any length.
        encoding = one_line(encoding, 40) if encoding else "without encoding"
        form = f"{size[0]}x{size[1]} {encoding}" if size else encoding
        return Arrival(
            stamp_ns(message.header), time.monotonic(), clock.now().nanoseconds, clock.ros_time_is_active, form, message.data
        )

    def publish_label_info(self, encoder: MessageEncoder) -> None:
        """Publish what is latched."""
        for row in OUTPUT_TOPICS:
            if row.latched and row.name in self._outputs:
                header = Header(stamp=self._node.get_clock().now().to_msg())
                self._outputs[row.name].publish(to_message(row.type, encoder.label_info(), header))

    def wanted(self) -> list[OutputTopic]:
        """The outputs that somebody subscribes to."""
        return [
            row
            for row in OUTPUT_TOPICS
            if row.name in self._outputs and not row.latched and self._outputs[row.name].get_subscription_count() > 0
        ]

    def frame(self, message: Any, rectified: bool) -> Frame:
        """The frame of a picture's message, with the camera's model if there is one.

        Raises:
            FrameError: The picture cannot be read.
        """
        image = to_rgb(message)
        height, width = image.shape[:2]
        self.last_size, self.last_frame_id = (width, height), message.header.frame_id
        source = self.input
        model = source.model(width, height, rectified) if source is not None else None
        return Frame(
            image, model if isinstance(model, CameraModel) else None, stamp_ns(message.header), message.header.frame_id
        )

    def publish(self, rows: list[OutputTopic], encoder: MessageEncoder, result: Result, header: Header) -> None:
        """Publish these outputs of a result under the picture's header, whole or not at all."""
        # All are made before the first is sent: a frame comes out whole, or it is rejected.
        encoded = [(row, row.encode(encoder, result)) for row in rows]
        ready = [(row.name, to_message(row.type, fields, header)) for row, fields in encoded if fields is not None]
        for name, output in ready:
            self._outputs[name].publish(output)
