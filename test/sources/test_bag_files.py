"""Files of bags: names, folders without metadata, write-ahead logs, encodings and compression."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from support.bags import (
    IMAGE,
    KINDS,
    ROS2,
    START_NS,
    STEP_NS,
    Messages,
    assert_drive,
    bag_image,
    drive,
    read_until_error,
    write_bag,
    write_mcap,
)
from support.data import write_image

from mtl_perception.errors import SourceError
from mtl_perception.sources.bag import sqlite as bag_sqlite
from mtl_perception.sources.open import open_source


class TestFolders:
    def split(self, folder: Path, kind: str, names: tuple[str, str]) -> None:
        """Write the first and the second half of a drive, without metadata.yaml."""
        records = list(drive(kind, 4))
        folder.mkdir()
        for name, half in zip(names, (records[:4], records[4:]), strict=True):
            bag = write_bag(folder.parent / f"{name}_written", kind, half)
            shutil.move(next(bag.glob(f"*.{kind}")), folder / name)

    @pytest.mark.parametrize("kind", ["db3", "mcap"])
    def test_numbered_files_without_metadata_are_read_in_order(self, tmp_path, kind, caplog):
        """A killed recorder leaves no metadata.yaml."""
        self.split(tmp_path / "bag", kind, (f"night_0.{kind}", f"night_1.{kind}"))
        for path in (tmp_path / "bag", str(tmp_path / "bag")):
            assert_drive(list(open_source(path)))
        assert f"bag: metadata.yaml is missing; reading night_0.{kind}, night_1.{kind}" in caplog.text

    @pytest.mark.parametrize(
        "names", [("a.mcap", "b.mcap"), ("drive1.mcap", "drive2.mcap"), ("a_0.mcap", "b_1.mcap"), ("a_1.mcap", "a_2.mcap")]
    )
    def test_other_files_are_not_taken_for_one_bag(self, tmp_path, names):
        self.split(tmp_path / "bags", "mcap", names)
        with pytest.raises(
            SourceError, match=f"bags cannot be read: metadata.yaml is missing; give one of the files: {', '.join(names)}$"
        ):
            open_source(tmp_path / "bags")

    def test_only_file_of_a_folder_is_read(self, tmp_path):
        bag = write_bag(tmp_path / "bag", "db3", drive("db3"))
        (bag / "metadata.yaml").unlink()
        assert_drive(list(open_source(bag)))

    def test_images_win_over_a_bag_without_metadata(self, tmp_path):
        bag = write_bag(tmp_path / "bag", "mcap", drive("mcap"))
        (bag / "metadata.yaml").unlink()
        write_image(bag / "a.png", bag_image(7))
        (frame,) = open_source(bag)
        np.testing.assert_array_equal(frame.image, bag_image(7))

    def test_unreadable_file_of_several_does_not_hide_the_others(self, tmp_path):
        self.split(tmp_path / "bag", "db3", ("x_0.db3", "x_1.db3"))
        (tmp_path / "bag" / "x_0.db3").write_bytes(b"")
        frames = []
        with pytest.raises(SourceError, match=r"x_0\.db3 cannot be read: it is empty \(0 bytes\); the readable files"):
            read_until_error(open_source(tmp_path / "bag"), frames)
        assert [frame.stamp_ns for frame in frames] == [START_NS + 2 * STEP_NS, START_NS + 3 * STEP_NS]


class TestNames:
    """The content of a file decides, not its name."""

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("suffix", [".BAG", ".MCAP", ".Db3", ".bag.active", ".orig.active", ".mcap.1", ".dat", ""])
    def test_file_of_any_name_is_read(self, tmp_path, kind, suffix):
        bag = write_bag(tmp_path / "bag", kind, drive(kind))
        file = bag if bag.is_file() else next(bag.glob(f"*.{kind}"))
        renamed = file.rename(tmp_path / f"drive{suffix}")
        source = open_source(renamed)
        assert len(source) == 4
        assert_drive(list(source))

    def test_bag_of_a_killed_recorder_is_read_up_to_its_end(self, tmp_path):
        """`rosbag record` writes to NAME.bag.active."""
        bag = write_bag(tmp_path / "bag", "ros1", drive("ros1", 8, (300, 400)))
        content = bag.read_bytes()
        (tmp_path / "drive.bag.active").write_bytes(content[: len(content) * 6 // 10])
        frames = []
        with pytest.raises(SourceError, match=r"drive\.bag\.active is damaged"):
            read_until_error(open_source(tmp_path / "drive.bag.active"), frames)
        assert_drive(frames, 4, (300, 400))

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("name", ["run #3", "what?", "a%20b", "100%", "a b&c=d", "grün"])
    def test_folder_of_any_name_is_read(self, tmp_path, monkeypatch, kind, name):
        (tmp_path / name).mkdir()
        # rosbags itself cannot write to such folders.
        path = write_bag(tmp_path / "bag", kind, drive(kind))
        path = path.rename(tmp_path / name / path.name)
        assert_drive(list(open_source(path)))
        monkeypatch.chdir(tmp_path / name)
        assert_drive(list(open_source(path.name)))


class TestWriteAheadLog:
    def killed(self, path: Path, in_log: int) -> Path:
        """Write what a killed recorder in WAL mode leaves: a .db3 file, and a log with the last `in_log` messages."""
        bag = write_bag(path / "whole", "db3", drive("db3", 6))
        with contextlib.closing(sqlite3.connect(bag / "whole.db3")) as whole:
            lines = [line for line in whole.iterdump() if not line.startswith(("BEGIN", "COMMIT"))]
        messages = [line for line in lines if line.startswith('INSERT INTO "messages"')]
        (path / "killed").mkdir()
        with contextlib.closing(sqlite3.connect(path / "live.db3", isolation_level=None)) as live:
            live.execute("PRAGMA journal_mode = WAL")
            for line in [line for line in lines if line not in messages] + messages[:-in_log]:
                live.execute(line)
            live.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            live.execute("PRAGMA wal_autocheckpoint = 0")
            for line in messages[-in_log:]:
                live.execute(line)
            for suffix in ("", "-wal"):
                shutil.copy(path / f"live.db3{suffix}", path / "killed" / f"bag_0.db3{suffix}")
        return path / "killed" / "bag_0.db3"

    def test_messages_in_the_log_are_read_and_nothing_is_written(self, tmp_path, caplog):
        file = self.killed(tmp_path, in_log=4)
        before = {entry.name: entry.read_bytes() for entry in file.parent.iterdir()}
        source = open_source(file)
        assert len(source) == 6
        assert_drive(list(source), 6)
        assert_drive(list(source), 6)
        assert {entry.name: entry.read_bytes() for entry in file.parent.iterdir()} == before
        assert "lost" not in caplog.text

    def test_bag_of_a_running_recorder_is_read(self, tmp_path):
        file = self.killed(tmp_path, in_log=4)
        with contextlib.closing(sqlite3.connect(file)) as recorder:
            recorder.execute("SELECT COUNT(*) FROM messages").fetchone()
            assert (file.parent / "bag_0.db3-shm").exists()
            assert_drive(list(open_source(file)), 6)

    def test_log_that_cannot_be_read_is_reported(self, tmp_path, monkeypatch, caplog):
        file = self.killed(tmp_path, in_log=4)
        monkeypatch.setattr(bag_sqlite, "LOG_OPTIONS", ("mode=ro&vfs=missing",))
        assert_drive(list(open_source(file)), 4)
        assert "bag_0.db3: the last messages are lost: bag_0.db3-wal cannot be read: no such vfs: missing" in caplog.text


def test_damaged_names_in_a_db3_are_reported(tmp_path):
    """SQLite's message quotes the damaged statement, which is not UTF-8."""
    bag = write_bag(tmp_path / "bag", "db3", drive("db3"))
    content = (bag / "bag.db3").read_bytes()
    (tmp_path / "cut.db3").write_bytes(content.replace(b"CREATE TABLE topics", b"CREATE TABLE \xffopics"))
    (tmp_path / "bad.db3").write_bytes(content.replace(b"CREATE TABLE topics", b"CREATE \xffABLE topics"))
    for name in ("cut.db3", "bad.db3"):
        with pytest.raises(SourceError, match=f"{name} cannot be read: ") as caught:
            open_source(tmp_path / name)
        assert str(caught.value).isprintable()


