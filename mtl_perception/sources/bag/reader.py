"""Topics and serialized messages of ROS 1 and ROS 2 bags, without ROS."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from mtl_perception.errors import FrameError, SourceError, one_line, require
from mtl_perception.sources.bag.scan import BagMessage, DamageError, can_scan, scan
from mtl_perception.sources.base import natural_key

logger = logging.getLogger(__name__)


@dataclass
class Topic:
    """A topic of a bag.

    Attributes:
        type: Message type as named in ROS 2; the first one if the topic has several.
        count: Number of messages of that type.
    """

    type: str
    count: int


class Bag(Protocol):
    """A readable bag.

    Attributes:
        topics: Topics by name.
        is_ros1: Messages are in ROS 1 serialization instead of CDR.
    """

    topics: dict[str, Topic]
    is_ros1: bool

    def messages(self, topics: Collection[str]) -> Iterator[BagMessage]:
        """Return an iterator over the messages of some topics in order of bag time; each call starts at the beginning.

        Raises:
            SourceError: After the last message before the damage.
        """


def open_bag(path: Path) -> Bag:
    """Open a ROS 1 .bag, a ROS 2 bag folder, or a bare .mcap or .db3.

    A truncated .bag or .mcap is read up to the damage, with a warning.

    Raises:
        SourceError: The path is not a bag, or nothing in it can be read.
        DependencyError: rosbags is not installed.
    """
    require("rosbags", extra="bags", purpose=f"reading bag {path}")
    if path.is_file() and path.stat().st_size == 0:
        raise SourceError(f"bag {path} is empty (0 bytes)")
    if path.is_dir() and not (path / "metadata.yaml").is_file():
        raise SourceError(
            f"folder {path} is not a ROS 2 bag: metadata.yaml is missing; give a file in it, or run ros2 bag reindex"
        )
    try:
        return _IndexedBag(path)
    except SourceError as error:
        files = [path] if path.is_file() else sorted(path.glob("*.mcap"), key=natural_key)
        files = [file for file in files if can_scan(file)]
        if not files:
            raise
        with suppress(OSError):
            bag = _ScannedBag(path, files)
            if bag.topics:
                logger.warning("%s; reading it without its index", error)
                return bag
        raise


def deserialize(message: BagMessage, is_ros1: bool) -> Any:
    """Return the message as an object with its fields as attributes.

    Raises:
        FrameError: The bytes are not such a message (reason "message").
    """
    try:
        if is_ros1:
            return _typestore(is_ros1=True).deserialize_ros1(message.data, message.type)
        return _typestore(is_ros1=False).deserialize_cdr(message.data, message.type)
    except Exception as error:
        # The generated code fails in many ways on damaged bytes.
        cause = f"{type(error).__name__}: {one_line(error)}"
        raise FrameError(
            f"cannot deserialize a message on {one_line(message.topic)} as {message.type}: {cause}", "message"
        ) from error


@cache
def _typestore(is_ros1: bool) -> Any:
    """Return the message definitions of Noetic or Jazzy.

    The message types read here are the same in all ROS 1 and in all ROS 2 distributions. A bag's own definitions are ignored:
    old db3 bags lack them, and one that cannot be parsed would make the whole bag unreadable.
    """
    from rosbags.typesys import Stores, get_typestore

    return get_typestore(Stores.ROS1_NOETIC if is_ros1 else Stores.ROS2_JAZZY)


class _IndexedBag:
    """A bag read by rosbags, which uses the index at the end of the file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.is_ros1 = path.suffix == ".bag"
        self.topics: dict[str, Topic] = {}
        try:
            with self._reader() as reader:
                for connection in reader.connections:
                    topic = self.topics.setdefault(connection.topic, Topic(connection.msgtype, 0))
                    if connection.msgtype == topic.type:
                        topic.count += connection.msgcount
        except Exception as error:
            raise self._wrap(error) from error

    def _reader(self) -> Any:
        from rosbags import rosbag1, rosbag2

        return rosbag1.Reader(self.path) if self.is_ros1 else rosbag2.Reader(self.path)

    def _wrap(self, error: Exception) -> SourceError:
        """Return the error for whatever rosbags raises on a damaged file."""
        return SourceError(f"bag {self.path} cannot be read: {one_line(error).rstrip('.')}")

    def messages(self, topics: Collection[str]) -> Iterator[BagMessage]:
        reader = self._reader()
        try:
            reader.open()
        except Exception as error:
            raise self._wrap(error) from error
        try:
            wanted = {(topic, self.topics[topic].type) for topic in topics if topic in self.topics}
            connections = [connection for connection in reader.connections if (connection.topic, connection.msgtype) in wanted]
            messages = iter(reader.messages(connections)) if connections else iter(())
            while True:
                try:
                    connection, time_ns, data = next(messages)
                except StopIteration:
                    return
                except Exception as error:
                    raise SourceError(f"{self._wrap(error)}; the messages before the damage were read") from error
                yield BagMessage(connection.topic, connection.msgtype, time_ns, data)
        finally:
            reader.close()


class _ScannedBag:
    """A bag without a usable index, read from front to back; each read ends in SourceError where it is damaged."""

    def __init__(self, path: Path, files: list[Path]) -> None:
        self.path = path
        self.files = files
        self.is_ros1 = path.suffix == ".bag"
        self.topics: dict[str, Topic] = {}
        with suppress(SourceError):
            for message in self._all():
                topic = self.topics.setdefault(message.topic, Topic(message.type, 0))
                topic.count += message.type == topic.type

    def _all(self) -> Iterator[BagMessage]:
        damage = ""
        for file in self.files:
            try:
                yield from scan(file)
            except DamageError as error:
                damage = damage or f"bag {file} is damaged: {error}; the messages before the damage were read"
        if damage:
            raise SourceError(damage)

    def messages(self, topics: Collection[str]) -> Iterator[BagMessage]:
        for message in self._all():
            if message.topic in topics and message.type == self.topics[message.topic].type:
                yield message
