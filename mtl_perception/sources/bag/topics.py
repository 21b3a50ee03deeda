"""Choice of a bag's image topic."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from mtl_perception.errors import FrameError, SourceError, one_line
from mtl_perception.messages.topics import IMAGE, NODE_NAME
from mtl_perception.sources.bag.reader import Bag, deserialize

COMPRESSED_IMAGE = "sensor_msgs/msg/CompressedImage"
PREFERRED_NAMES = ("image_rect_color", "image_rect", "image_raw", "color")
DEPTH_NAMES = ("depth", "disparity")
DEPTH_ENCODINGS = ("mono16", "16UC1", "16SC1", "32FC1", "32SC1", "64FC1")
OWN_TOPICS = f"/{NODE_NAME}/"


def base_topic(topic: str) -> str:
    """Return an image topic without its transport: /camera/image_raw for /camera/image_raw/compressed."""
    return topic.removesuffix("/compressed")


def choose_image_topic(path: Path, bag: Bag) -> str:
    """Select the topic of color or gray images.

    Depth topics (by name or encoding) and topics of this package are ignored. The best name of `PREFERRED_NAMES` wins, then a
    name with "color" in it, then raw over compressed.

    Raises:
        SourceError: There is no such topic, or several are equally good; the message lists them.
    """
    topics = {name: topic for name, topic in bag.topics.items() if topic.type in (IMAGE, COMPRESSED_IMAGE)}
    if not topics:
        found = one_line(", ".join(sorted({topic.type for topic in bag.topics.values()})[:5]) or "no messages")
        raise SourceError(f"bag {path} has no images (sensor_msgs Image or CompressedImage), but {found}")
    filled = {name: topic for name, topic in topics.items() if topic.count}
    if not filled:
        raise SourceError(f"bag {path} has no images: nothing was recorded on {join_topics(topics)}")
    candidates = [name for name in filled if OWN_TOPICS not in name and not _is_depth(bag, name)]
    if not candidates:
        raise SourceError(f"bag {path} has no color or gray images, but {join_topics(filled)}; select one with --image TOPIC")
    best = min(map(_rank, candidates))
    chosen = [name for name in candidates if _rank(name) == best]
    if len({base_topic(name) for name in chosen}) > 1:
        raise SourceError(f"bag {path} has images of several cameras: {join_topics(candidates)}; select one with --image TOPIC")
    return min(chosen, key=lambda name: topics[name].type != IMAGE)


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


def _rank(topic: str) -> tuple[int, bool]:
    name = next((i for i, name in enumerate(PREFERRED_NAMES) if name in topic), len(PREFERRED_NAMES))
    return name, "color" not in topic


def _is_depth(bag: Bag, topic: str) -> bool:
    """Return whether a topic carries depth, by its name or its first message's encoding."""
    if any(name in topic.lower() for name in DEPTH_NAMES):
        return True
    if bag.topics[topic].type == COMPRESSED_IMAGE:
        return False
    try:
        message = deserialize(next(bag.messages([topic])), bag.is_ros1)
    except (FrameError, SourceError, StopIteration):
        return False
    return message.encoding in DEPTH_ENCODINGS
