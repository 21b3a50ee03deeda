"""What the runtime needs from ROS."""

from __future__ import annotations

from typing import Any, Protocol

from mtl_perception.messages.encode import MessageEncoder
from mtl_perception.messages.topics import OutputTopic
from mtl_perception.result import Result
from mtl_perception.runtime.statistics import Statistics
from mtl_perception.types import Frame


class Logger(Protocol):
    """Logger of a node; `options` are those of rclpy, such as throttle_duration_sec."""

    def info(self, message: str, **options: Any) -> Any:
        """Log information."""

    def warning(self, message: str, **options: Any) -> Any:
        """Log a warning."""

    def error(self, message: str, **options: Any) -> Any:
        """Log an error."""


class Camera(Protocol):
    """A camera whose images are processed."""

    name: str
    statistics: Statistics

    def subscribed_outputs(self) -> list[OutputTopic]:
        """Return the outputs that have a subscriber."""

    def to_frame(self, message: Any, rectified: bool) -> Frame:
        """Decode an image message; raise FrameError if it is malformed."""

    def publish(self, outputs: list[OutputTopic], encoder: MessageEncoder, result: Result, header: Any) -> None:
        """Publish outputs of a result under the header of its image."""
