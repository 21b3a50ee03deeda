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
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from mtl_perception.errors import one_line, truncated_repr

MCAP_MAGIC = b"\x89MCAP0\r\n"
ROS1_MAGIC = b"#ROSBAG V2.0\n"
MAX_CHUNK_BYTES = 2**28
"""Limit of a decompressed chunk; recorders write chunks of 1 MB or one message, and the largest accepted image has 100 MB."""


class BagMessage(NamedTuple):
    """A serialized message of a bag.

    Attributes:
        topic: Topic name.
        type: Message type as named in ROS 2 (`package/msg/Name`).
        time_ns: Bag time, nanoseconds.
        data: The message in CDR, or in ROS 1 serialization.
    """

    topic: str
    type: str
    time_ns: int
    data: bytes


class DamageError(Exception):
    """The recording cannot be read further; the text says why."""


@dataclass(frozen=True)
class _Topic:
    name: str
    type: str


def can_scan(path: Path) -> bool:
    """Return whether the file starts with the signature of a format that `scan` reads."""
    try:
        with path.open("rb") as file:
            head = file.read(len(ROS1_MAGIC))
    except OSError:
        return False
    return head == ROS1_MAGIC or head.startswith(MCAP_MAGIC)


def scan(path: Path) -> Iterator[BagMessage]:
    """Return an iterator over the messages of a file that `can_scan` accepts, in the order in which they were written.

    The encoding is appended to the type of a message that is not in CDR (in a .bag: in ROS 1 serialization).

    Raises:
        DamageError: After the last message before the damage.
        OSError: The file cannot be read.
    """
    with path.open("rb") as file:
        # The map is closed with its last view; messages may outlive this function.
        view = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    is_mcap = view[: len(MCAP_MAGIC)] == MCAP_MAGIC
    finished = False
    try:
        if is_mcap:
            finished = yield from _mcap_messages(view[len(MCAP_MAGIC) :], {}, {})
        else:
            yield from _ros1_messages(view[len(ROS1_MAGIC) :], {})
    except (struct.error, KeyError, UnicodeDecodeError) as error:
        raise DamageError(f"invalid record ({type(error).__name__}: {one_line(error)})") from error
    if not finished:
        raise DamageError("the recording was not finished")


def _decompress(name: str, data: memoryview) -> memoryview:
    """Decompress as much as possible of a chunk that may be truncated."""
    decompressor: Any
    if name in ("", "none"):
        return data
    if name == "bz2":
        decompressor = bz2.BZ2Decompressor()
    elif name == "lz4":
        decompressor = importlib.import_module("lz4.frame").LZ4FrameDecompressor()
    elif name == "zstd":
        module = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
        decompressor = importlib.import_module(module).ZstdDecompressor()
    else:
        raise DamageError(f"unknown compression {truncated_repr(name)} of a chunk")
    try:
        decompressed = decompressor.decompress(bytes(data), max_length=MAX_CHUNK_BYTES)
    except Exception as error:
        # Each library has its own error class.
        raise DamageError(f"a chunk cannot be decompressed: {one_line(error)}") from error
    if len(decompressed) == MAX_CHUNK_BYTES:
        raise DamageError(f"a chunk of {len(data)} bytes decompresses to {MAX_CHUNK_BYTES >> 20} MiB or more")
    return memoryview(decompressed)


def _mcap_messages(
    buffer: memoryview, schemas: dict[int, str], topics: dict[int, _Topic], in_chunk: bool = False
) -> Generator[BagMessage, None, bool]:
    """Parse records of https://mcap.dev/spec: opcode (1 byte), length (8 bytes), content; little endian.

    Returns:
        Whether the record that ends the messages was found.
    """
    position = 0
    while position < len(buffer):
        if position + 9 > len(buffer):
            raise DamageError("the file ends within a record")
        opcode, length = struct.unpack_from("<BQ", buffer, position)
        content = buffer[position + 9 : position + 9 + length]
        whole = len(content) == length
        position += 9 + length
        if opcode == 0x06 and in_chunk:
            raise DamageError("chunk inside a chunk")
        if opcode == 0x06 and len(content) >= 32:
            (name_length,) = struct.unpack_from("<I", content, 28)
            compression = str(content[32 : 32 + name_length], "utf-8")
            yield from _mcap_messages(_decompress(compression, content[32 + name_length + 8 :]), schemas, topics, True)
        if not whole:
            raise DamageError("the file ends within a record")
        if opcode == 0x03:
            (number,) = struct.unpack_from("<H", content)
            schemas[number] = _string(content, 2)[0]
        elif opcode == 0x04:
            number, schema = struct.unpack_from("<HH", content)
            name, end = _string(content, 4)
            encoding, _ = _string(content, end)
            topics[number] = _Topic(name, schemas.get(schema, "") + (f" ({encoding})" if encoding != "cdr" else ""))
        elif opcode == 0x05:
            number, _, time_ns = struct.unpack_from("<HIQ", content)
            yield BagMessage(topics[number].name, topics[number].type, time_ns, bytes(content[22:]))
        elif opcode in (0x0F, 0x02):
            return True
    return False


def _string(buffer: memoryview, position: int) -> tuple[str, int]:
    (length,) = struct.unpack_from("<I", buffer, position)
    end = position + 4 + length
    return str(buffer[position + 4 : end], "utf-8"), end


def _ros1_messages(buffer: memoryview, topics: dict[int, _Topic], in_chunk: bool = False) -> Iterator[BagMessage]:
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
            yield from _ros1_messages(_decompress(header["compression"].decode(), data), topics, True)
        if len(data) < length:
            raise DamageError("the file ends within a record")
        if opcode == 0x07:
            (number,) = struct.unpack("<I", header["conn"])
            topics[number] = _Topic(_ros1_topic(header["topic"].decode()), _ros2_type(_ros1_fields(data)["type"].decode()))
        elif opcode == 0x02:
            (number,) = struct.unpack("<I", header["conn"])
            seconds, nanoseconds = struct.unpack("<II", header["time"])
            topic = topics[number]
            yield BagMessage(topic.name, topic.type, seconds * 1_000_000_000 + nanoseconds, bytes(data))


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
