"""What Foxglove needs: a layout with this package's topics, and bags that pass the checks of `mcap doctor`.

The checks follow the MCAP specification and the doctor of foxglove/mcap: magic, record order, CRCs of chunks, data and summary,
schemas of channels, message times within their chunks, and counts in the statistics and indexes. A CRC of 0 is none.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.bags import drive, write_bag

from mtl_perception.__main__ import main
from mtl_perception.messages.topics import NODE_NAME, OUTPUT_TOPICS
from mtl_perception.sources.bag.scan import MCAP_MAGIC, decompress

ROOT = Path(__file__).resolve().parents[2]
HEADER, FOOTER, SCHEMA, CHANNEL, MESSAGE, CHUNK, CHUNK_INDEX, STATISTICS, DATA_END = 1, 2, 3, 4, 5, 6, 8, 11, 15
COUNT = 3


def leaves(node: object) -> Iterator[str]:
    """Yield the panels of a layout."""
    if isinstance(node, str):
        yield node
        return
    assert isinstance(node, dict) and node["direction"] in ("row", "column")
    yield from leaves(node["first"])
    yield from leaves(node["second"])


def test_layout_shows_topics_of_the_node():
    layout = json.loads((ROOT / "config/foxglove.json").read_text())
    panels = layout["configById"]
    assert sorted(leaves(layout["layout"])) == sorted(panels)
    images = [config["imageMode"] for name, config in panels.items() if name.startswith("Image!")]
    topics = [mode[key] for mode in images for key in ("imageTopic", "calibrationTopic") if key in mode]
    topics += [topic for name, config in panels.items() if name.startswith("3D!") for topic in config["topics"]]
    own = {f"/{NODE_NAME}/{row.name}": row.type for row in OUTPUT_TOPICS}
    assert set(topics) <= set(own)
    assert {own[mode["imageTopic"]] for mode in images} == {"sensor_msgs/msg/Image"}
    assert {"segmentation/overlay", "depth/image", "points"} <= {topic.removeprefix(f"/{NODE_NAME}/") for topic in topics}


def records(data: bytes, start: int = 0) -> Iterator[tuple[int, int, bytes]]:
    """Yield the offset, the opcode and the content of each record."""
    while start < len(data):
        opcode, length = struct.unpack_from("<BQ", data, start)
        assert start + 9 + length <= len(data), f"record at {start} is truncated"
        yield start, opcode, data[start + 9 : start + 9 + length]
        start += 9 + length


@pytest.fixture(scope="module")
def bag(tmp_path_factory, weights_file) -> bytes:
    folder = tmp_path_factory.mktemp("foxglove")
    source = write_bag(folder / "drive", "mcap", drive("mcap", COUNT, (24, 32)))
    command = ["process", str(source), "--out", str(folder / "out.mcap"), "--weights", str(weights_file), "--device", "cpu"]
    assert main(command) == 0
    return (folder / "out.mcap").read_bytes()


@pytest.fixture(scope="module")
def parsed(bag) -> list[tuple[int, int, bytes]]:
    assert bag.startswith(MCAP_MAGIC) and bag.endswith(MCAP_MAGIC)
    size = len(MCAP_MAGIC)
    return [(offset + size, opcode, content) for offset, opcode, content in records(bag[size:-size])]


def chunks(parsed) -> Iterator[tuple[int, int, int, list[tuple[int, int, bytes]]]]:
    """Yield the offset, the first and last time and the records of each chunk, whose CRC and size are right."""
    for offset, opcode, content in parsed:
        if opcode != CHUNK:
            continue
        start, end, size, crc, length = struct.unpack_from("<QQQII", content)
        compression = content[32 : 32 + length].decode()
        plain = bytes(decompress(compression, memoryview(content)[40 + length :]))
        assert len(plain) == size
        assert crc in (0, zlib.crc32(plain))
        yield offset, start, end, list(records(plain))


def test_bag_has_the_order_of_a_complete_file(parsed):
    opcodes = [opcode for _, opcode, _ in parsed]
    assert opcodes[0] == HEADER and opcodes[-1] == FOOTER
    assert opcodes.count(DATA_END) == opcodes.count(STATISTICS) == 1
    # Everything before the end of the data, except messages outside of chunks, which have no index.
    assert MESSAGE not in opcodes
    assert max(i for i, opcode in enumerate(opcodes) if opcode == CHUNK) < opcodes.index(DATA_END)


def test_messages_are_in_order_and_within_the_times_of_their_chunk(parsed):
    last = 0
    for _, start, end, content in chunks(parsed):
        times = [struct.unpack_from("<HIQ", record)[2] for _, opcode, record in content if opcode == MESSAGE]
        assert times == sorted(times) and times[0] >= last
        assert (times[0], times[-1]) == (start, end)
        last = times[-1]
    assert last > 0


def test_every_channel_has_a_schema_before_its_messages(parsed):
    schemas, channels = set(), {}
    for _, _, _, content in chunks(parsed):
        for _, opcode, record in content:
            if opcode == SCHEMA:
                number, length = struct.unpack_from("<HI", record)
                schemas.add(number)
                encoding_at = 6 + length
                (size,) = struct.unpack_from("<I", record, encoding_at)
                assert record[encoding_at + 4 : encoding_at + 4 + size] == b"ros2msg"
                assert struct.unpack_from("<I", record, encoding_at + 4 + size)[0] > 0, "the definition is empty"
            elif opcode == CHANNEL:
                number, schema, length = struct.unpack_from("<HHI", record)
                assert schema in schemas
                channels[number] = record[8 : 8 + length].decode()
            elif opcode == MESSAGE:
                assert struct.unpack_from("<H", record)[0] in channels
    assert set(channels.values()) == {f"/{NODE_NAME}/{row.name}" for row in OUTPUT_TOPICS if not row.redundant}


def test_index_and_statistics_describe_the_content(parsed):
    found = {offset: (start, end) for offset, start, end, _ in chunks(parsed)}
    indexed = {}
    for _, opcode, content in parsed:
        if opcode == CHUNK_INDEX:
            start, end, offset, _ = struct.unpack_from("<QQQQ", content)
            indexed[offset] = (start, end)
    assert indexed == found
    counts: Counter[int] = Counter()
    for _, _, _, content in chunks(parsed):
        counts.update(struct.unpack_from("<H", record)[0] for _, opcode, record in content if opcode == MESSAGE)
    (statistics,) = (content for _, opcode, content in parsed if opcode == STATISTICS)
    messages, _, channel_count = struct.unpack_from("<QHI", statistics)
    assert (messages, channel_count) == (counts.total(), len(counts))
    assert struct.unpack_from("<I", statistics, 22)[0] == len(found)
    assert set(counts.values()) == {1, COUNT}  # Class names once, everything else for each frame.


def test_crcs_of_data_and_summary_are_right_where_they_are_given(bag, parsed):
    data_end, (data_crc,) = next((at, struct.unpack("<I", content)) for at, opcode, content in parsed if opcode == DATA_END)
    assert data_crc in (0, zlib.crc32(bag[:data_end]))
    at, _, footer = parsed[-1]
    summary, _, summary_crc = struct.unpack("<QQI", footer)
    assert data_end < summary < at
    # The CRC covers the footer up to itself.
    assert summary_crc in (0, zlib.crc32(bag[summary : at + 9 + 16]))
