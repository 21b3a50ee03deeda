"""Decoders of the messages of the output topics, for viewers: the inverse of `MessageEncoder`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from mtl_perception.errors import FrameError, truncated_repr
from mtl_perception.labels import CLASS_SETS, ClassSet, colormap
from mtl_perception.messages.decode import decode_camera_info, decode_cloud, decode_depth, decode_image
from mtl_perception.types import Outputs

LABEL_INFO = "segmentation/label_info"
OVERLAY = "segmentation/overlay"


def decode_mono8(message: Any) -> np.ndarray:
    """Decode a mono8 sensor_msgs/Image to H x W uint8.

    Raises:
        FrameError: It has another encoding, or is malformed.
    """
    if message.encoding != "mono8":
        raise FrameError(f"image has encoding {truncated_repr(message.encoding)}, not mono8", "encoding")
    return np.ascontiguousarray(decode_image(message)[..., 0])


OUTPUT_DECODERS: dict[str, Callable[[Any], Outputs]] = {
    "depth/camera_info": lambda message: Outputs(camera=decode_camera_info(message).camera(rectified=True)),
    "segmentation/labels": lambda message: Outputs(labels=decode_mono8(message)),
    "segmentation/confidence": lambda message: Outputs(confidence=decode_mono8(message)),
    "depth/image": lambda message: Outputs(depth=decode_depth(message)),
    "points": lambda message: Outputs(cloud=decode_cloud(message)),
    OVERLAY: lambda message: Outputs(image=decode_image(message)),
}
"""Decoder by name of the topic, relative to the node's name; an overlay takes the place of the image."""


def decode_label_info(message: Any) -> ClassSet:
    """Return the classes of a vision_msgs/LabelInfo, with the colors of the set that has the same names, if there is one.

    Raises:
        FrameError: The ids are not 0 to C - 1.
    """
    names = {int(entry.class_id): str(entry.class_name) for entry in message.class_map}
    if sorted(names) != list(range(len(names))):
        raise FrameError(f"label_info has class ids {truncated_repr(sorted(names))}, not 0 to {len(names) - 1}", "label_info")
    ordered = tuple(names[i] for i in range(len(names)))
    known = next((classes for classes in CLASS_SETS.values() if classes.names == ordered), None)
    return known or ClassSet("label_info", ordered, tuple(colormap(i + 1) for i in range(len(names))))
