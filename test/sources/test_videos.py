"""Video files as sources: stamps, orientation, colors, parts, and damage."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from support.videos import IDENTITY, QUARTER_CLOCKWISE, level, number_of, numbered_image, truncate, write_video

pytest.importorskip("av", reason="needs PyAV")

from mtl_perception.errors import CameraError, SourceError
from mtl_perception.sources.base import TimeSlice, timed_frames
from mtl_perception.sources.open import open_source

IMAGES = [numbered_image(index) for index in range(20)]
CAMERA_YAML = """\
image_width: 128
image_height: 96
camera_name: front
camera_matrix: {rows: 3, cols: 3, data: [90.0, 0, 64, 0, 91.0, 41, 0, 0, 1]}
distortion_model: plumb_bob
distortion_coefficients: {rows: 1, cols: 5, data: [0, 0, 0, 0, 0]}
rectification_matrix: {rows: 3, cols: 3, data: [1, 0, 0, 0, 1, 0, 0, 0, 1]}
projection_matrix: {rows: 3, cols: 4, data: [80.0, 0, 60, 0, 0, 82.0, 40, 0, 0, 0, 1, 0]}
"""


def noise_images(count: int) -> list[np.ndarray]:
    """Images whose size in the file does not depend on their place in it."""
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (48, 64, 3), np.uint8) for _ in range(count)]


@pytest.mark.parametrize("name", ["a.mp4", "a.MOV", "a.mkv", "a.avi", "a.ts", "a.h264"])
def test_frames_have_the_times_and_images_of_the_video(tmp_path: Path, name: str) -> None:
    codec = "mpeg4" if name == "a.avi" else "libx264"
    source = open_source(write_video(tmp_path / name.lower(), IMAGES, codec=codec).rename(tmp_path / name))
    assert (source.name, len(source), source.rate_hz) == (name, 20, 10.0)
    for _ in range(2):
        frames = list(source)
        assert [number_of(frame.image) for frame in frames] == list(range(20))
        assert [frame.stamp_ns for frame in frames] == [index * 100_000_000 for index in range(20)]
    assert frames[3].image.shape == (48, 64, 3)
    assert np.abs(frames[3].image[30, 40].astype(int) - level(3)).max() <= 3
    assert np.abs(frames[3].image[4, 6].astype(int) - (220, 30, 30)).max() <= 12
    assert {frame.frame_id for frame in frames} == {"camera_optical_frame"}
    assert [row.child for row in source.static_transforms()] == ["camera_optical_frame"]


def test_stamps_follow_a_variable_frame_rate(tmp_path: Path) -> None:
    times = [0, 40, 80, 500, 501, 2000]
    source = open_source(write_video(tmp_path / "a.mp4", IMAGES[:6], times_ms=times))
    assert [frame.stamp_ns / 1e6 for frame in source] == pytest.approx(times, abs=0.1)


def test_video_is_turned_upright_as_its_header_says(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", IMAGES[:2])
    data = path.read_bytes()
    assert data.count(IDENTITY) == 2, "matrix of the movie and of the track"
    start = data.rindex(IDENTITY)
    path.write_bytes(data[:start] + QUARTER_CLOCKWISE + data[start + len(IDENTITY) :])
    image = next(iter(open_source(path))).image
    assert image.shape == (64, 48, 3)
    assert image.flags.c_contiguous
    # Turned clockwise, the upper left corner is the upper right one.
    red = image[..., 0].astype(int) - image[..., 1] > 60
    assert red[:12, 40:].all() and not red[20:].any() and not red[:, :30].any()


def test_part_of_a_video_is_the_same_frames(tmp_path: Path) -> None:
    for name in ("a.mp4", "a.ts", "a.h264"):
        source = open_source(write_video(tmp_path / name, IMAGES))
        frames = list(timed_frames(source, TimeSlice(1.35, 0.4)))
        assert [time_ns for time_ns, _ in frames] == [1_400_000_000, 1_500_000_000, 1_600_000_000, 1_700_000_000]
        assert [number_of(frame.image) for _, frame in frames] == [14, 15, 16, 17]
        assert [frame.stamp_ns for _, frame in frames] == [time_ns for time_ns, _ in frames]


def test_calibration_beside_the_video_is_scaled(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", IMAGES[:2])
    assert next(iter(open_source(path))).camera is None
    (tmp_path / "camera.yaml").write_text(CAMERA_YAML)
    camera = next(iter(open_source(path))).camera
    assert (camera.width, camera.height, camera.fx, camera.cy) == (64, 48, 40.0, 20.0)
    (tmp_path / "other.yaml").write_text(CAMERA_YAML.replace("80.0", "100.0"))
    assert next(iter(open_source(path, camera_file=tmp_path / "other.yaml"))).camera.fx == 50.0
    with pytest.raises(CameraError, match="none.yaml"):
        open_source(path, camera_file=tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("name", "movflags"), [("a.mp4", "+faststart"), ("b.mp4", "frag_keyframe+empty_moov"), ("a.mkv", ""), ("a.avi", "")]
)
def test_truncated_video_yields_what_is_readable_and_fails(tmp_path: Path, name: str, movflags: str) -> None:
    images = noise_images(48)
    codec = "mpeg4" if name == "a.avi" else "libx264"
    path = truncate(write_video(tmp_path / name, images, movflags=movflags, codec=codec), 0.7)
    source = open_source(path)
    stamps = []
    with pytest.raises(SourceError, match=rf"video .*{name} is truncated: it ends after [123]\.\d s of [34]\.\d s"):
        stamps.extend(frame.stamp_ns for frame in source)
    assert stamps == [index * 100_000_000 for index in range(len(stamps))]
    assert 12 <= len(stamps) <= 36


def test_damaged_frames_are_skipped_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_video(tmp_path / "a.mkv", noise_images(36))
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 2000] = bytes(2000)
    path.write_bytes(data)
    source = open_source(path)
    with caplog.at_level(logging.WARNING):
        frames = list(source)
    assert 24 <= len(frames) < 36
    assert sum(source.rejected.values()) >= 1
    assert frames[-1].stamp_ns == 3_500_000_000
    assert any("a.mkv: frame skipped, further ones with this reason silently" in text for text in caplog.messages)


def test_files_that_are_no_readable_videos_are_refused(tmp_path: Path) -> None:
    truncate(write_video(tmp_path / "cut.mp4", IMAGES), 0.5)
    (tmp_path / "text.mkv").write_text("not a video")
    (tmp_path / "page.mp4").write_text("<!DOCTYPE html><html></html>")
    (tmp_path / "lfs.mp4").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    (tmp_path / "list.mp4").write_text(
        "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n"
    )
    for name, problem in (
        ("cut.mp4", "a recording that was cut has no index"),
        ("text.mkv", "cannot be read: "),
        ("page.mp4", "is an HTML page, not the file"),
        ("lfs.mp4", "is a Git LFS pointer, not the file"),
        ("list.mp4", "cannot be read: "),
    ):
        with pytest.raises(SourceError, match=problem) as error:
            open_source(tmp_path / name)
        assert name in str(error.value)


def test_audio_without_video_is_refused(tmp_path: Path) -> None:
    import av

    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=48000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 48000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(SourceError, match="a.mp4 cannot be read: it contains no video"):
        open_source(tmp_path / "a.mp4")
