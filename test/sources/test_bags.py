"""Bags of all three kinds as sources."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from support.bags import (
    DELAY_NS,
    IMAGE,
    KINDS,
    START_NS,
    STEP_NS,
    Messages,
    assert_drive,
    bag_image,
    drive,
    read_until_error,
    write_bag,
)

from mtl_perception.errors import SourceError
from mtl_perception.sources.open import open_source


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
