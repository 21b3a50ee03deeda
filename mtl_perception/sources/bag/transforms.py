"""Static transforms recorded in a bag."""

from __future__ import annotations

import logging

from mtl_perception.camera.transforms import StaticTransform, link_transforms
from mtl_perception.errors import FrameError, SourceError
from mtl_perception.sources.bag.reader import Bag, deserialize

TOPICS = ("/tf_static", "tf_static")

logger = logging.getLogger(__name__)


def bag_transforms(bag: Bag, frame_id: str) -> list[StaticTransform]:
    """Return the latest static transform of each frame.

    If none contains the frame of the images, `link_transforms` of that frame are added.

    Args:
        bag: The bag; damage ends the reading.
        frame_id: Frame of the images.
    """
    found: dict[str, StaticTransform] = {}
    topics = [topic for topic in TOPICS if topic in bag.topics and bag.topics[topic].type.lower().endswith("/tfmessage")]
    try:
        for record in bag.messages(topics) if topics else ():
            for entry in deserialize(record).transforms:
                # tf2 refuses names with a leading slash, which ROS 1 allowed.
                parent, child = (name.lstrip("/") for name in (entry.header.frame_id, entry.child_frame_id))
                moved, turned = entry.transform.translation, entry.transform.rotation
                found[child] = StaticTransform(
                    parent, child, (moved.x, moved.y, moved.z), (turned.x, turned.y, turned.z, turned.w)
                )
    except (FrameError, SourceError) as error:
        logger.debug("static transforms after this one were not read: %s", error)
    transforms = list(found.values())
    known = {name for transform in transforms for name in (transform.parent, transform.child)}
    return transforms if frame_id in known else [*transforms, *link_transforms(frame_id)]