class TestEncodings:
    def test_mcap_with_ros1_messages_is_read(self, tmp_path, caplog):
        """`mcap convert drive.bag drive.mcap`."""
        for name, options in (("whole.mcap", {}), ("plain.mcap", {"chunked": False})):
            path = write_mcap(tmp_path / name, "ros1", drive("ros1"), **options)
            source = open_source(path)
            assert len(source) == 4
            assert_drive(list(source))
        assert "without its index" not in caplog.text

    def test_mcap_without_chunks_keeps_the_order_of_writing(self, tmp_path):
        """The preset `fastwrite` of rosbag2 writes no index; messages of several threads may be out of order."""
        records = list(drive("mcap", 4))
        records[2], records[4] = records[4], records[2]
        assert_drive(list(open_source(write_mcap(tmp_path / "a.mcap", "cdr", records, chunked=False))))

    def test_messages_of_overlapping_chunks_come_in_order_of_time(self, tmp_path):
        """Each chunk holds one message here, and the chunks are written in reverse."""
        path = write_mcap(tmp_path / "a.mcap", "cdr", list(drive("mcap", 4))[::-1])
        assert_drive(list(open_source(path)))

    def test_messages_in_other_encodings_are_no_images(self, tmp_path):
        path = write_mcap(tmp_path / "a.mcap", "protobuf", drive("mcap"))
        with pytest.raises(SourceError, match=r"has no images .*, but sensor_msgs/msg/CameraInfo \(protobuf\), "):
            open_source(path)

    @pytest.mark.parametrize("kind", ["db3", "mcap"])
    @pytest.mark.parametrize("mode", ["MESSAGE", "FILE"])
    def test_compressed_bag_is_read_with_and_without_metadata(self, tmp_path, kind, mode):
        """`ros2 bag record --compression-format zstd --compression-mode …`."""
        storage = StoragePlugin.MCAP if kind == "mcap" else StoragePlugin.SQLITE3
        writer = Writer(tmp_path / "bag", version=9, storage_plugin=storage)
        writer.set_compression(CompressionMode[mode], CompressionFormat.ZSTD)
        with writer:
            connections = {}
            for topic, message, time_ns in drive(kind):
                if topic not in connections:
                    connections[topic] = writer.add_connection(topic, message.__msgtype__, typestore=ROS2)
                writer.write(connections[topic], time_ns, Messages().serialize(message))
        (file,) = (tmp_path / "bag").glob("bag.*")
        assert file.suffix == (".zstd" if mode == "FILE" else f".{kind}")
        assert_drive(list(open_source(tmp_path / "bag")))
        assert_drive(list(open_source(file)))
        (tmp_path / "bag" / "metadata.yaml").unlink()
        assert_drive(list(open_source(tmp_path / "bag")))

    def test_damaged_compressed_message_is_rejected(self, tmp_path):
        records = list(drive("mcap", 2))
        records[1] = (records[1][0], (IMAGE, b"\x28\xb5\x2f\xfd and no frame"), records[1][2])
        source = open_source(write_bag(tmp_path / "bag", "mcap", records))
        assert len(list(source)) == 1
        assert source.rejected == {"message": 1}
