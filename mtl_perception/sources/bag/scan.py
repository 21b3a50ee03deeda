"""Readers of .mcap and ROS 1 .bag files that need no index.

The index is at the end of the file, so a recording that was truncated by a full disk or a crash has none.
"""

from __future__ import annotations

import bz2
import importlib
import mmap
import struct
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from mtl_perception.errors import one_line, truncated_repr

MCAP_MAGIC = b"\x89MCAP0\r\n"
ROS1_MAGIC = b"#ROSBAG V2.0\n"
CDR, ROS1 = "cdr", "ros1"
"""Encodings of messages."""
MAX_CHUNK_BYTES = 2**28
"""Limit of a decompressed chunk; recorders write chunks of 1 MB or one message, and the largest accepted image has 100 MB."""


class BagMessage(NamedTuple):
    """A serialized message of a bag.

    Attributes:
        topic: Topic name.
        type: Message type as named in ROS 2 (`package/msg/Name`).
        time_ns: Bag time, nanoseconds.
        data: The serialized message.
        encoding: CDR or ROS1; the type of a message in another encoding has the encoding appended.
    """

    topic: str
    type: str
    time_ns: int
    data: bytes
    encoding: str = CDR


class DamageError(Exception):
    """The recording cannot be read further; the text says why."""


@dataclass(frozen=True)
class Channel:
    """Topic, type and encoding of messages; see BagMessage."""

    topic: str
    type: str
    encoding: str = CDR


@dataclass
class Topic:
    """A topic of a bag.

    Attributes:
        type: Message type; the first one if the topic has several.
        count: Number of messages of that type.
    """

    type: str
    count: int


def count_messages(topics: dict[str, Topic], channel: Channel, count: int) -> None:
    """Add a channel's topic to `topics`, and the number of its messages if they are of the topic's type."""
    topic = topics.setdefault(channel.topic, Topic(channel.type, 0))
    if channel.type == topic.type:
        topic.count += count


def scan(path: Path) -> Iterator[BagMessage]:
    """Return an iterator over the messages of a file that starts with a magic of these formats, as they were written.

    Raises:
        DamageError: After the last message before the damage.
        OSError: The file cannot be read.
    """
    view = map_file(path)
    finished = False
    with invalid_records_as_damage():
        if view[: len(MCAP_MAGIC)] == MCAP_MAGIC:
            finished = yield from mcap_messages(view[len(MCAP_MAGIC) :], {}, {})
        else:
            yield from _ros1_messages(view[len(ROS1_MAGIC) :], {})
    if not finished:
        raise DamageError("the recording was not finished")


def map_file(path: Path) -> memoryview:
    """Return the content of a file, which is loaded as it is read.

    Raises:
        OSError: The file cannot be read.
    """
    with path.open("rb") as file:
        # The map is closed with its last view; messages may outlive this function.
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


@contextmanager
def invalid_records_as_damage() -> Iterator[None]:
    """Raise DamageError for records that cannot be parsed."""
    try:
        yield
    except (struct.error, KeyError, UnicodeDecodeError) as error:
        raise DamageError(f"invalid record ({type(error).__name__}: {one_line(error)})") from error


def decompress(name: str, data: memoryview) -> memoryview:
    """Decompress as much as possible of data that may be truncated.

    Args:
        name: "", "none", "bz2", "lz4" or "zstd".
        data: A chunk or a message.

    Raises:
        DamageError: The compression is unknown, the data are damaged, or decompress to MAX_CHUNK_BYTES or more.
    """
    decompressor: Any
    if name in ("", "none"):
        return data
    if name == "bz2":
        decompressor = bz2.BZ2Decompressor()
    elif name == "lz4":
        decompressor = importlib.import_module("lz4.frame").LZ4FrameDecompressor()
    elif name == "zstd":
        decompressor = import_zstd().ZstdDecompressor()
    else:
        raise DamageError(f"unknown compression {truncated_repr(name)}")
    try:
        decompressed = decompressor.decompress(bytes(data), max_length=MAX_CHUNK_BYTES)
    except Exception as error:
        # Each library has its own error class.
        raise DamageError(f"{name} data cannot be decompressed: {one_line(error)}") from error
    if len(decompressed) == MAX_CHUNK_BYTES:
        raise DamageError(f"{len(data)} bytes decompress to {MAX_CHUNK_BYTES >> 20} MiB or more")
    return memoryview(decompressed)


def import_zstd() -> Any:
    """Return the module for zstd, which comes with Python 3.14 or with rosbags."""
    return importlib.import_module("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")


