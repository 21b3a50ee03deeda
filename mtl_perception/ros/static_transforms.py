"""Publication of static transforms on /tf_static, without tf2_ros."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from geometry_msgs.msg import Quaternion, Transform, TransformStamped, Vector3
from rclpy.node import Node
from std_msgs.msg import Header

from mtl_perception.camera.transforms import StaticTransform
from mtl_perception.ros.qos import keep_last

try:
    from tf2_msgs.msg import TFMessage
except ImportError:
    TFMessage = None


def publish_static_transforms(node: Node, transforms: Iterable[StaticTransform]) -> Any:
    """Publish static transforms, also for late subscribers while the publisher exists.

    Returns:
        The publisher; None if there are no transforms, or if tf2_msgs is not installed, which is logged.
    """
    stamp = node.get_clock().now().to_msg()
    messages = [
        TransformStamped(
            header=Header(frame_id=entry.parent, stamp=stamp),
            child_frame_id=entry.child,
            transform=Transform(
                translation=Vector3(**dict(zip("xyz", entry.translation, strict=True))),
                rotation=Quaternion(**dict(zip("xyzw", entry.rotation, strict=True))),
            ),
        )
        for entry in transforms
    ]
    if not messages:
        return None
    if TFMessage is None:
        node.get_logger().info("static transforms are not published: tf2_msgs is not installed")
        return None
    publisher = node.create_publisher(TFMessage, "/tf_static", keep_last(1, reliable=True, latched=True))
    publisher.publish(TFMessage(transforms=messages))
    return publisher
