"""Bags of all three kinds as sources; truncated, damaged and foreign files."""

from __future__ import annotations

import bz2
import contextlib
import importlib
import logging
import shutil
import sqlite3
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
from rosbags.rosbag2 import Writer
from support.bags import (
    DELAY_NS,
    IMAGE,
    ROS2,
    START_NS,
    STEP_NS,
    Messages,
    assert_drive,
    bag_image,
    drive,
    read_until_error,
    write_bag,
)

from mtl_perception.errors import CameraError, SourceError
from mtl_perception.sources.bag import scan as bag_scan
from mtl_perception.sources.bag.scan import MCAP_MAGIC, ROS1_MAGIC, DamageError, scan
from mtl_perception.sources.bag.source import BagSource
from mtl_perception.sources.open import open_source

KINDS = ("ros1", "db3", "mcap")


@pytest.mark.parametrize("kind", KINDS)
class TestKinds:
    def test_frames_have_pixels_stamps_and_intrinsics(self, tmp_path, kind):
        source = open_source(write_bag(tmp_path / "bag", kind, drive(kind)))
        assert source.name == ("bag.bag" if kind == "ros1" else "bag")
        assert len(source) == 4
        assert source.rate_hz == pytest.approx(20)
        assert_drive(list(source))
        assert_drive(list(source))
        assert [time_ns for time_ns, _ in source.timed_frames()] == [START_NS + DELAY_NS + i * STEP_NS for i in range(4)]
        assert source.rejected == {}

    def test_compressed_images_are_read(self, tmp_path, kind):
        make = Messages(kind == "ros1")
        records = [
            ("/cam/camera_info", make.camera_info(40.0), 1),
            ("/cam/image_raw/compressed", make.compressed(bag_image(0), 5), 2),
        ]
        source = open_source(write_bag(tmp_path / "bag", kind, records))
        (frame,) = source
        assert source.image_topic == "/cam/image_raw/compressed"
        np.testing.assert_array_equal(frame.image, bag_image(0))
        assert (frame.stamp_ns, frame.camera.fx) == (5, 40)

    def test_malformed_images_are_skipped_and_counted(self, tmp_path, kind, caplog):
        make = Messages(kind == "ros1")
        good = [(START_NS + i * STEP_NS, make.image(bag_image(i), START_NS + i * STEP_NS)) for i in range(4)]
        short = make.image(bag_image(9), START_NS)
        short.data = short.data[:-5]
        cut = (IMAGE, make.serialize(make.image(bag_image(9), START_NS))[:90])
        records = [("/cam/image_raw", message, time) for time, message in good]
        bad = (short, cut, make.image(bag_image(9), 0, "wxyz8"), short)
        records[2:2] = [("/cam/image_raw", message, good[1][0] + 1 + i) for i, message in enumerate(bad)]
        source = open_source(write_bag(tmp_path / "bag", kind, records))
        with caplog.at_level(logging.WARNING):
            frames = list(source)
        assert [frame.stamp_ns for frame in frames] == [time for time, _ in good]
        for i, frame in enumerate(frames):
            np.testing.assert_array_equal(frame.image, bag_image(i))
        assert source.rejected == {"data_length": 2, "message": 1, "encoding": 1}
        assert len(source) == 8
        assert len([record for record in caplog.records if "frame skipped" in record.getMessage()]) == 3

    def test_latest_camera_info_is_used_and_the_first_one_for_earlier_images(self, tmp_path, kind, caplog):
        make = Messages(kind == "ros1")
        records = [
            ("/cam/image_raw", make.image(bag_image(0), 1), 10),
            ("/cam/camera_info", make.camera_info(40.0), 20),
            ("/cam/image_raw", make.image(bag_image(1), 2), 30),
            ("/cam/camera_info", make.camera_info(80.0), 40),
            ("/cam/image_raw", make.image(bag_image(2), 3), 50),
            ("/cam/camera_info", make.camera_info(float("nan")), 60),
            ("/cam/image_raw", make.image(bag_image(3), 4), 70),
            ("/cam/camera_info", make.camera_info(90.0), 80),
            ("/cam/image_raw", make.image(bag_image(4), 5), 90),
        ]
        frames = list(open_source(write_bag(tmp_path / "bag", kind, records)))
        assert [frame.camera and frame.camera.fx for frame in frames] == [40, 40, 80, None, 90]
        assert "no camera until the next camera_info" in caplog.text

    def test_truncated_bag_is_read_up_to_the_damage(self, tmp_path, kind):
        size = (300, 400)
        path = write_bag(tmp_path / "bag", kind, drive(kind, 8, size))
        file = path if path.is_file() else next(path.glob(f"bag.{kind}"))
        content = file.read_bytes()
        file.write_bytes(content[: int(len(content) * 0.6)])
        if kind == "db3":
            with pytest.raises(SourceError, match=r"bag .* cannot be read: "):
                list(open_source(path))
            return
        for spec in {path, file}:
            source = open_source(spec)
            frames = []
            with pytest.raises(SourceError, match=r"is damaged: .*; the messages before the damage were read"):
                read_until_error(source, frames)
            assert len(source) == len(frames) == 4
            assert_drive(frames, 4, size)
            assert source.rate_hz == pytest.approx(20)

    def test_empty_file_is_refused(self, tmp_path, kind):
        path = tmp_path / f"none.{'bag' if kind == 'ros1' else kind}"
        path.write_bytes(b"")
        with pytest.raises(SourceError, match=rf"none\.{path.suffix[1:]} cannot be read: it is empty \(0 bytes\)$"):
            open_source(path)

    @pytest.mark.parametrize("content", [b"GIF89a" + bytes(500), bytes(range(256)) * 4, b"\n"])
    def test_foreign_file_is_refused(self, tmp_path, kind, content):
        path = tmp_path / f"foreign.{'bag' if kind == 'ros1' else kind}"
        path.write_bytes(content)
        with pytest.raises(SourceError, match=rf"bag .*foreign\.{path.suffix[1:]} cannot be read: ") as caught:
            open_source(path)
        assert "\n" not in str(caught.value)

    def test_bag_without_images_is_refused(self, tmp_path, kind):
        make = Messages(kind == "ros1")
        path = write_bag(tmp_path / "bag", kind, [("/cam/camera_info", make.camera_info(40.0), 1)])
        with pytest.raises(SourceError, match=r"has no images .* but sensor_msgs/msg/CameraInfo"):
            open_source(path)


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

    def test_missing_or_invalid_metadata_is_refused(self, tmp_path):
        bag = write_bag(tmp_path / "bag", "db3", drive("db3"))
        metadata = bag / "metadata.yaml"
        whole = metadata.read_text()
        for text in ("", "[1, 2", "rosbag2_bagfile_information: {version: 5}", whole.replace("bag.db3", "gone.db3")):
            metadata.write_text(text)
            with pytest.raises(SourceError, match=r"bag .*bag cannot be read: "):
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


