"""Image files, KITTI drives, and the kinds of source that open_source accepts."""

from __future__ import annotations

import logging
from pathlib import Path

import cv2
import numpy as np
import pytest
from support.image_files import animated_gif

from mtl_perception.errors import FrameError, SourceError
from mtl_perception.sources.base import CameraResolver, median_rate_hz
from mtl_perception.sources.open import open_source

CALIB_TXT = "P2: 7.188560e+02 0 6.071928e+02 4.538225e+01 0 7.188560e+02 1.852157e+02 -1.130887e-01 0 0 1 3.779761e-03\n"
CAM_TO_CAM = "".join(
    f"S_rect_{n}: 4.0e+01 2.0e+01\nP_rect_{n}: {focal} 0 20.5 {shift} 0 {focal} 9.5 0 0 0 1 0\n"
    for n, focal, shift in (("02", 31.5, 4.0), ("03", 31.5, -300.0))
)


def random_image(seed: int, height: int = 20, width: int = 40) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def write_image(path: Path, rgb: np.ndarray) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), rgb[..., ::-1])
    return rgb


def without_camera(name: str) -> str:
    return f"{name}: frames have no camera, so there are no clouds; give --camera FILE, or put camera.yaml into the folder"


class TestImageFolder:
    def test_natural_order_stamps_and_suffixes(self, tmp_path):
        written = [write_image(tmp_path / name, random_image(i)) for i, name in enumerate(("f2.png", "f10.PNG", "f100.bmp"))]
        (tmp_path / "notes.txt").write_text("no image")
        (tmp_path / ".hidden.png").write_bytes(b"")
        source = open_source(str(tmp_path))
        frames = list(source)
        assert (source.name, source.rate_hz, len(source)) == (tmp_path.name, 10.0, 3)
        for frame, rgb in zip(frames, written, strict=True):
            np.testing.assert_array_equal(frame.image, rgb)
        assert [frame.stamp_ns for frame in frames] == [0, 100_000_000, 200_000_000]
        assert [frame.camera for frame in frames] == [None] * 3
        assert [frame.stamp_ns for frame in source] == [0, 100_000_000, 200_000_000], "the second iteration is identical"

    def test_files_that_are_skipped_are_counted_and_named(self, tmp_path, caplog):
        images = ["a.png", "b.GIF", "c.jfif"]
        for name in [*images, "IMG_1.HEIC", "d.avif", "film.mp4", "plain", "notes.txt", "camera.csv", ".hidden"]:
            (tmp_path / name).write_bytes(b"x")
        (tmp_path / "dangling.png").symlink_to(tmp_path / "unmounted" / "a.png")
        (tmp_path / "folder.png").mkdir()
        assert len(open_source(tmp_path)) == 3
        assert caplog.messages == [
            f"{tmp_path.name}: 5 files skipped: IMG_1.HEIC, d.avif, dangling.png (dangling link), film.mp4, plain; "
            "supported: JPEG, PNG, TIFF, BMP, WebP and GIF",
            without_camera(tmp_path.name),
        ]

    @pytest.mark.skipif(not hasattr(cv2, "IMWRITE_GIF_LOOP"), reason="needs OpenCV 4.11 or later, which reads GIF files")
    def test_gif_files_of_a_folder_are_read_as_a_single_one_is(self, tmp_path, caplog):
        for name in ("a.gif", "b.GIF"):
            (tmp_path / name).write_bytes(animated_gif(40, 20))
        frames = list(open_source(tmp_path))
        (single,) = open_source(tmp_path / "a.gif")
        assert [frame.image.shape for frame in frames] == [(20, 40, 3)] * 2
        np.testing.assert_array_equal(frames[1].image, single.image)
        assert caplog.messages == [without_camera(tmp_path.name), without_camera("a.gif")]

    def test_images_are_loaded_on_demand(self, tmp_path):
        write_image(tmp_path / "0.png", random_image(0))
        write_image(tmp_path / "1.png", random_image(1))
        frames = iter(open_source(tmp_path))
        next(frames)
        changed = write_image(tmp_path / "1.png", random_image(7))
        np.testing.assert_array_equal(next(frames).image, changed)

    def test_camera_file_beside_the_images_is_scaled_to_their_size(self, tmp_path, caplog):
        write_image(tmp_path / "0.png", random_image(0, 100, 200))
        write_image(tmp_path / "1.png", random_image(1, 50, 100))
        write_image(tmp_path / "2.png", random_image(2, 60, 60))
        write_image(tmp_path / "3.png", random_image(3, 60, 60))
        (tmp_path / "camera.yaml").write_text(
            "image_width: 200\nimage_height: 100\ncamera_matrix: {data: [150, 0, 99, 0, 151, 49, 0, 0, 1]}\n"
        )
        with caplog.at_level(logging.WARNING):
            cameras = [frame.camera for frame in open_source(tmp_path)]
        assert [(c.width, c.height, c.fx, c.fy, c.cx, c.cy) for c in cameras[:2]] == [
            (200, 100, 150, 151, 99, 49),
            (100, 50, 75, 75.5, 49.5, 24.5),
        ]
        assert cameras[2:] == [None, None]
        assert len(caplog.records) == 1
        assert "60x60" in caplog.text

    def test_calibration_without_a_size_gets_that_of_the_first_image(self, tmp_path):
        write_image(tmp_path / "0.png", random_image(0, 376, 1241))
        (tmp_path / "calib.txt").write_text(CALIB_TXT)
        (frame,) = open_source(tmp_path)
        assert (frame.camera.width, frame.camera.height, frame.camera.fx) == (1241, 376, 718.856)

    def test_camera_file_overrides_the_folders_own(self, tmp_path):
        write_image(tmp_path / "images" / "0.png", random_image(0))
        (tmp_path / "images" / "calib.txt").write_text(CALIB_TXT)
        (tmp_path / "calib_cam_to_cam.txt").write_text(CAM_TO_CAM)
        (frame,) = open_source(tmp_path / "images", camera_file=tmp_path / "calib_cam_to_cam.txt")
        assert frame.camera.fx == 31.5

    def test_damaged_image_of_a_folder_is_skipped_and_counted(self, tmp_path, caplog):
        first = write_image(tmp_path / "0.png", random_image(0))
        (tmp_path / "1.png").write_bytes(b"broken")
        last = write_image(tmp_path / "2.png", random_image(2))
        source = open_source(tmp_path)
        frames = list(source)
        assert [frame.stamp_ns for frame in frames] == [0, 200_000_000]
        np.testing.assert_array_equal(frames[0].image, first)
        np.testing.assert_array_equal(frames[1].image, last)
        assert source.rejected == {"unreadable": 1}
        assert "1.png" in caplog.text

    def test_single_image_is_a_source(self, tmp_path):
        rgb = write_image(tmp_path / "one.jpeg", np.full((8, 8, 3), 90, np.uint8))
        source = open_source(tmp_path / "one.jpeg")
        (frame,) = source
        assert (source.name, len(source)) == ("one.jpeg", 1)
        np.testing.assert_array_equal(frame.image, rgb)

    def test_single_damaged_image_raises(self, tmp_path):
        (tmp_path / "one.png").write_bytes(b"broken")
        with pytest.raises(FrameError, match=r"one\.png"):
            list(open_source(tmp_path / "one.png"))