def mcap_messages(
    buffer: memoryview, schemas: dict[int, str], channels: dict[int, Channel], in_chunk: bool = False
) -> Generator[BagMessage, None, bool]:
    """Return an iterator over the messages among MCAP records; `schemas` and `channels` are extended by those found.

    Returns:
        Whether the record that ends the messages was found.
    """
    for opcode, content, whole in mcap_records(buffer):
        if opcode == 0x06 and in_chunk:
            raise DamageError("chunk inside a chunk")
        if opcode == 0x06 and len(content) >= 32:
            (name_length,) = struct.unpack_from("<I", content, 28)
            compression = str(content[32 : 32 + name_length], "utf-8")
            yield from mcap_messages(decompress(compression, content[32 + name_length + 8 :]), schemas, channels, True)
        if not whole:
            raise DamageError("the file ends within a record")
        if opcode in (0x03, 0x04):
            add_mcap_channel(opcode, content, schemas, channels)
        elif opcode == 0x05:
            number, _, time_ns = struct.unpack_from("<HIQ", content)
            channel = channels[number]
            yield BagMessage(channel.topic, channel.type, time_ns, bytes(content[22:]), channel.encoding)
        elif opcode in (0x0F, 0x02):
            return True
    return False


def mcap_records(buffer: memoryview) -> Iterator[tuple[int, memoryview, bool]]:
    """Return an iterator over MCAP records (https://mcap.dev/spec): opcode, content, and whether the content is complete.

    A record is opcode (1 byte), length (8 bytes), content; little endian.
    """
    position = 0
    while position < len(buffer):
        if position + 9 > len(buffer):
            raise DamageError("the file ends within a record")
        opcode, length = struct.unpack_from("<BQ", buffer, position)
        content = buffer[position + 9 : position + 9 + length]
        yield opcode, content, len(content) == length
        position += 9 + length


def add_mcap_channel(opcode: int, content: memoryview, schemas: dict[int, str], channels: dict[int, Channel]) -> None:
    """Add the schema (opcode 3) or channel (opcode 4) of a record."""
    if opcode == 0x03:
        (number,) = struct.unpack_from("<H", content)
        schemas[number] = read_string(content, 2)[0]
        return
    number, schema = struct.unpack_from("<HH", content)
    topic, end = read_string(content, 4)
    encoding, _ = read_string(content, end)
    channels[number] = channel_of(topic, schemas.get(schema, ""), encoding)


def channel_of(topic: str, type_name: str, encoding: str) -> Channel:
    """Return a channel, with the ROS 2 name of the type and with the encoding appended to it if it is neither CDR nor ROS1."""
    if encoding == ROS1:
        return Channel(topic, _ros2_type(type_name), ROS1)
    return Channel(topic, type_name if encoding == CDR else f"{type_name} ({encoding})")


def read_string(buffer: memoryview, position: int) -> tuple[str, int]:
    """Return the MCAP string at a position, and the position after it."""
    (length,) = struct.unpack_from("<I", buffer, position)
    end = position + 4 + length
    return str(buffer[position + 4 : end], "utf-8"), end


def _ros1_messages(buffer: memoryview, channels: dict[int, Channel], in_chunk: bool = False) -> Iterator[BagMessage]:
    """Parse records of http://wiki.ros.org/Bags/Format/2.0: header length (4 bytes), header, data length (4 bytes), data."""
    position = 0
    while position < len(buffer):
        if position + 4 > len(buffer):
            raise DamageError("the file ends within a record")
        (header_length,) = struct.unpack_from("<I", buffer, position)
        position += 4 + header_length
        if position + 4 > len(buffer):
            raise DamageError("the file ends within a record")
        header = _ros1_fields(buffer[position - header_length : position])
        (length,) = struct.unpack_from("<I", buffer, position)
        data = buffer[position + 4 : position + 4 + length]
        position += 4 + length
        opcode = header["op"][0] if header.get("op") else 0
        if opcode == 0x05:
            if in_chunk:
                raise DamageError("chunk inside a chunk")
            yield from _ros1_messages(decompress(header["compression"].decode(), data), channels, True)
        if len(data) < length:
            raise DamageError("the file ends within a record")
        if opcode == 0x07:
            (number,) = struct.unpack("<I", header["conn"])
            channels[number] = channel_of(_ros1_topic(header["topic"].decode()), _ros1_fields(data)["type"].decode(), ROS1)
        elif opcode == 0x02:
            (number,) = struct.unpack("<I", header["conn"])
            seconds, nanoseconds = struct.unpack("<II", header["time"])
            channel = channels[number]
            yield BagMessage(channel.topic, channel.type, seconds * 1_000_000_000 + nanoseconds, bytes(data), ROS1)


def _ros1_fields(buffer: memoryview) -> dict[str, bytes]:
    fields = {}
    position = 0
    while position < len(buffer):
        (length,) = struct.unpack_from("<I", buffer, position)
        name, _, value = bytes(buffer[position + 4 : position + 4 + length]).partition(b"=")
        fields[name.decode()] = value
        position += 4 + length
    return fields


def _ros1_topic(name: str) -> str:
    """Return the name without duplicate or trailing slashes, as rosbags does."""
    return ("/" if name.startswith("/") else "") + "/".join(part for part in name.split("/") if part)


def _ros2_type(name: str) -> str:
    package, _, rest = name.partition("/")
    return name if "/" in rest else f"{package}/msg/{rest}"
