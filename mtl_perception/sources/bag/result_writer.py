"""Writer of results to a bag, as the messages that the node publishes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mtl_perception.camera.model import Calibration
from mtl_perception.messages.encode import Fields, MessageEncoder, camera_info_fields, image_fields
from mtl_perception.messages.topics import CAMERA_INFO, IMAGE, NODE_NAME, OUTPUT_TOPICS, RECORDED_TOPICS
from mtl_perception.sources.bag.messages import header, to_bag_message
from mtl_perception.types import Frame, Outputs

if TYPE_CHECKING:
    from mtl_perception.sources.bag.writer import BagWriter

NODE = f"/{NODE_NAME}"
INPUT = "/camera"
"""Namespace of the copied input."""


class ResultWriter:
    """Writes the messages of each result.

    Args:
        writer: Open bag.
        encoder: Encoder of the messages.
        with_input: Whether to write the images and their CameraInfo as well.
        topics: Names of the outputs to write.
    """

    def __init__(
        self, writer: BagWriter, encoder: MessageEncoder, with_input: bool = False, topics: Sequence[str] = RECORDED_TOPICS
    ) -> None:
        self.frames = 0
        self._rows = [row for row in OUTPUT_TOPICS if row.name in topics]
        self._writer, self._encoder, self._with_input = writer, encoder, with_input
        for row in self._rows:
            writer.add_topic(f"{NODE}/{row.name}", row.type, latched=row.latched)

    def write(self, time_ns: int, frame: Frame, result: Outputs) -> None:
        """Write the messages of one frame.

        Args:
            time_ns: Bag time of the frame, nanoseconds.
            frame: The input.
            result: Its result with the outputs that the topics need.
        """
        stamp = header(self._writer.typestore, frame.stamp_ns, frame.frame_id)
        if self._with_input:
            self._put(f"{INPUT}/image", IMAGE, image_fields(frame.image, "rgb8"), stamp, time_ns)
            if frame.camera is not None:
                fields = camera_info_fields(Calibration.of(frame.camera))
                self._put(f"{INPUT}/camera_info", CAMERA_INFO, fields, stamp, time_ns)
        for row in self._rows:
            if row.latched and self.frames:
                continue
            encoded = row.encode(self._encoder, result)
            if encoded is not None:
                self._put(f"{NODE}/{row.name}", row.type, encoded, stamp, time_ns)
        self.frames += 1

    def _put(self, topic: str, kind: str, fields: Fields, stamp: Any, time_ns: int) -> None:
        message = to_bag_message(self._writer.typestore, kind, fields, stamp)
        self._writer.write_message(topic, message, time_ns)
