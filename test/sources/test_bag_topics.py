"""Topics of bags: selection, and the camera of each image."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rosbags.rosbag2 import Writer
from support.bags import (
    IMAGE,
    ROS2,
    Messages,
    assert_drive,
    bag_image,
    drive,
    write_bag,
)

from mtl_perception.errors import CameraError, SourceError
from mtl_perception.sources.bag.source import BagSource
from mtl_perception.sources.bag.topics import choose_image_topic
from mtl_perception.sources.open import open_source


def test_bag_with_video_packets_only_is_refused_with_what_to_do() -> None:
    types = {"/cam/image/ffmpeg": "ffmpeg_image_transport_msgs/msg/FFMPEGPacket", "/tf": "tf2_msgs/msg/TFMessage"}
    bag: Any = SimpleNamespace(topics={name: SimpleNamespace(type=kind, count=1) for name, kind in types.items()})
    words = "FFMPEGPacket, tf2_msgs/msg/TFMessage; these are video packets: decode them to sensor_msgs/msg/Image with image_"
    with pytest.raises(SourceError, match=words):
        choose_image_topic(Path("drive"), bag)


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
