"""Choice of a bag's image topic."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from pathlib import Path

from mtl_perception.errors import FrameError, SourceError, one_line
from mtl_perception.messages.decode import original_encoding
from mtl_perception.messages.topics import IMAGE, NODE_NAME
from mtl_perception.messages.transports import describe_packets
from mtl_perception.sources.bag.reader import Bag, deserialize

COMPRESSED_IMAGE = "sensor_msgs/msg/CompressedImage"
PREFERRED_NAMES = ("image_rect_color", "image_rect", "image_raw", "color")
DEPTH_NAMES = ("depth", "disparity")
DEPTH_ENCODINGS = ("mono16", "16UC1", "16SC1", "32FC1", "32SC1", "64FC1")
GRAY_ENCODINGS = ("mono8", "8UC1")
COLOR_WORDS = frozenset(("color", "rgb"))
INFRARED_WORDS = frozenset(("infra", "infrared", "ir", "nir", "swir", "lwir", "thermal"))
OWN_TOPICS = f"/{NODE_NAME}/"

logger = logging.getLogger(__name__)


def base_topic(topic: str) -> str:
    """Return an image topic without its transport: /camera/image_raw for /camera/image_raw/compressed."""
    return topic.removesuffix("/compressed")


def choose_image_topic(path: Path, bag: Bag) -> str:
    """Select the topic of color or gray images; a warning lists the others, if there are any.

    Depth topics (by name or encoding) and topics of this package are ignored. A camera (namespace) with color images wins over
    one with gray images only, and both over an infrared camera; then the best name of `PREFERRED_NAMES`, then a name with
    "color" or "rgb" in it, then raw over compressed.

    Raises:
        SourceError: There is no such topic, or several are equally good; the message lists them.
    """
    topics = {name: topic for name, topic in bag.topics.items() if topic.type in (IMAGE, COMPRESSED_IMAGE)}
    if not topics:
        types = sorted({topic.type for topic in bag.topics.values()})
        hint = describe_packets(types)
        found = one_line(", ".join(types if hint else types[:5]) or "no messages")
        raise SourceError(f"bag {path} has no images (sensor_msgs Image or CompressedImage), but {found}{hint}")
    filled = {name: topic for name, topic in topics.items() if topic.count}
    if not filled:
        raise SourceError(f"bag {path} has no images: nothing was recorded on {join_topics(topics)}")
    encodings = {name: _first_encoding(bag, name) for name in filled if OWN_TOPICS not in name and not _is_named_depth(name)}
    candidates = [name for name, encoding in encodings.items() if encoding not in DEPTH_ENCODINGS]
    if not candidates:
        raise SourceError(f"bag {path} has no color or gray images, but {join_topics(filled)}; select one with --image TOPIC")
    color_cameras = {_namespace(name) for name in candidates if encodings[name] not in GRAY_ENCODINGS}
    ranks = {name: _rank(name, _namespace(name) in color_cameras) for name in candidates}
    chosen = [name for name in candidates if ranks[name] == min(ranks.values())]
    if len({base_topic(name) for name in chosen}) > 1:
        raise SourceError(f"bag {path} has images of several cameras: {join_topics(candidates)}; select one with --image TOPIC")
    topic = min(chosen, key=lambda name: topics[name].type != IMAGE)
    others = [name for name in candidates if base_topic(name) != base_topic(topic)]
    if others:
        logger.warning("%s: reading %s; other image topics for --image: %s", path.absolute().name, topic, join_topics(others))
    return topic


def find_topic(path: Path, bag: Bag, topic: str, types: tuple[str, ...], option: str) -> str:
    """Return the bag's name of a topic that the user gave; "" if none was given.

    Raises:
        SourceError: The bag has no messages of these types on it.
    """
    if not topic:
        return ""
    names = [name for name in (topic, "/" + topic, topic.lstrip("/")) if name in bag.topics and bag.topics[name].type in types]
    for name in names:
        if bag.topics[name].count:
            return name
    candidates = join_topics(name for name, found in bag.topics.items() if found.type in types and found.count) or "none"
    kind = " or ".join(name.rpartition("/")[2] for name in types)
    why = f"no messages on {names[0]}: nothing was recorded" if names else f"no {kind} messages on {topic}"
    raise SourceError(f"bag {path} has {why}; candidates for {option}: {candidates}")


def join_topics(topics: Iterable[str]) -> str:
    """Return the names on one line in alphabetical order."""
    return one_line(", ".join(sorted(topics)), 400)


def _rank(topic: str, is_color_camera: bool) -> tuple[bool, bool, int, bool]:
    words = {word.rstrip("0123456789") for word in re.split(r"[/_]", topic.lower())}
    name = next((i for i, name in enumerate(PREFERRED_NAMES) if name in topic), len(PREFERRED_NAMES))
    return bool(words & INFRARED_WORDS), not is_color_camera, name, not words & COLOR_WORDS


def _namespace(topic: str) -> str:
    return base_topic(topic).rpartition("/")[0]


def _is_named_depth(topic: str) -> bool:
    return any(name in topic.lower() for name in DEPTH_NAMES)


def _first_encoding(bag: Bag, topic: str) -> str:
    """Return the encoding of a topic's first message; "" if it cannot be read."""
    try:
        record = next(bag.messages([topic]))
        return original_encoding(deserialize(record))
    except (FrameError, SourceError, StopIteration):
        return ""
