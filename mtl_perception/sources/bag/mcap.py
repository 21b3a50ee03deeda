"""Reader of .mcap files by the index at their end."""

from __future__ import annotations

import heapq
import struct
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from mtl_perception.sources.bag.scan import (
    MCAP_MAGIC,
    BagMessage,
    Channel,
    DamageError,
    Topic,
    add_mcap_channel,
    count_messages,
    invalid_records_as_damage,
    map_file,
    mcap_messages,
    mcap_records,
    read_string,
)

FOOTER_BYTES = 29
"""A record of 20 bytes: start of the summary, start of its offsets, checksum."""


@dataclass(frozen=True)
class _Chunk:
    start_ns: int
    offset: int
    length: int
    channels: frozenset[int]


class McapFile:
    """An .mcap file with an index; messages come in order of bag time.

    Attributes:
        path: The file.
        topics: Topics by name.

    Raises:
        DamageError: The index is missing or damaged.
        NoIndexError: The file is complete, but was written without an index or with an incomplete one.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._view = map_file(path)
        self._schemas: dict[int, str] = {}
        self._channels: dict[int, Channel] = {}
        self._chunks: list[_Chunk] = []
        self._metadata: dict[str, int] = {}
        counts: Counter[int] = Counter()
        chunk_count = -1
        with invalid_records_as_damage():
            for opcode, content, whole in mcap_records(self._summary()):
                if not whole:
                    raise DamageError("the index is truncated")
                if opcode in (0x03, 0x04):
                    add_mcap_channel(opcode, content, self._schemas, self._channels)
                elif opcode == 0x08:
                    start_ns, _, offset, length = struct.unpack_from("<QQQQ", content)
                    self._chunks.append(_Chunk(start_ns, offset, length, frozenset(_number_map(content, 32))))
                elif opcode == 0x0B:
                    chunk_count = struct.unpack_from("<I", content, 22)[0]
                    counts.update(_number_map(content, 42))
                elif opcode == 0x0D:
                    self._metadata[read_string(content, 16)[0]] = struct.unpack_from("<Q", content)[0]
        if chunk_count != len(self._chunks) or not set(counts) <= set(self._channels) or (counts.total() and not self._chunks):
            raise NoIndexError
        self.topics: dict[str, Topic] = {}
        for number, channel in sorted(self._channels.items()):
            count_messages(self.topics, channel, counts[number])

    def messages(self, topics: Collection[str]) -> Iterator[BagMessage]:
        """Return an iterator over the messages of some topics.

        Raises:
            DamageError: After the last message before the damage.
        """
        wanted = {number for number, channel in self._channels.items() if channel.topic in topics}
        chunks = [chunk for chunk in self._chunks if chunk.channels & wanted or not chunk.channels]
        # Chunks may overlap in time: messages wait until the next chunk begins later.
        waiting: list[tuple[int, int, BagMessage]] = []
        number = 0
        damage: DamageError | None = None
        for chunk in sorted(chunks, key=lambda chunk: chunk.start_ns):
            while waiting and waiting[0][0] < chunk.start_ns:
                yield heapq.heappop(waiting)[2]
            try:
                for message in self._read(chunk):
                    if message.topic in topics:
                        heapq.heappush(waiting, (message.time_ns, number, message))
                        number += 1
            except DamageError as error:
                damage = error
                break
        while waiting:
            yield heapq.heappop(waiting)[2]
        if damage:
            raise damage

    def metadata(self, name: str) -> dict[str, str]:
        """Return the last metadata record of a name; empty without one.

        Raises:
            DamageError: The record is damaged.
        """
        if name not in self._metadata:
            return {}
        values: dict[str, str] = {}
        with invalid_records_as_damage():
            opcode, content, whole = next(mcap_records(self._view[self._metadata[name] :]), (0, self._view[:0], False))
            if opcode != 0x0C or not whole:
                raise DamageError(f"there is no metadata at byte {self._metadata[name]}")
            _, position = read_string(content, 0)
            end = position + 4 + struct.unpack_from("<I", content, position)[0]
            position += 4
            while position < end:
                key, position = read_string(content, position)
                values[key], position = read_string(content, position)
        return values

    def _summary(self) -> memoryview:
        view = self._view
        end = len(view) - len(MCAP_MAGIC) - FOOTER_BYTES
        if end < len(MCAP_MAGIC) or view[-len(MCAP_MAGIC) :] != MCAP_MAGIC:
            raise DamageError("the recording was not finished")
        opcode, length, start = struct.unpack_from("<BQQ", view, end)
        if (opcode, length) != (0x02, FOOTER_BYTES - 9) or start > end:
            raise DamageError("the footer is invalid")
        if start == 0:
            raise NoIndexError
        return view[start:end]

    def _read(self, chunk: _Chunk) -> Iterator[BagMessage]:
        record = self._view[chunk.offset : chunk.offset + chunk.length]
        if len(record) < 9 or len(record) < chunk.length or record[0] != 0x06:
            raise DamageError(f"there is no chunk at byte {chunk.offset}")
        with invalid_records_as_damage():
            yield from mcap_messages(record, dict(self._schemas), dict(self._channels))


class NoIndexError(Exception):
    """A complete file has no index, or one that does not list all messages."""


def _number_map(content: memoryview, position: int) -> dict[int, int]:
    """Parse a map from 2-byte to 8-byte numbers, preceded by its length in bytes."""
    (length,) = struct.unpack_from("<I", content, position)
    entries = content[position + 4 : position + 4 + length]
    return dict(struct.iter_unpack("<HQ", entries))