class TestTopics:
    def bag(self, path: Path, topics: dict[str, object]) -> Path:
        make = Messages()
        records = []
        for i, (topic, value) in enumerate(topics.items()):
            if isinstance(value, str):
                channels = {"rgb8": 3, "mono8": 1, "mono16": 2, "16UC1": 2, "32FC1": 4}[value]
                message = make.image(np.zeros((24, 32, channels), np.uint8), 1, value)
            elif isinstance(value, float):
                message = make.camera_info(value)
            else:
                message = make.compressed(bag_image(0), 1)
            records.append((topic, message, i))
        return write_bag(path, "mcap", records)

    @pytest.mark.parametrize(
        ("topics", "chosen"),
        [
            ({"/strange": "rgb8"}, "/strange"),
            ({"/a/image_raw": "rgb8", "/a/image_rect": "rgb8", "/a/image_rect_color": "rgb8"}, "/a/image_rect_color"),
            ({"/a/image_raw": "rgb8", "/a/image_mono": "rgb8"}, "/a/image_raw"),
            ({"/cam/color/image_raw": "rgb8", "/cam/infra1/image_raw": "rgb8"}, "/cam/color/image_raw"),
            ({"/cam/depth/image_rect_raw": "16UC1", "/cam/view": "rgb8"}, "/cam/view"),
            ({"/a/image_rect": "32FC1", "/b/view": "rgb8"}, "/b/view"),
            ({"/thermal/image_raw": "mono16", "/b/view": "rgb8"}, "/b/view"),
            ({"/a/image_raw/compressed": None, "/a/image_raw": "rgb8"}, "/a/image_raw"),
            ({"/mtl_perception/segmentation/image": "rgb8", "/view": "rgb8"}, "/view"),
            # RealSense: the infrared images are rectified, the color images are named raw.
            (
                {
                    "/d435/infra1/image_rect_raw": "mono8",
                    "/d435/infra2/image_rect_raw": "mono8",
                    "/d435/color/image_raw": "rgb8",
                },
                "/d435/color/image_raw",
            ),
            ({"/kinect/ir/image_raw": "rgb8", "/kinect/rgb/image_raw": "rgb8"}, "/kinect/rgb/image_raw"),
            ({"/thermal/image_rect_color": "rgb8", "/b/view": "rgb8"}, "/b/view"),
            # OAK-D: rectified gray cameras beside an unrectified color camera.
            (
                {"/oak/left/image_rect": "mono8", "/oak/right/image_rect": "mono8", "/oak/rgb/image_raw": "rgb8"},
                "/oak/rgb/image_raw",
            ),
            # Of one camera the rectified topic is preferred, also in gray.
            ({"/a/image_raw": "rgb8", "/a/image_rect": "mono8"}, "/a/image_rect"),
            ({"/infra1/image_rect_raw": "mono8"}, "/infra1/image_rect_raw"),
            ({"/fair/image_raw": "rgb8", "/z/other": "rgb8"}, "/fair/image_raw"),
        ],
    )
    def test_image_topic_is_selected_by_type_and_name(self, tmp_path, topics, chosen):
        assert BagSource(self.bag(tmp_path / "bag", topics)).image_topic == chosen

    def test_warning_names_the_selected_and_the_other_topics(self, tmp_path, caplog):
        topics = {
            "/color/image_raw": "rgb8",
            "/color/image_raw/compressed": None,
            "/infra1/image_raw": "mono8",
            "/depth/image": "16UC1",
        }
        BagSource(self.bag(tmp_path / "drive", topics))
        line = "drive: reading /color/image_raw; other image topics for --image: /infra1/image_raw"
        assert [record.getMessage() for record in caplog.records if "reading" in record.getMessage()] == [line]
        caplog.clear()
        BagSource(self.bag(tmp_path / "one", {"/color/image_raw": "rgb8"}))
        BagSource(tmp_path / "drive", image_topic="/infra1/image_raw")
        assert "other image topics" not in caplog.text

    def test_one_of_several_cameras_must_be_selected(self, tmp_path):
        bag = self.bag(tmp_path / "bag", {"/left/image_raw": "rgb8", "/right/image_raw": "rgb8", "/right/camera_info": 9.0})
        with pytest.raises(
            SourceError, match="several cameras: /left/image_raw, /right/image_raw; select one with --image TOPIC"
        ):
            open_source(bag)
        source = open_source(bag, image_topic="right/image_raw")
        assert source.image_topic == "/right/image_raw"
        assert next(iter(source)).camera.fx == 9

    def test_depth_topic_is_read_only_on_request(self, tmp_path):
        bag = self.bag(tmp_path / "bag", {"/cam/image": "32FC1"})
        with pytest.raises(SourceError, match="no color or gray images, but /cam/image; select one with --image TOPIC"):
            open_source(bag)
        source = open_source(bag, image_topic="/cam/image")
        assert list(source) == []
        assert source.rejected == {"encoding": 1}

    def test_unknown_topic_error_lists_candidates(self, tmp_path):
        bag = self.bag(tmp_path / "bag", {"/a/image_raw": "rgb8", "/b/camera_info": 5.0})
        with pytest.raises(
            SourceError, match=r"no Image or CompressedImage messages on /nope; candidates for --image: /a/image_raw"
        ):
            open_source(bag, image_topic="/nope")
        with pytest.raises(
            SourceError, match="no CameraInfo messages on /a/image_raw; candidates for --camera-info: /b/camera_info"
        ):
            open_source(bag, camera_info_topic="/a/image_raw")
        assert next(iter(open_source(bag, camera_info_topic="/b/camera_info"))).camera.fx == 5

    def test_topics_without_messages_are_named_as_such(self, tmp_path):
        """A recorder whose camera never published."""
        with Writer(tmp_path / "bag", version=9) as writer:
            writer.add_connection("/cam/image_raw", IMAGE, typestore=ROS2)
        with pytest.raises(SourceError, match=r"bag has no images: nothing was recorded on /cam/image_raw$"):
            open_source(tmp_path / "bag")
        with pytest.raises(
            SourceError, match=r"bag has no messages on /cam/image_raw: nothing was recorded; candidates for --image: none$"
        ):
            open_source(tmp_path / "bag", image_topic="cam/image_raw")

    def test_missing_camera_info_is_a_warning(self, tmp_path, caplog):
        source = open_source(self.bag(tmp_path / "bag", {"/a/image_raw": "rgb8", "/b/camera_info": 5.0}))
        assert next(iter(source)).camera is None
        assert "no camera_info on /a/camera_info" in caplog.text

    def test_camera_info_of_another_aspect_ratio_is_a_warning(self, tmp_path, caplog):
        make = Messages()
        records = [("/camera_info", make.camera_info(40.0, 0, 64, 64), 0), ("/image_raw", make.image(bag_image(0), 1), 1)]
        (frame,) = open_source(write_bag(tmp_path / "bag", "mcap", records))
        assert frame.camera is None
        assert "64x64" in caplog.text

    def test_camera_file_overrides_the_topic(self, tmp_path):
        bag = self.bag(tmp_path / "bag", {"/a/image_raw": "rgb8", "/a/camera_info": 5.0})
        calib = tmp_path / "calib.txt"
        calib.write_text("P2: 77 0 16 0 0 77 12 0 0 0 1 0\n")
        camera = next(iter(open_source(bag, camera_file=calib))).camera
        assert (camera.width, camera.height, camera.fx) == (32, 24, 77)
        calib.write_text("nothing")
        with pytest.raises(CameraError, match=r"calib\.txt"):
            open_source(bag, camera_file=calib)

    def test_raw_images_use_k_and_distortion(self, tmp_path, caplog):
        make = Messages()
        info = make.camera_info(40.0)
        info.d, info.p = np.array([-0.2, 0.1, 0, 0, 0]), info.p * 2
        bag = write_bag(tmp_path / "bag", "mcap", [("/camera_info", info, 0), ("/image_raw", make.image(bag_image(0), 1), 1)])
        camera = next(iter(open_source(bag, rectified=False))).camera
        assert (camera.fx, camera.distortion) == (40, (-0.2, 0.1, 0, 0, 0))
        assert not caplog.text
        assert next(iter(open_source(bag))).camera.fx == 80
        assert "images of /image_raw seem to be raw, but input_rectified is true" in caplog.text

    def test_missing_k_beside_a_valid_p_is_a_warning(self, tmp_path, caplog):
        make = Messages()
        info = make.camera_info(40.0)
        info.k = info.k * 0
        bag = write_bag(tmp_path / "bag", "mcap", [("/camera_info", info, 0), ("/image", make.image(bag_image(0), 1), 1)])
        assert next(iter(open_source(bag))).camera.fx == 40
        assert caplog.text.count("K in camera_info is 0; using P") == 1

    def test_rate_is_from_bag_times_where_stamps_are_unset(self, tmp_path):
        make = Messages()
        bag = write_bag(tmp_path / "bag", "mcap", [("/i", make.image(bag_image(i), 0), i * 200_000_000) for i in range(3)])
        assert open_source(bag).rate_hz == pytest.approx(5)

    def test_db3_without_message_definitions(self, tmp_path):
        bag = write_bag(tmp_path / "bag", "db3", drive("db3"))
        with sqlite3.connect(bag / "bag.db3") as database:
            database.executescript("DELETE FROM message_definitions")
        assert_drive(list(open_source(bag / "bag.db3")))


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


def test_split_bag_is_read_past_a_damaged_file(tmp_path):
    """The last of several files is truncated."""
    whole = list(drive("mcap", 8, (300, 400)))
    first = write_bag(tmp_path / "bag", "mcap", whole[:8])
    second = write_bag(tmp_path / "more", "mcap", whole[8:])
    shutil.move(first / "bag.mcap", first / "bag_0.mcap")
    content = (second / "more.mcap").read_bytes()
    (first / "bag_1.mcap").write_bytes(content[: int(len(content) * 0.6)])
    metadata = (first / "metadata.yaml").read_text().replace("- bag.mcap", "- bag_0.mcap\n  - bag_1.mcap")
    (first / "metadata.yaml").write_text(metadata)
    frames = []
    with pytest.raises(SourceError, match=r"bag_1\.mcap is damaged"):
        read_until_error(open_source(first), frames)
    assert_drive(frames, 6, (300, 400))
