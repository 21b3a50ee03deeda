"""Table of output topics."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from mtl_perception.messages.encode import Fields, MessageEncoder
from mtl_perception.types import Outputs

NODE_NAME = "mtl_perception"
"""Name of the node, under which the outputs are published."""

IMAGE = "sensor_msgs/msg/Image"
CAMERA_INFO = "sensor_msgs/msg/CameraInfo"
POINT_CLOUD = "sensor_msgs/msg/PointCloud2"
LABEL_INFO = "vision_msgs/msg/LabelInfo"


@dataclass(frozen=True)
class OutputTopic:
    """One row of the table.

    Attributes:
        name: Topic relative to the node's name.
        type: ROS message type.
        content: Human-readable description for the documentation.
        encode: Returns the message's fields, or None when the result lacks what the topic needs.
        needs: Results that the topic is made from; see types.OUTPUTS.
        latched: Published once with transient local durability instead of with every frame.
        redundant: The content of other topics for viewers; `record` and `process` omit it unless it is requested.
    """

    name: str
    type: str
    content: str
    encode: Callable[[MessageEncoder, Outputs], Fields | None]
    needs: frozenset[str] = frozenset()
    latched: bool = False
    redundant: bool = False


OUTPUT_TOPICS = (
    OutputTopic("segmentation/image", IMAGE, "bgr8, class colors", MessageEncoder.segmentation_image, frozenset({"labels"})),
    OutputTopic(
        "segmentation/overlay",
        IMAGE,
        "bgr8, class colors blended over the image",
        MessageEncoder.segmentation_overlay,
        frozenset({"labels", "image"}),
    ),
    OutputTopic(
        "segmentation/labels",
        IMAGE,
        "mono8, class ids, 255 = unlabeled",
        MessageEncoder.segmentation_labels,
        frozenset({"labels"}),
    ),
    OutputTopic(
        "segmentation/confidence",
        IMAGE,
        "mono8, softmax maximum, 0 to 255",
        MessageEncoder.segmentation_confidence,
        frozenset({"confidence"}),
    ),
    OutputTopic(
        "segmentation/label_info",
        LABEL_INFO,
        "classes by id, min_confidence; transient local; only where vision_msgs is installed",
        MessageEncoder.label_info,
        latched=True,
    ),
    OutputTopic(
        "segmentation/points",
        POINT_CLOUD,
        "`~/points` with rgb = class color",
        MessageEncoder.segmentation_points,
        frozenset({"cloud"}),
        redundant=True,
    ),
    OutputTopic(
        "depth/image",
        IMAGE,
        "32FC1, meters along the optical Z axis; NaN = invalid, +Inf = beyond max_depth",
        MessageEncoder.depth_image,
        frozenset({"depth"}),
    ),
    OutputTopic("depth/camera_info", CAMERA_INFO, "intrinsics of the depth image", MessageEncoder.depth_camera_info),
    OutputTopic(
        "points",
        POINT_CLOUD,
        "organized cloud, one point per pixel: x, y, z (m), rgb, label; NaN at edges and non-finite depth",
        MessageEncoder.points,
        frozenset({"cloud"}),
    ),
)

RECORDED_TOPICS = tuple(row.name for row in OUTPUT_TOPICS if not row.redundant)
"""Names of the outputs that `record` and `process` write by default."""


def needed_results(topics: Collection[str]) -> frozenset[str]:
    """Return which of types.OUTPUTS the topics of these names are made from."""
    return frozenset().union(*(row.needs for row in OUTPUT_TOPICS if row.name in topics))
