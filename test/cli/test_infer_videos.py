"""`infer` of videos, folders, patterns, and with a legend."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from support.images import noise_image
from support.videos import truncate, write_video

av = pytest.importorskip("av", reason="needs PyAV")

from mtl_perception import Pipeline
from mtl_perception.batch.overlay_video import write_overlay_video
from mtl_perception.errors import SourceError
from mtl_perception.labels import STREET
from mtl_perception.sources.open import open_source
from mtl_perception.visualization.colors import with_legend

HEIGHT, WIDTH = 64, 96
FILES = ("labels.png", "depth.png", "color.png", "overlay.png", "ply")


@pytest.fixture(scope="module")
def pipe(weights_file: Path) -> Pipeline:
    return Pipeline(weights=weights_file, device="cpu", backend="torch", warm_up=False)


def images(count: int) -> list[np.ndarray]:
    return [noise_image(HEIGHT, WIDTH, seed) for seed in range(count)]


def decode(path: Path) -> tuple[list[np.ndarray], list[float]]:
    """Return images and times in s."""
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    return [frame.to_ndarray(format="rgb24") for frame in frames], [frame.time for frame in frames]


def read(path: Path) -> np.ndarray:
    pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert pixels is not None
    return pixels


def difference(first: np.ndarray, second: np.ndarray) -> float:
    """Mean absolute difference, which compression keeps low."""
    return float(np.abs(first.astype(int) - second).mean())


def test_overlay_video_has_the_frames_and_times_of_the_video(tmp_path, infer, pipe):
    times = [0, 100, 200, 600, 650]
    video = write_video(tmp_path / "drive.mkv", images(5), times_ms=times)
    code, lines = infer(video, "--out", tmp_path / "out")
    assert code == 0
    assert lines[-1] == f"5 frames -> {tmp_path / 'out' / 'drive.overlay.mp4'}"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["drive.overlay.mp4"]
    shown, seconds = decode(tmp_path / "out" / "drive.overlay.mp4")
    assert seconds == pytest.approx([time / 1000 for time in times], abs=1e-4)
    expected = [pipe(frame, {"labels", "image"}).overlay() for frame in open_source(video)]
    for number, image in enumerate(shown):
        distances = [difference(image, overlay) for overlay in expected]
        assert distances[number] == min(distances) < 12
        assert distances[number] < 0.6 * sorted(distances)[1]


def test_frames_are_saved_under_number_and_time(tmp_path, infer, pipe):
    video = write_video(tmp_path / "drive.mp4", images(3), times_ms=[0, 40, 1250])
    assert infer(video, "--out", tmp_path / "out", "--frames")[0] == 0
    stems = ("000000_0.000s", "000001_0.040s", "000002_1.250s")
    folder = tmp_path / "out" / "drive"
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        ["classes.json", *(f"{stem}.{name}" for stem in stems for name in FILES)]
    )
    for stem, frame in zip(stems, open_source(video), strict=True):
        np.testing.assert_array_equal(read(folder / f"{stem}.labels.png"), pipe(frame).labels)
    assert len(decode(tmp_path / "out" / "drive.overlay.mp4")[0]) == 3


def test_truncated_video_keeps_what_was_readable_and_the_other_files_follow(tmp_path, infer):
    video = truncate(write_video(tmp_path / "a.mkv", images(36)), 0.6)
    cv2.imwrite(str(tmp_path / "b.png"), noise_image(HEIGHT, WIDTH, 0))
    code, lines = infer(video, tmp_path / "b.png", "--out", tmp_path / "out")
    assert code == 1
    shown, seconds = decode(tmp_path / "out" / "a.overlay.mp4")
    assert 12 <= len(shown) < 36 and seconds == pytest.approx([index / 10 for index in range(len(shown))], abs=1e-4)
    (line,) = (line for line in lines if "is truncated" in line)
    assert line.startswith(f"mtl_perception infer: video {video} is truncated: it ends after ")
    assert line.endswith(f" s of 3.6 s; the {len(shown)} frames before it are in {tmp_path / 'out' / 'a.overlay.mp4'}")
    assert lines[-1] == f"mtl_perception infer: 1 of 2 files failed; the results of the others are in {tmp_path / 'out'}"
    assert (tmp_path / "out" / "b.labels.png").is_file()


def test_interrupted_video_has_the_frames_until_then(tmp_path, pipe):
    video = write_video(tmp_path / "a.mp4", images(3))

    def interrupted():
        yield from list(open_source(video))[:2]
        raise KeyboardInterrupt

    with pytest.raises(SourceError, match=r"^interrupted; the 2 frames before it are in .*out\.mp4$"):
        write_overlay_video(interrupted(), 10.0, pipe, tmp_path / "out.mp4")
    assert decode(tmp_path / "out.mp4")[1] == pytest.approx([0.0, 0.1])


def test_failure_before_the_first_frame_writes_no_video(tmp_path, pipe):
    def broken():
        raise SourceError("the disk is gone")
        yield

    with pytest.raises(SourceError, match=r"^the disk is gone$"):
        write_overlay_video(broken(), 10.0, pipe, tmp_path / "out.mp4")
    assert list(tmp_path.iterdir()) == []


def test_folders_and_patterns_yield_images_and_videos(tmp_path, infer):
    (tmp_path / "in").mkdir()
    for name in ("f10.png", "f9.png"):
        cv2.imwrite(str(tmp_path / "in" / name), noise_image(HEIGHT, WIDTH, 0))
    write_video(tmp_path / "in" / "f9.mp4", images(2))
    (tmp_path / "in" / "x.heic").write_bytes(b"x")
    code, lines = infer(tmp_path / "in", "--out", tmp_path / "folder")
    assert code == 0
    assert f"{tmp_path / 'in'}: 1 file skipped: x.heic; supported: JPEG, PNG, TIFF, BMP, WebP and GIF" in lines
    names = {path.name for path in (tmp_path / "folder").iterdir()}
    assert {"f9.labels.png", "f10.labels.png", "f9.overlay.mp4"} <= names
    assert infer(tmp_path / "in" / "f1*.png", tmp_path / "i*" / "*.mp4", "--out", tmp_path / "glob")[0] == 0
    names = {path.name for path in (tmp_path / "glob").iterdir()}
    assert names == {"classes.json", "f9.overlay.mp4", *(f"f10.{name}" for name in FILES)}
    code, lines = infer(tmp_path / "in" / "z*.png", "--out", tmp_path / "none")
    assert (code, lines) == (1, [f"mtl_perception infer: {tmp_path / 'in' / 'z*.png'}: no file matches this pattern"])


def test_videos_of_one_name_are_rejected(tmp_path, infer):
    for name in ("a.mp4", "a.mkv"):
        write_video(tmp_path / name, images(1))
    code, lines = infer(tmp_path, "--out", tmp_path / "out")
    assert (code, len(lines)) == (1, 1)
    assert "2 videos are named 'a'" in lines[0]


def test_legend_is_below_the_overlay_and_covers_nothing(tmp_path, infer, pipe):
    image = noise_image(HEIGHT, 320, 0)
    cv2.imwrite(str(tmp_path / "a.png"), image[..., ::-1])
    write_video(tmp_path / "v.mp4", [image])
    assert infer(tmp_path / "a.png", tmp_path / "v.mp4", "--out", tmp_path / "out", "--show-legend")[0] == 0
    overlay = pipe(image).overlay()
    shown = read(tmp_path / "out" / "a.overlay.png")[..., ::-1]
    assert shown.shape[0] > HEIGHT and shown.shape[1] == 320
    np.testing.assert_array_equal(shown[:HEIGHT], overlay)
    np.testing.assert_array_equal(shown, with_legend(overlay, STREET))
    for color in STREET.colors:
        assert (shown[HEIGHT:] == color).all(axis=2).sum() >= 36, "a patch of at least 6 x 6 pixels"
    assert read(tmp_path / "out" / "a.labels.png").shape == (HEIGHT, 320)
    (frame,), _ = decode(tmp_path / "out" / "v.overlay.mp4")
    assert abs(frame.shape[0] - shown.shape[0]) <= 1
    assert difference(frame[HEIGHT + 2 : shown.shape[0]], shown[HEIGHT + 2 :]) < 6
