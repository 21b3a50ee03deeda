"""Bags of all three kinds as one: topics, and serialized messages in the order of time."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from rosbags.rosbag1 import Reader as Ros1Reader
from rosbags.rosbag2 import Reader as Ros2Reader
from rosbags.typesys import Stores, get_typestore

from mtl_perception.errors import FrameError, SourceError, one_line
from mtl_perception.sources.bag.scan import BagMessage, DamageError, can_scan, scan
from mtl_perception.sources.base import natural_key

logger = logging.getLogger(__name__)

# The messages that are read here are the same in every ROS 1, and in every ROS 2: bags' own definitions are not needed,
# which old db3 bags lack, and of which one that cannot be parsed would keep the whole bag from being read.
_ros1 = get_typestore(Stores.ROS1_NOETIC)
_ros2 = get_typestore(Stores.ROS2_JAZZY)


@dataclass
class Topic:
    """A topic of a bag: type named as in ROS 2, and count of messages; should it have several types, the first one's."""

    type: str
    count: int


class Bag(Protocol):
    """A bag that has been opened once and found readable.

    Attributes:
        topics: By name.
        is_ros1: Messages are serialized as ROS 1 does, not CDR.
    """

    topics: dict[str, Topic]
    is_ros1: bool

    def records(self, topics: Collection[str]) -> Iterator[BagMessage]:
        """The messages of some topics, by bag time; each call starts anew.

        Raises:
            SourceError: After the last message before damage.
        """


def open_bag(path: Path) -> Bag:
    """The bag at `path`: a ROS 1 .bag, a ROS 2 folder, or its bare .mcap or .db3.

    A .bag or .mcap that breaks off is read as far as it goes, with a warning.

    Raises:
        SourceError: Not a bag, or nothing in it can be read.
    """
    if path.is_file() and path.stat().st_size == 0:
        raise SourceError(f"bag {path} is empty (0 bytes)")
    if path.is_dir() and not (path / "metadata.yaml").is_file():
        raise SourceError(f"folder {path} is not a ROS 2 bag: metadata.yaml is missing; give a file in it, or reindex it")
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
                logger.warning("%s; reading it from the front, without its index", error)
                return bag
        raise


def deserialize(record: BagMessage, is_ros1: bool) -> Any:
    """The message as an object with its fields as attributes.

    Raises:
        FrameError: The bytes are not such a message (reason "message").
    """
    try:
        if is_ros1:
            return _ros1.deserialize_ros1(record.data, record.type)
        return _ros2.deserialize_cdr(record.data, record.type)
    except Exception as error:
        # Damaged bytes make the generated code fail in any way.
        cause = f"{type(error).__name__}: {one_line(error)}"
        raise FrameError(f"message on {one_line(record.topic)} is not a {record.type} ({cause})", "message") from error


class _IndexedBag:
    """Through rosbags, which reads the index at the end of the file."""

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

    def _reader(self) -> Ros1Reader | Ros2Reader:
        return Ros1Reader(self.path) if self.is_ros1 else Ros2Reader(self.path)

    def _wrap(self, error: Exception) -> SourceError:
        """A file that is no bag, or a damaged one, makes rosbags fail in any way."""
        return SourceError(f"bag {self.path} cannot be read: {one_line(error).rstrip('.')}")

    def records(self, topics: Collection[str]) -> Iterator[BagMessage]:
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
                    raise SourceError(f"{self._wrap(error)}; what comes before the damage was read") from error
                yield BagMessage(connection.topic, connection.msgtype, time_ns, data)
        finally:
            reader.close()


class _ScannedBag:
    """A bag whose index is missing, read from front to back; where it is damaged, every reading ends in SourceError."""

    def __init__(self, path: Path, files: list[Path]) -> None:
        self.path = path
        self.files = files
        self.is_ros1 = path.suffix == ".bag"
        self.topics: dict[str, Topic] = {}
        with suppress(SourceError):
            for record in self._all():
                topic = self.topics.setdefault(record.topic, Topic(record.type, 0))
                topic.count += record.type == topic.type

    def _all(self) -> Iterator[BagMessage]:
        damage = ""
        for file in self.files:
            try:
                yield from scan(file)
            except DamageError as error:
                damage = damage or f"bag {file} is damaged: {error}; what comes before the damage was read"
        if damage:
            raise SourceError(damage)

    def records(self, topics: Collection[str]) -> Iterator[BagMessage]:
        for record in self._all():
            if record.topic in topics and record.type == self.topics[record.topic].type:
                yield record
