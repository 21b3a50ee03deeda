"""Videos: encoding, letterboxing, panels and errors."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from mtl_perception.errors import ConfigError, DependencyError, FrameError, SourceError
from mtl_perception.visualization import video as video_module
from mtl_perception.visualization.video import VideoWriter, letterbox, side_by_side


def decode(path: Path) -> tuple[list[np.ndarray], float]:
    av = pytest.importorskip("av")
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264" and stream.codec_context.pix_fmt == "yuv420p"
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)], float(stream.average_rate)


def test_video_decodes_to_the_written_images(tmp_path: Path) -> None:
    pytest.importorskip("av")
    colors = [(200, 40, 40), (40, 160, 60), (50, 60, 190)]
    with VideoWriter(tmp_path / "video.mp4", 10.0) as writer:
        for color in colors:
            writer.write(np.broadcast_to(np.uint8(color), (61, 101, 3)))
    assert writer.count == 3
    frames, rate = decode(tmp_path / "video.mp4")
    assert rate == pytest.approx(10.0)
    assert [frame.shape for frame in frames] == [(62, 102, 3)] * 3
    for frame, color in zip(frames, colors, strict=True):
        assert np.abs(frame.astype(int) - color).max() <= 8
    data = (tmp_path / "video.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat"), (
        "the index must come first so that playback starts before the whole file is loaded"
    )
    assert [file.name for file in tmp_path.iterdir()] == ["video.mp4"]


def test_images_of_another_size_are_letterboxed(tmp_path: Path) -> None:
    pytest.importorskip("av")
    with VideoWriter(tmp_path / "video.mp4", 5.0) as writer:
        writer.write(np.full((64, 128, 3), 250, np.uint8))
        writer.write(np.full((128, 64, 3), 250, np.uint8))
    frames, _ = decode(tmp_path / "video.mp4")
    assert frames[1].shape == (64, 128, 3)
    assert frames[1][32, 64].min() > 235 and frames[1][:, :40].max() < 60 and frames[1][:, 88:].max() < 60


def test_no_images_write_no_video(tmp_path: Path) -> None:
    pytest.importorskip("av")
    with VideoWriter(tmp_path / "video.mp4", 5.0):
        pass
    assert list(tmp_path.iterdir()) == []


def test_error_leaves_no_partial_video(tmp_path: Path) -> None:
    pytest.importorskip("av")
    (tmp_path / "video.mp4").write_bytes(b"old")
    with pytest.raises(FrameError, match="not an H x W x 3 uint8"), VideoWriter(tmp_path / "video.mp4", 5.0) as writer:
        writer.write(np.zeros((8, 8, 3), np.uint8))
        writer.write(np.zeros((8, 8), np.uint8))
    assert [file.name for file in tmp_path.iterdir()] == ["video.mp4"]
    assert (tmp_path / "video.mp4").read_bytes() == b"old"


def test_error_of_the_caller_is_not_wrapped(tmp_path: Path) -> None:
    pytest.importorskip("av")
    with pytest.raises(FileNotFoundError, match="the drive"), VideoWriter(tmp_path / "video.mp4", 5.0) as writer:
        writer.write(np.zeros((8, 8, 3), np.uint8))
        raise FileNotFoundError("the drive")
    assert list(tmp_path.iterdir()) == []


def test_video_errors_name_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("av")
    with pytest.raises(ConfigError, match="frame rate"):
        VideoWriter(tmp_path / "video.mp4", 0.0)
    (tmp_path / "file").write_text("")
    inside_a_file = tmp_path / "file" / "video.mp4"
    with pytest.raises(SourceError, match="cannot write .*video.mp4"), VideoWriter(inside_a_file, 5.0) as writer:
        writer.write(np.zeros((8, 8, 3), np.uint8))
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(DependencyError, match=r"pip install 'mtl_perception\[video\]'"):
        video_module.VideoWriter(tmp_path / "video.mp4", 5.0)


def test_letterbox_repeats_a_single_missing_row_and_column() -> None:
    image = np.arange(27, dtype=np.uint8).reshape(3, 3, 3)
    boxed = letterbox(image, 4, 4)
    np.testing.assert_array_equal(boxed[:3, :3], image)
    np.testing.assert_array_equal(boxed[3, :3], image[2])
    np.testing.assert_array_equal(boxed[:3, 3], image[:, 2])


@pytest.mark.parametrize(
    ("size", "max_width", "shape"),
    [((40, 100), 1280, (40 * 3 + 8, 100)), ((40, 60), 1280, (40, 60 * 3 + 8)), ((200, 800), 400, (100 * 3 + 8, 400))],
)
def test_wide_images_are_stacked(size: tuple[int, int], max_width: int, shape: tuple[int, int]) -> None:
    height, width = size
    image, depth = np.full((height, width, 3), 90, np.uint8), np.full((height, width, 3), 160, np.uint8)
    smaller = np.full((height // 2, width // 2, 3), 220, np.uint8)
    joined = side_by_side(image, smaller, depth, max_width)
    assert joined.shape == (*shape, 3)
    stacked = width > 2 * height
    ends = (joined[-1, -1], joined[shape[0] // 2 + 15, -1] if stacked else joined[-1, shape[1] // 2 + 15])
    assert (ends[0] == 160).all() and (ends[1] == 220).all()
    assert (image == 90).all(), "the caller's images must not be modified"


def test_images_with_stamps_are_shown_at_their_times(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    start = 1_700_000_000_123_456_789
    with VideoWriter(tmp_path / "video.mp4", 10.0) as writer:
        for milliseconds in (0, 40, 41, 41, 900, 5000):
            writer.write(np.full((64, 128, 3), 100, np.uint8), start + milliseconds * 1_000_000)
    with av.open(str(tmp_path / "video.mp4")) as container:
        times = [frame.time for frame in container.decode(video=0)]
    assert times == pytest.approx([0, 0.04, 0.041, 0.041, 0.9, 5.0], abs=1e-4)
    assert all(after > before for before, after in pairwise(times))