class TestOpen:
    def test_missing_path_is_refused(self, tmp_path):
        with pytest.raises(SourceError, match="absent does not exist; accepted: a KITTI raw or KITTI-360 drive"):
            open_source(tmp_path / "absent")

    def test_unsupported_file_type_is_refused(self, tmp_path):
        path = tmp_path / "sound.mp3"
        path.write_bytes(b"x")
        with pytest.raises(SourceError, match=r"sound\.mp3 is not a source: unsupported file type \.mp3; accepted: .*synth"):
            open_source(path)

    def test_folder_without_images_or_bag_is_refused(self, tmp_path):
        (tmp_path / "a.txt").write_text("x")
        with pytest.raises(SourceError, match=r"neither images .* nor a bag, but a\.txt; accepted"):
            open_source(tmp_path)

    def test_empty_folder_is_refused(self, tmp_path):
        with pytest.raises(SourceError, match="but nothing; accepted"):
            open_source(tmp_path)

    def test_folder_with_a_file_named_like_a_bag_is_refused(self, tmp_path):
        (tmp_path / "bag_0.mcap").write_bytes(b"x")
        with pytest.raises(SourceError, match=r"bag .*bag_0\.mcap cannot be read: it is neither a ROS 1 bag nor an MCAP"):
            open_source(tmp_path)

    def test_topic_of_an_image_folder_is_refused(self, tmp_path):
        write_image(tmp_path / "0.png", random_image(0))
        with pytest.raises(SourceError, match="has no topic /camera: it is not a bag"):
            open_source(tmp_path, image_topic="/camera")

    @pytest.mark.parametrize("numbers", ["", "-1", "1.5", "1:2:3", "ten", "0"])
    def test_invalid_synthetic_spec_is_refused(self, numbers):
        with pytest.raises(SourceError, match=f"invalid source 'synthetic:{numbers}'(: |; )"):
            open_source(f"synthetic:{numbers}")

    def test_synthetic_source_has_its_own_camera(self):
        pytest.importorskip("mtl_perception.synthetic.drive", reason="needs the synthetic drive")
        source = open_source("synthetic:3:5")
        assert len(source) == 3
        with pytest.raises(SourceError, match="it has its own camera"):
            open_source("synthetic:3", camera_file=Path("camera.yaml"))


def test_rate_is_from_the_median_interval_and_ignores_a_gap():
    assert median_rate_hz([0, 50, 100, 150, 10_000_000_150]) == 1e9 / 50
    assert median_rate_hz([5]) == median_rate_hz([]) == median_rate_hz([3, 3, 3]) == 10.0


def test_camera_resolver_warns_once_for_each_reason(caplog):
    from mtl_perception.camera.model import Calibration

    cameras = CameraResolver("bag", rectified=True)
    uncalibrated = Calibration(8, 4, (0.0,) * 9)
    for width in (8, 16, 8):
        assert cameras.camera(uncalibrated, width, width // 2) is None
    assert cameras.camera(None, 8, 4) is None
    assert [record.getMessage().count("uncalibrated") for record in caplog.records] == [1, 1]
