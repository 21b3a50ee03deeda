"""Fields of messages as the messages that bags are written with."""

from __future__ import annotations

from typing import Any

from mtl_perception.messages.encode import Fields
from mtl_perception.messages.topics import CAMERA_INFO, LABEL_INFO

# Which nested message a field holds, by the message and the field.
_NESTED = {
    (CAMERA_INFO, "roi"): "sensor_msgs/msg/RegionOfInterest",
    ("sensor_msgs/msg/PointCloud2", "fields"): "sensor_msgs/msg/PointField",
    (LABEL_INFO, "class_map"): "vision_msgs/msg/VisionClass",
}

LABEL_INFO_DEFINITIONS = (
    ("vision_msgs/msg/VisionClass", "uint16 class_id\nstring class_name\n"),
    ("vision_msgs/msg/LabelInfo", "std_msgs/Header header\nvision_msgs/VisionClass[] class_map\nfloat32 threshold\n"),
)
"""Field lists of the two messages of vision_msgs 4, which the base installation of ROS 2 lacks."""


def header(typestore: Any, stamp_ns: int, frame_id: str) -> Any:
    """A std_msgs/Header."""
    stamp = typestore.types["builtin_interfaces/msg/Time"](sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
    return typestore.types["std_msgs/msg/Header"](stamp=stamp, frame_id=frame_id)


def to_bag_message(typestore: Any, kind: str, fields: Fields, header: Any) -> Any:
    """A message of the typestore's.

    Args:
        typestore: A rosbags typestore that knows `kind`.
        kind: ROS type name.
        fields: As made by messages.encode.
        header: A std_msgs/Header of the same typestore.
    """
    values = {}
    for name, value in fields.items():
        nested = _NESTED.get((kind, name))
        if nested is None:
            values[name] = value
        elif isinstance(value, list):
            values[name] = [typestore.types[nested](**entry) for entry in value]
        else:
            values[name] = typestore.types[nested](**value)
    return typestore.types[kind](header=header, **values)
