"""Drives of KITTI raw, KITTI-360 and KITTI odometry."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from support.data import write_image

from mtl_perception.errors import SourceError
from mtl_perception.sources.kitti import parse_stamp
from mtl_perception.sources.open import open_source

DRIVES = Path(__file__).parents[3] / "shared" / "data" / "kitti_raw" / "2011_09_26"
PERSPECTIVE = "".join(
    f"S_rect_{n}: 4.0e+01 2.0e+01\nP_rect_{n}: {focal} 0 20.5 {shift} 0 {focal} 9.5 0 0 0 1 0\n"
    for n, focal, shift in (("00", 25.5, 0.0), ("01", 26.5, -150.0))
)
CAM_TO_CAM = "".join(
    f"S_rect_{n}: 4.0e+01 2.0e+01\nP_rect_{n}: {focal} 0 20.5 {shift} 0 {focal} 9.5 0 0 0 1 0\n"
    for n, focal, shift in (("02", 31.5, 4.0), ("03", 31.5, -300.0))
)


def random_image(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (20, 40, 3), np.uint8)


@pytest.fixture
def drive(tmp_path: Path) -> Path:
    """A drive of three frames; number 1 is missing."""
    folder = tmp_path / "2011_09_26" / "2011_09_26_drive_0042_sync"
    for camera in ("02", "03"):
        for number in (0, 2, 3):
            write_image(folder / f"image_{camera}" / "data" / f"{number:010}.png", random_image(number + 10 * int(camera)))
        (folder / f"image_{camera}" / "timestamps.txt").write_text(
            "2011-09-26 13:02:25.964389445\n2011-09-26 13:02:26.064389445\n"
            "2011-09-26 13:02:26.164389445\n2011-09-26 13:02:26.264389446\n"
        )
    (folder.parent / "calib_cam_to_cam.txt").write_text(CAM_TO_CAM)
    return folder


class TestKitti:
    def test_frames_with_stamps_and_camera(self, drive):
        source = open_source(drive)
        frames = list(source)
        assert source.name == "2011_09_26_drive_0042_sync/image_02"
        assert len(source) == 3
        for frame, number in zip(frames, (0, 2, 3), strict=True):
            np.testing.assert_array_equal(frame.image, random_image(number + 20))
        assert [frame.stamp_ns for frame in frames] == [1317042145964389445, 1317042146164389445, 1317042146264389446]
        assert source.rate_hz == pytest.approx(1 / 0.15)
        assert {frame.frame_id for frame in frames} == {"camera_02_optical_frame"}
        camera = frames[0].camera
        assert (camera.width, camera.height, camera.fx, camera.cx, camera.cy) == (40, 20, 31.5, 20.5, 9.5)
        assert camera.calibration.p[3] == 4.0

    @pytest.mark.parametrize("where", ["image_03", "image_03/data"])
    def test_folder_selects_another_camera(self, drive, where):
        frames = list(open_source(drive / where))
        np.testing.assert_array_equal(frames[0].image, random_image(30))
        assert frames[0].frame_id == "camera_03_optical_frame"
        assert frames[0].camera.calibration.p[3] == -300.0

    def test_relative_path_is_accepted(self, drive, monkeypatch):
        monkeypatch.chdir(drive / "image_03" / "data")
        assert next(iter(open_source("."))).frame_id == "camera_03_optical_frame"

    def test_gray_only_drive_uses_its_own_camera(self, drive):
        for camera in ("02", "03"):
            (drive / f"image_{camera}").rename(drive / f"image_0{int(camera) - 2}")
        (drive.parent / "calib_cam_to_cam.txt").write_text(PERSPECTIVE + CAM_TO_CAM)
        frame = next(iter(open_source(drive)))
        assert (frame.camera.fx, frame.frame_id) == (25.5, "camera_00_optical_frame")

    def test_missing_calibration_is_a_warning(self, drive, caplog):
        (drive.parent / "calib_cam_to_cam.txt").unlink()
        frames = list(open_source(drive))
        assert [frame.camera for frame in frames] == [None] * 3
        assert "calib_cam_to_cam.txt is missing" in caplog.text

    def test_missing_stamps_are_a_warning(self, drive, caplog):
        (drive / "image_02" / "timestamps.txt").unlink()
        source = open_source(drive)
        assert [frame.stamp_ns for frame in source] == [0, 100_000_000, 200_000_000]
        assert "timestamps.txt is missing" in caplog.text

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("2011-09-26 13:02:25.964389445\n", r"timestamps\.txt has no line 3 for 0000000002\.png"),
            ("yesterday\n" * 4, r"timestamps\.txt, line 1: time data 'yesterday'"),
            ("2011-09-26 13:02:25.9643894451\n" * 4, r"timestamps\.txt, line 1: .* is not YYYY-MM-DD"),
        ],
    )
    def test_invalid_stamps_are_refused(self, drive, text, message):
        (drive / "image_02" / "timestamps.txt").write_text(text)
        with pytest.raises(SourceError, match=message):
            open_source(drive)

    def test_drive_without_images_is_refused(self, drive):
        for path in (drive / "image_02" / "data").iterdir():
            path.unlink()
        with pytest.raises(SourceError, match=r"no images in .*image_02/data"):
            open_source(drive)

    def test_folder_of_drives_error_lists_the_drives(self, drive):
        with pytest.raises(SourceError, match="2011_09_26_drive_0042_sync"):
            open_source(drive.parent)

    @pytest.mark.parametrize(
        ("text", "stamp"),
        [
            ("1970-01-01 00:00:01.000000001", 1_000_000_001),
            ("2011-09-26 13:02:25.964389445\r", 1317042145964389445),
            ("2011-09-26 13:02:25.5", 1317042145500000000),
            ("2011-09-26 13:02:25", 1317042145000000000),
        ],
    )
    def test_stamps_are_exact_and_utc(self, text, stamp, monkeypatch):
        monkeypatch.setenv("TZ", "Asia/Tokyo")
        assert parse_stamp(text) == stamp

    @pytest.mark.skipif(not DRIVES.is_dir(), reason="needs a KITTI drive in ../shared")
    def test_real_drive_is_read(self):
        source = open_source(DRIVES / "2011_09_26_drive_0009_sync")
        assert len(source) == 32
        assert source.rate_hz == pytest.approx(9.67, abs=0.02)
        frame = next(iter(source))
        assert frame.image.shape == (375, 1242, 3)
        assert frame.stamp_ns == 1317042504967930880
        camera = frame.camera
        assert (camera.width, camera.height) == (1242, 375)
        assert (camera.fx, camera.fy, camera.cx, camera.cy) == (721.5377, 721.5377, 609.5593, 172.854)
        assert frame.image[:60, :, 2].mean() > frame.image[-60:, :, 2].mean(), "the sky is brighter than the road"


class TestKitti360:
    @pytest.fixture
    def drive(self, tmp_path: Path) -> Path:
        """A drive of two frames: two perspective cameras, and a fisheye camera without perspective images."""
        folder = tmp_path / "data_2d_raw" / "2013_05_28_drive_0000_sync"
        for camera, images in (("00", "data_rect"), ("00", "data_rgb"), ("01", "data_rect"), ("02", "data_rgb")):
            for number in (0, 1):
                pixels = random_image(number + 10 * int(camera) + 100 * (images == "data_rgb"))
                write_image(folder / f"image_{camera}" / images / f"{number:010}.png", pixels)
            stamps = "2013-05-28 08:46:02.904749056\n2013-05-28 08:46:03.008892928\n"
            (folder / f"image_{camera}" / "timestamps.txt").write_text(stamps)
        (tmp_path / "calibration").mkdir()
        (tmp_path / "calibration" / "perspective.txt").write_text("calib_time: 01-Jan-2000 00:00:00\n" + PERSPECTIVE)
        return folder

    @pytest.mark.parametrize(
        ("where", "camera", "focal"), [("", "00", 25.5), ("image_01", "01", 26.5), ("image_01/data_rect", "01", 26.5)]
    )
    def test_rectified_images_stamps_and_camera_are_read(self, drive, caplog, where, camera, focal):
        source = open_source(drive / where)
        frames = list(source)
        assert source.name == f"2013_05_28_drive_0000_sync/image_{camera}"
        np.testing.assert_array_equal(frames[1].image, random_image(1 + 10 * int(camera)))
        assert [frame.stamp_ns for frame in frames] == [1369730762904749056, 1369730763008892928]
        assert {frame.frame_id for frame in frames} == {f"camera_{camera}_optical_frame"}
        assert (frames[0].camera.fx, frames[0].camera.width) == (focal, 40)
        assert caplog.records == []

    @pytest.mark.parametrize("place", ["", "data_2d_raw/calibration", "data_2d_raw"])
    def test_calibration_is_found_or_missing(self, drive, place, caplog):
        root = drive.parents[1]
        target = root / place / "perspective.txt"
        target.parent.mkdir(exist_ok=True)
        (root / "calibration" / "perspective.txt").rename(target)
        found = place.startswith("data_2d_raw")
        assert (next(iter(open_source(drive))).camera is not None) == found
        assert ("calibration/perspective.txt is missing" in caplog.text) != found

    def test_given_file_is_read_for_the_camera_of_the_folder(self, drive, tmp_path):
        (tmp_path / "mine.txt").write_text(PERSPECTIVE)
        for camera, focal in (("00", 25.5), ("01", 26.5)):
            assert next(iter(open_source(drive / f"image_{camera}", camera_file=tmp_path / "mine.txt"))).camera.fx == focal


class TestKittiOdometry:
    @pytest.fixture
    def sequence(self, tmp_path: Path) -> Path:
        """A sequence of three frames with two gray and two color cameras; number 1 is missing."""
        folder = tmp_path / "sequences" / "07"
        for camera in range(4):
            for number in (0, 2, 3):
                write_image(folder / f"image_{camera}" / f"{number:06}.png", random_image(number + 10 * camera))
        (folder / "times.txt").write_text("0.000000e+00\n1.036224e-01\n2.072449e-01\n3.109140e-01\n")
        rows = (f"P{n}: {30 + n}.5 0 20.5 0 0 {30 + n}.5 9.5 0 0 0 1 0\n" for n in range(4))
        (folder / "calib.txt").write_text("".join(rows) + "Tr: 1 0 0 0 0 1 0 0 0 0 1 0\n")
        return folder

    @pytest.mark.parametrize(("where", "camera"), [("", 2), ("image_0", 0), ("image_3", 3)])
    def test_images_stamps_and_camera_are_read(self, sequence, caplog, where, camera):
        source = open_source(sequence / where)
        frames = list(source)
        assert source.name == f"07/image_{camera}"
        for frame, number in zip(frames, (0, 2, 3), strict=True):
            np.testing.assert_array_equal(frame.image, random_image(number + 10 * camera))
            assert (frame.camera.width, frame.camera.height, frame.camera.fx) == (40, 20, 30.5 + camera)
        assert [frame.stamp_ns for frame in frames] == [0, 207244900, 310914000]
        assert {frame.frame_id for frame in frames} == {f"camera_0{camera}_optical_frame"}
        assert caplog.records == []

    def test_gray_only_sequence_uses_its_own_camera(self, sequence):
        for camera in (1, 2, 3):
            shutil.rmtree(sequence / f"image_{camera}")
        frame = next(iter(open_source(sequence)))
        assert (frame.camera.fx, frame.frame_id) == (30.5, "camera_00_optical_frame")

    @pytest.mark.parametrize(("file", "missing"), [("times.txt", "stamps start at 0"), ("calib.txt", "frames have no camera")])
    def test_missing_file_is_a_warning(self, sequence, caplog, file, missing):
        (sequence / file).unlink()
        assert len(list(open_source(sequence))) == 3
        assert missing in caplog.text
        assert f"{file} is missing" in caplog.text

    @pytest.mark.parametrize("text", ["soon\n" * 4, "nan\n" * 4, "-1\n" * 4])
    def test_invalid_times_are_refused(self, sequence, text):
        (sequence / "times.txt").write_text(text)
        with pytest.raises(SourceError, match=r"times\.txt, line 1: "):
            open_source(sequence)

    def test_folder_of_sequences_error_lists_them(self, sequence):
        with pytest.raises(SourceError, match="several KITTI drives; give one of them: 07"):
            open_source(sequence.parent)
