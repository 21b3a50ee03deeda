"""Message fields as the message classes that rosbags writes."""

from __future__ import annotations

from functools import cache
from typing import Any

from mtl_perception.messages.encode import Fields
from mtl_perception.messages.topics import CAMERA_INFO, LABEL_INFO, POINT_CLOUD

# Type of a nested message by the message's type and the field.
_NESTED = {
    (CAMERA_INFO, "roi"): "sensor_msgs/msg/RegionOfInterest",
    (POINT_CLOUD, "fields"): "sensor_msgs/msg/PointField",
    (LABEL_INFO, "class_map"): "vision_msgs/msg/VisionClass",
}

# Definitions of two messages of vision_msgs 4, which are not part of the base installation of ROS 2.
_LABEL_INFO_DEFINITIONS = (
    ("vision_msgs/msg/VisionClass", "uint16 class_id\nstring class_name\n"),
    ("vision_msgs/msg/LabelInfo", "std_msgs/Header header\nvision_msgs/VisionClass[] class_map\nfloat32 threshold\n"),
)


@cache
def typestore(is_ros1: bool) -> Any:
    """Return the message definitions of Noetic, or those of Jazzy and LabelInfo; rosbags generates code for them once.

    The message types read here are the same in all ROS 1 and in all ROS 2 distributions. A bag's own definitions are ignored:
    old db3 bags lack them, and one that cannot be parsed would make the whole bag unreadable.
    """
    from rosbags.typesys import Stores, get_types_from_msg, get_typestore

    if not is_ros1:
        store = get_typestore(Stores.ROS2_JAZZY)
        for kind, definition in _LABEL_INFO_DEFINITIONS:
            store.register(get_types_from_msg(definition, kind))
        return store
    store = get_typestore(Stores.ROS1_NOETIC)
    for name in ("tf2_msgs/msg/TFMessage", "tf/msg/tfMessage"):
        store.register(get_types_from_msg("geometry_msgs/TransformStamped[] transforms", name))
    return store


def header(typestore: Any, stamp_ns: int, frame_id: str) -> Any:
    """Return a std_msgs/Header."""
    stamp = typestore.types["builtin_interfaces/msg/Time"](sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
    return typestore.types["std_msgs/msg/Header"](stamp=stamp, frame_id=frame_id)


def to_bag_message(typestore: Any, type_name: str, fields: Fields, header: Any) -> Any:
    """Return a message of the typestore.

    Args:
        typestore: A rosbags typestore that has `type_name`.
        type_name: ROS message type.
        fields: Fields as made by messages.encode.
        header: A std_msgs/Header of the same typestore.
    """
    values = {}
    for name, value in fields.items():
        nested = _NESTED.get((type_name, name))
        if nested is None:
            values[name] = value
        elif isinstance(value, list):
            values[name] = [typestore.types[nested](**entry) for entry in value]
        else:
            values[name] = typestore.types[nested](**value)
    return typestore.types[type_name](header=header, **values)
