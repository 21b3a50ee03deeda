"""The node's outputs in a bag that `process` or `record` wrote."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from mtl_perception.errors import CameraError, FrameError, SourceError
from mtl_perception.labels import ClassSet
from mtl_perception.messages.decode import decode_compressed_image, decode_image, stamp_ns
from mtl_perception.messages.decode_outputs import LABEL_INFO, OUTPUT_DECODERS, OVERLAY, decode_label_info
from mtl_perception.messages.topics import IMAGE
from mtl_perception.sources.bag.reader import Bag, deserialize, open_bag
from mtl_perception.sources.bag.topics import choose_image_topic
from mtl_perception.types import Outputs

LABELS = "/segmentation/labels"

logger = logging.getLogger(__name__)


def find_node(path: Path, node: str = "") -> str | None:
    """Return the prefix of the node's topics in a bag, such as /mtl_perception; None if there are none.

    Args:
        path: The bag.
        node: Prefix to use if there are several.

    Raises:
        SourceError: The bag cannot be read, lacks topics with the prefix `node`, or has several nodes or cameras.
    """
    topics = open_bag(path).topics
    nodes = [name.removesuffix(LABELS) for name, topic in topics.items() if name.endswith(LABELS) and topic.count]
    if node:
        if node not in nodes:
            raise SourceError(f"bag {path} has no messages on {node}{LABELS}; nodes in it: {', '.join(nodes) or 'none'}")
        return node
    if len(nodes) > 1:
        raise SourceError(f"bag {path} has outputs of several cameras: {', '.join(sorted(nodes))}; select one with --node")
    return nodes[0] if nodes else None


class RecordedOutputs:
    """Iterator over stamp (ns) and what one message contains, in the order of the bag.

    Args:
        path: The bag.
        node: Prefix of the node's topics; see `find_node`.

    Attributes:
        class_set: Classes from label_info; None without it.
        image_has_labels: Whether the images are overlays, because the bag has no input images.
    """

    def __init__(self, path: Path, node: str) -> None:
        self._bag = open_bag(path)
        image = _find_image(path, self._bag, node)
        self.image_has_labels = image is None
        # Cloud and images are logged in the size of the outputs, so the camera comes first.
        self._decoders: dict[str, Callable[[Any], Outputs]] = {
            f"{node}/{name}": decode for name, decode in OUTPUT_DECODERS.items() if image is None or name != OVERLAY
        }
        if image is not None:
            self._decoders[image] = partial(_decode_input, is_raw=self._bag.topics[image].type == IMAGE)
        self.class_set = self._read_classes(f"{node}/{LABEL_INFO}")

    def __len__(self) -> int:
        return sum(topic.count for name, topic in self._bag.topics.items() if name in self._decoders)

    def __iter__(self) -> Iterator[tuple[int, Outputs]]:
        for record in self._bag.messages(self._decoders):
            try:
                message = deserialize(record)
                yield stamp_ns(message.header), self._decoders[record.topic](message)
            except (FrameError, CameraError) as error:
                logger.warning("%s: message skipped: %s", record.topic, error)

    def _read_classes(self, topic: str) -> ClassSet | None:
        record = next(iter(self._bag.messages([topic])), None)
        try:
            return None if record is None else decode_label_info(deserialize(record))
        except FrameError as error:
            logger.warning("%s: class names are unknown: %s", topic, error)
            return None


def _decode_input(message: Any, is_raw: bool) -> Outputs:
    return Outputs(image=decode_image(message) if is_raw else decode_compressed_image(message))


def _find_image(path: Path, bag: Bag, node: str) -> str | None:
    """Return the topic of the node's input images, if the bag has them."""
    try:
        topic = choose_image_topic(path, bag)
    except SourceError:
        return None
    return None if topic.startswith(f"{node}/") else topic
