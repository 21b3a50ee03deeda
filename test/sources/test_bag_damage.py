"""Truncated, damaged and malicious bags."""

from __future__ import annotations

import bz2
import contextlib
import importlib
import re
import shutil
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
from support.bags import (
    KINDS,
    assert_drive,
    bag_image,
    drive,
    read_until_error,
    write_bag,
)

from mtl_perception.errors import SourceError
from mtl_perception.sources.bag import scan as bag_scan
from mtl_perception.sources.bag.scan import MCAP_MAGIC, ROS1_MAGIC, DamageError, scan
from mtl_perception.sources.bag.source import BagSource
from mtl_perception.sources.open import open_source


class TestDamage:
    def cut(self, path: Path, kind: str, share: float, compression: str = "") -> Path:
        bag = write_bag(path, kind, drive(kind, 8, (300, 400)), compression)
        file = bag if bag.is_file() else next(bag.glob("*.mcap"))
        file.write_bytes(file.read_bytes()[: int(file.stat().st_size * share)])
        return file

    @pytest.mark.parametrize(("kind", "compression"), [("ros1", "bz2"), ("ros1", "lz4"), ("mcap", "zstd")])
    def test_truncated_compressed_chunk_is_read_partly(self, tmp_path, kind, compression):
        frames = []
        with pytest.raises(SourceError, match="is damaged"):
            read_until_error(BagSource(self.cut(tmp_path / "bag", kind, 0.6, compression)), frames)
        assert len(frames) >= 3, "at least the complete chunk before the damage"
        assert_drive(frames, len(frames), (300, 400))

    @pytest.mark.parametrize("kind", ["ros1", "mcap"])
    @pytest.mark.parametrize("share", [0.001, 0.02])
    def test_bag_truncated_before_the_first_image_is_refused(self, tmp_path, kind, share):
        with pytest.raises(SourceError, match=r"bag .* (cannot be read|has no images)"):
            BagSource(self.cut(tmp_path / "bag", kind, share))

    @pytest.mark.parametrize("kind", ["ros1", "mcap"])
    def test_bag_without_index_is_read_completely(self, tmp_path, kind):
        """An mcap has a record that ends its messages; a ROS 1 bag does not, so something may be missing."""
        source = BagSource(self.cut(tmp_path / "bag", kind, 0.9999))
        frames = []
        if kind == "ros1":
            with pytest.raises(SourceError, match="is damaged"):
                read_until_error(source, frames)
        else:
            read_until_error(source, frames)
        assert_drive(frames, 8, (300, 400))

    def test_bag_with_a_damaged_chunk_is_read_up_to_it(self, tmp_path):
        """The index is intact."""
        bag = write_bag(tmp_path / "bag", "mcap", drive("mcap", 8, (300, 400)))
        file = next(bag.glob("*.mcap"))
        content = bytearray(file.read_bytes())
        start = content.index(bag_image(5, 300, 400).tobytes()[:64]) - 60
        content[start - 200 : start] = b"\xff" * 200
        file.write_bytes(content)
        source = BagSource(bag)
        frames = []
        with pytest.raises(SourceError, match=r"bag .* is damaged: .*; the messages before the damage were read"):
            read_until_error(source, frames)
        assert 3 <= len(frames) < 8
        assert_drive(frames, len(frames), (300, 400))

    @pytest.mark.parametrize(
        ("text", "fault"),
        [
            ("", "does not list the files"),
            ("[1, 2", "is invalid (ParserError: "),
            ("rosbag2_bagfile_information: {version: 5}", "does not list the files"),
            ("rosbag2_bagfile_information: {relative_file_paths: []}", "lists no files"),
            ("rosbag2_bagfile_information: {relative_file_paths: [gone.db3]}", "lists gone.db3, which is missing"),
        ],
    )
    def test_metadata_that_does_not_match_is_ignored(self, tmp_path, caplog, text, fault):
        """The power failed while it was written, or a file was renamed."""
        bag = write_bag(tmp_path / "bag", "db3", drive("db3"))
        (bag / "metadata.yaml").write_text(text)
        assert_drive(list(open_source(bag)))
        assert f"bag: metadata.yaml {fault}" in caplog.text
        assert caplog.text.rstrip().endswith("; reading bag.db3")
        (bag / "bag.db3").unlink()
        with pytest.raises(SourceError, match=re.escape(f"there is no bag in the folder, and metadata.yaml {fault}")):
            open_source(bag)

    def test_random_damage_raises_source_error_only(self, tmp_path):
        rng = np.random.default_rng(0)
        for kind in KINDS:
            bag = write_bag(tmp_path / f"whole_{kind}", kind, drive(kind, 3))
            file = bag if bag.is_file() else next(bag.glob(f"*.{kind}"))
            whole = np.frombuffer(file.read_bytes(), np.uint8)
            target = tmp_path / f"damaged{file.suffix}"
            for _ in range(60):
                damaged = whole.copy()
                places = rng.integers(0, len(whole), rng.integers(1, 40))
                damaged[places] = rng.integers(0, 256, len(places), np.uint8)
                target.write_bytes(damaged[: rng.integers(len(whole) // 2, len(whole) + 1)].tobytes())
                frames = []
                with contextlib.suppress(SourceError):
                    read_until_error(BagSource(target), frames)
                assert len(frames) <= 3


def mcap_chunk(content: bytes, compression: bytes = b"") -> bytes:
    body = bytes(28) + struct.pack("<I", len(compression)) + compression + struct.pack("<Q", len(content)) + content
    return b"\x06" + struct.pack("<Q", len(body)) + body


def ros1_chunk(content: bytes, compression: bytes = b"none") -> bytes:
    fields = b"".join(struct.pack("<I", len(field)) + field for field in (b"op=\x05", b"compression=" + compression))
    return struct.pack("<I", len(fields)) + fields + struct.pack("<I", len(content)) + content


MAKERS = {".mcap": (MCAP_MAGIC, mcap_chunk), ".bag": (ROS1_MAGIC, ros1_chunk)}


@pytest.mark.parametrize("suffix", MAKERS)
def test_nested_chunks_are_refused(tmp_path, suffix):
    magic, chunk = MAKERS[suffix]
    content = b""
    for _ in range(3000):
        content = chunk(content)
    (tmp_path / f"a{suffix}").write_bytes(magic + content)
    with pytest.raises(DamageError, match="chunk inside a chunk"):
        list(scan(tmp_path / f"a{suffix}"))
    with pytest.raises(SourceError, match=f"a{suffix}"):
        open_source(tmp_path / f"a{suffix}")


@pytest.mark.parametrize(("suffix", "compression"), [(".mcap", "zstd"), (".bag", "bz2"), (".bag", "lz4")])
def test_chunk_that_decompresses_to_gigabytes_is_refused(tmp_path, monkeypatch, suffix, compression):
    monkeypatch.setattr(bag_scan, "MAX_CHUNK_BYTES", 2**20)
    magic, chunk = MAKERS[suffix]
    packed = pack(bytes(2**22), compression)
    assert len(packed) < 2**16
    (tmp_path / f"a{suffix}").write_bytes(magic + chunk(packed, compression.encode()))
    with pytest.raises(DamageError, match=f"{len(packed)} bytes decompress to 1 MiB or more"):
        list(scan(tmp_path / f"a{suffix}"))


def pack(data: bytes, compression: str) -> bytes:
    if compression == "bz2":
        return bz2.compress(data)
    if compression == "lz4":
        return importlib.import_module("lz4.frame").compress(data)
    return importlib.import_module("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd").compress(data)


@pytest.fixture
def split_bag(tmp_path):
    """A bag of two files with the halves of a drive."""
    whole = list(drive("mcap", 8, (300, 400)))
    bag = write_bag(tmp_path / "bag", "mcap", whole[:8])
    second = write_bag(tmp_path / "more", "mcap", whole[8:])
    shutil.move(bag / "bag.mcap", bag / "bag_0.mcap")
    shutil.move(second / "more.mcap", bag / "bag_1.mcap")
    metadata = (bag / "metadata.yaml").read_text().replace("- bag.mcap", "- bag_0.mcap\n  - bag_1.mcap")
    (bag / "metadata.yaml").write_text(metadata)
    return bag


def test_split_bag_is_read_past_a_damaged_file(split_bag):
    """The last of several files is truncated."""
    content = (split_bag / "bag_1.mcap").read_bytes()
    (split_bag / "bag_1.mcap").write_bytes(content[: int(len(content) * 0.6)])
    frames = []
    with pytest.raises(SourceError, match=r"bag_1\.mcap is damaged"):
        read_until_error(open_source(split_bag), frames)
    assert_drive(frames, 6, (300, 400))


def test_split_bag_is_read_without_a_missing_file(split_bag):
    """Not all files were copied."""
    (split_bag / "bag_1.mcap").unlink()
    frames = []
    with pytest.raises(
        SourceError, match=r"bag_1\.mcap cannot be read: No such file or directory; the readable files were read"
    ):
        read_until_error(open_source(split_bag), frames)
    assert_drive(frames, 4, (300, 400))


def test_file_that_metadata_does_not_list_is_named(split_bag, caplog):
    """A recorder that was killed had listed the earlier files only."""
    metadata = split_bag / "metadata.yaml"
    metadata.write_text(metadata.read_text().replace("  - bag_1.mcap\n", ""))
    assert_drive(list(open_source(split_bag)), 4, (300, 400))
    assert "bag: not reading bag_1.mcap, which metadata.yaml does not list" in caplog.text
