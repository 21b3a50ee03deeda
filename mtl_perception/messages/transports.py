"""Message types of image_transport's plugins that are not read."""

from __future__ import annotations

from collections.abc import Iterable

PACKET_TYPES = (
    "ffmpeg_image_transport_msgs/msg/FFMPEGPacket",
    "foxglove_msgs/msg/CompressedVideo",
    "theora_image_transport/msg/Packet",
)
"""Packets of a video stream, most of which depend on others."""


def describe_packets(types: Iterable[str]) -> str:
    """Describe what to do about a topic of video packets; empty if there is none among the message types."""
    if not set(types) & set(PACKET_TYPES):
        return ""
    return "; these are video packets: decode them to sensor_msgs/msg/Image with image_transport's republish"
