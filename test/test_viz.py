"""Colours, clouds, videos and the report page: what is in the files and pictures, to the value."""

from __future__ import annotations

import base64
import json
import math
import re
import struct
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtl_perception.errors import ConfigError, FrameError, SourceError
from mtl_perception.labels import STREET, ClassSet
from mtl_perception.types import CLOUD_DTYPE, UNLABELLED
from mtl_perception.viz import cloud as cloud_module
from mtl_perception.viz import video as video_module
from mtl_perception.viz.cloud import BACKGROUND, UNLABELLED_COLOR, render_cloud, write_ply
from mtl_perception.viz.colours import BEYOND_COLOR, colorize_depth, colorize_labels, depth_scale, legend, overlay
from mtl_perception.viz.files import replacing
from mtl_perception.viz.report import MAX_VIEWER_POINTS, ReportData, ReportFrame, TopicRow, write_report
from mtl_perception.viz.video import VideoWriter, letterbox, side_by_side

ROAD, SIDEWALK, VEHICLE = (128, 64, 128), (244, 35, 232), (0, 0, 142)


def make_cloud(points: list[tuple[float, float, float, int, int]]) -> np.ndarray:
    """A 1 x N cloud of (x, y, z, 0xRRGGBB, label)."""
    return np.array(points, CLOUD_DTYPE)[None]


# Labels


def test_labels_have_their_class_colours_and_void_is_black() -> None:
    labels = np.array([[0, 1, 11], [12, 254, 255]], np.uint8)
    expected = np.array([[ROAD, SIDEWALK, VEHICLE], [(0, 0, 0)] * 3], np.uint8)
    np.testing.assert_array_equal(colorize_labels(labels, STREET), expected)


def test_label_colours_of_views_and_into_a_buffer() -> None:
    labels = np.arange(48, dtype=np.uint8).reshape(6, 8) % 13
    view = labels[::-1, ::2]
    np.testing.assert_array_equal(colorize_labels(view, STREET), STREET.palette()[view])
    out = np.full((6, 8, 3), 77, np.uint8)
    assert colorize_labels(labels, STREET, out) is out
    np.testing.assert_array_equal(out, STREET.palette()[labels])


@pytest.mark.parametrize("labels", [np.zeros((4, 4), np.int32), np.zeros((4, 4, 1), np.uint8), np.zeros((0, 4), np.uint8)])
def test_what_is_not_a_label_picture_is_refused(labels: np.ndarray) -> None:
    with pytest.raises(FrameError, match="is not H x W uint8") as caught:
        colorize_labels(labels, STREET)
    assert caught.value.reason == "bad_labels"


def test_a_buffer_that_does_not_fit_is_refused() -> None:
    with pytest.raises(FrameError, match="C-contiguous"):
        colorize_labels(np.zeros((4, 4), np.uint8), STREET, np.zeros((4, 5, 3), np.uint8))


# Overlay


@settings(max_examples=40, deadline=None)
@given(opacity=st.floats(0.0, 1.0), seed=st.integers(0, 1000))
def test_overlay_is_the_nearest_whole_number_of_the_blend(opacity: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (7, 33, 3), dtype=np.uint8)
    labels = rng.choice(np.array([0, 1, 5, 11, 12, UNLABELLED], np.uint8), (7, 33))
    blended = overlay(image, labels, STREET, opacity)
    exact = (1 - opacity) * image + opacity * STREET.palette()[labels].astype(float)
    has_class = labels < len(STREET)
    assert np.abs(blended[has_class] - exact[has_class]).max(initial=0) <= 0.5 + 1e-4
    np.testing.assert_array_equal(blended[~has_class], image[~has_class])


def test_overlay_at_both_ends_of_opacity() -> None:
    image = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
    labels = np.zeros((4, 5), np.uint8)
    np.testing.assert_array_equal(overlay(image, labels, STREET, 0.0), image)
    np.testing.assert_array_equal(overlay(image, labels, STREET, 1.0), np.broadcast_to(np.uint8(ROAD), (4, 5, 3)))


def test_overlay_may_write_into_the_picture_itself() -> None:
    rng = np.random.default_rng(1)
    image = rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)
    labels = rng.choice(np.array([0, UNLABELLED], np.uint8), (5, 6))
    expected = overlay(image.copy(), labels, STREET, 0.3)
    assert overlay(image, labels, STREET, 0.3, out=image) is image
    np.testing.assert_array_equal(image, expected)


def test_overlay_leaves_its_inputs_alone() -> None:
    image = np.full((3, 4, 3), 9, np.uint8)
    labels = np.array([[0, 1, 2, UNLABELLED]] * 3, np.uint8)
    before = labels.copy()
    overlay(image, labels, STREET, 0.5)
    assert (image == 9).all()
    np.testing.assert_array_equal(labels, before)


def test_overlay_refuses_other_sizes_and_opacities() -> None:
    image, labels = np.zeros((4, 4, 3), np.uint8), np.zeros((4, 5), np.uint8)
    with pytest.raises(FrameError, match="size|picture is"):
        overlay(image, labels, STREET, 0.5)
    for opacity in (-0.1, 1.1, math.nan):
        with pytest.raises(ConfigError, match="outside 0 to 1"):
            overlay(image, labels[:, :4], STREET, opacity)


# Depth


def test_depth_without_a_value_and_beyond_the_range_have_colours_of_their_own() -> None:
    depth = np.array([[np.nan, np.inf, -np.inf, 0.0, -3.0]], np.float32)
    np.testing.assert_array_equal(colorize_depth(depth, 80.0)[0], [(0, 0, 0), BEYOND_COLOR, (0, 0, 0), (0, 0, 0), (0, 0, 0)])


def test_depth_colours_run_from_red_to_blue_by_ratios() -> None:
    depth = np.array([[2.0, math.sqrt(2.0 * 80.0), 80.0, 1.0, 500.0]], np.float32)
    near, middle, far, nearer, farther = colorize_depth(depth, 80.0)[0].astype(int)
    turbo = cv2.applyColorMap(np.array([[255, 128, 0]], np.uint8), cv2.COLORMAP_TURBO)[0, :, ::-1].astype(int)
    np.testing.assert_array_equal(near, turbo[0])
    assert np.abs(middle - turbo[1]).max() <= 6
    np.testing.assert_array_equal(far, turbo[2])
    assert near[0] > near[2] and far[2] > far[1]
    np.testing.assert_array_equal(nearer, near)
    np.testing.assert_array_equal(farther, far)


def test_depth_range_can_be_given() -> None:
    depth = np.array([[1.0, 9.0]], np.float32)
    np.testing.assert_array_equal(colorize_depth(depth, 9.0, 1.0), colorize_depth(depth * np.float32(2.0), 18.0, 2.0))


@pytest.mark.parametrize(("farthest", "nearest"), [(0.0, 0.0), (5.0, 5.0), (math.inf, 1.0), (math.nan, 1.0)])
def test_an_empty_depth_range_is_refused(farthest: float, nearest: float) -> None:
    with pytest.raises(ConfigError, match="empty or not finite"):
        colorize_depth(np.ones((2, 2), np.float32), farthest, nearest)


def test_depth_of_another_type_is_refused() -> None:
    with pytest.raises(FrameError, match="H x W float32"):
        colorize_depth(np.ones((2, 2), np.uint16), 80.0)


# Legend and scale


def test_legend_shows_every_class_colour() -> None:
    picture = legend(STREET, 400)
    assert picture.shape[1] == 400 and picture.dtype == np.uint8
    for color in STREET.colors:
        assert (picture == np.array(color, np.uint8)).all(axis=-1).sum() >= 100


def test_legend_of_a_narrow_picture_has_more_rows() -> None:
    assert legend(STREET, 160).shape[0] > legend(STREET, 640).shape[0]
    assert legend(ClassSet("odd", ("straße",), ((1, 2, 3),))).shape[1] == 640


def test_depth_scale_has_the_colours_of_the_depth_picture() -> None:
    picture = depth_scale(80.0, width=500)
    ends = colorize_depth(np.array([[2.0, 80.0]], np.float32), 80.0)[0]
    np.testing.assert_array_equal(picture[18, 14], ends[0])
    np.testing.assert_array_equal(picture[18, 485], ends[1])


# PLY


def test_ply_holds_the_finite_points_to_the_byte(tmp_path: Path) -> None:
    cloud = make_cloud(
        [(1.5, -2.0, 3.25, 0x0A141E, 7), (np.nan, 0, 1, 0xFFFFFF, 1), (0, 0, np.inf, 0, 2), (-1, 0, 9, 0xFF0080, 255)]
    )
    path = tmp_path / "new" / "cloud.ply"
    assert write_ply(path, cloud) == 2
    header, body = path.read_bytes().split(b"end_header\n", 1)
    lines = header.decode("ascii").splitlines()
    assert lines[:2] == ["ply", "format binary_little_endian 1.0"]
    assert "element vertex 2" in lines
    names = ["float x", "float y", "float z", "uchar red", "uchar green", "uchar blue", "int label"]
    assert [line for line in lines if line.startswith("property")] == [f"property {name}" for name in names]
    assert body == struct.pack("<3f3Bi", 1.5, -2, 3.25, 10, 20, 30, 7) + struct.pack("<3f3Bi", -1, 0, 9, 255, 0, 128, 255)


def test_ply_reads_back_in_open3d(tmp_path: Path) -> None:
    open3d = pytest.importorskip("open3d", reason="open3d is not installed")
    rng = np.random.default_rng(0)
    cloud = np.zeros((6, 9), CLOUD_DTYPE)
    for name in "xyz":
        cloud[name] = rng.normal(size=(6, 9))
    cloud["rgb"] = rng.integers(0, 1 << 24, (6, 9))
    cloud["label"] = rng.integers(0, 12, (6, 9))
    cloud["x"][2, 3] = np.nan
    kept = np.isfinite(cloud["x"])
    write_ply(tmp_path / "cloud.ply", cloud)
    read = open3d.t.io.read_point_cloud(str(tmp_path / "cloud.ply"))
    np.testing.assert_array_equal(read.point.positions.numpy(), np.stack([cloud[n][kept] for n in "xyz"], axis=-1))
    packed = cloud["rgb"][kept]
    np.testing.assert_array_equal(read.point.colors.numpy(), np.stack([packed >> 16, packed >> 8 & 255, packed & 255], axis=-1))
    np.testing.assert_array_equal(read.point.label.numpy().ravel(), cloud["label"][kept])


def test_ply_without_points_is_a_file_without_points(tmp_path: Path) -> None:
    assert write_ply(tmp_path / "empty.ply", make_cloud([(np.nan, np.nan, np.nan, 0, 0)])) == 0
    assert (tmp_path / "empty.ply").read_bytes().endswith(b"end_header\n")


def test_ply_refuses_another_array_and_a_bad_place(tmp_path: Path) -> None:
    with pytest.raises(FrameError, match="x y z rgb label"):
        write_ply(tmp_path / "cloud.ply", np.zeros((2, 3), np.float32))
    (tmp_path / "file").write_text("")
    with pytest.raises(SourceError, match="cannot write .*cloud.ply"):
        write_ply(tmp_path / "file" / "cloud.ply", make_cloud([(0, 0, 1, 0, 0)]))


def test_a_failed_write_keeps_the_old_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), replacing(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]
    assert path.read_text() == "old"


# Rendering


def render(points: list[tuple[float, float, float, int, int]], **options: object) -> np.ndarray:
    """200 x 100 pixels, from the origin along z."""
    return render_cloud(make_cloud(points), (200, 100), eye=(0, 0, 0), target=(0, 0, 1), **options)  # type: ignore[arg-type]


def test_near_points_hide_far_ones_whatever_their_order() -> None:
    near, far = (0.0, 0.0, 4.0, 0x00FF00, 0), (0.0, 0.0, 8.0, 0xFF0000, 0)
    for points in ([near, far], [far, near]):
        np.testing.assert_array_equal(render(points, point_size=0.3)[50, 100], (0, 255, 0))


def test_points_are_seen_where_they_project() -> None:
    # Focal length 100 / tan(30 deg) = 173.2 pixels: 1 m to the right and 0.5 m up, at 10 m, is 17 right and 9 up.
    picture = render([(1.0, -0.5, 10.0, 0xFFFFFF, 0)], point_size=0.3)
    v, u = np.nonzero((picture == 255).all(axis=-1))
    assert (round(u.mean()), round(v.mean())) == pytest.approx((117, 41), abs=1)


def test_points_behind_the_viewer_or_without_a_place_are_not_seen() -> None:
    points = [(0.0, 0.0, -5.0, 0xFFFFFF, 0), (np.nan, 0.0, 5.0, 0xFFFFFF, 0)]
    assert not (render(points) == 255).any()


def test_class_colours_and_points_without_a_class() -> None:
    picture = render([(-1.0, 0.0, 5.0, 0xFFFFFF, 1), (1.0, 0.0, 5.0, 0xFFFFFF, UNLABELLED)], class_set=STREET, point_size=0.5)
    np.testing.assert_array_equal(picture[50, 65], SIDEWALK)
    np.testing.assert_array_equal(picture[50, 134], UNLABELLED_COLOR)


def test_seen_from_above_forward_is_up() -> None:
    cloud = make_cloud([(0.0, 0.0, 5.0, 0xFF0000, 0), (0.0, 0.0, -5.0, 0x0000FF, 0)])
    picture = render_cloud(cloud, (100, 100), eye=(0, -20, 0), target=(0, 0, 0), point_size=1.0).astype(int)
    red = np.nonzero(picture[..., 0] - picture[..., 2] > 100)[0].mean()
    blue = np.nonzero(picture[..., 2] - picture[..., 0] > 100)[0].mean()
    assert red < 40 and blue > 60


def test_edges_in_depth_are_shaded() -> None:
    wall = [(x / 20, y / 20, 10.0, 0xFFFFFF, 0) for x in range(-60, 61) for y in range(-40, 41)]
    post = [(0.0, y / 20, 5.0, 0xFF0000, 0) for y in range(-20, 21)]
    picture = render(wall + post, point_size=0.2)
    beside_the_post = picture[50, 92:109]
    assert (picture[50, 70] == 255).all()
    assert beside_the_post[:, 1].max() == 255 and ((beside_the_post[:, 1] > 60) & (beside_the_post[:, 1] < 240)).any()


def test_an_empty_cloud_is_an_empty_picture() -> None:
    np.testing.assert_array_equal(render([(np.nan, 0, 0, 0, 0)]), np.broadcast_to(np.uint8(BACKGROUND), (100, 200, 3)))


# Video


def decode(path: Path) -> tuple[list[np.ndarray], float]:
    av = pytest.importorskip("av")
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264" and stream.codec_context.pix_fmt == "yuv420p"
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)], float(stream.average_rate)


def test_video_decodes_to_what_was_written(tmp_path: Path) -> None:
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
    assert data.index(b"moov") < data.index(b"mdat"), "the index must come first, so that playing starts at once"
    assert [file.name for file in tmp_path.iterdir()] == ["video.mp4"]


def test_pictures_of_another_size_are_letterboxed(tmp_path: Path) -> None:
    pytest.importorskip("av")
    with VideoWriter(tmp_path / "video.mp4", 5.0) as writer:
        writer.write(np.full((64, 128, 3), 250, np.uint8))
        writer.write(np.full((128, 64, 3), 250, np.uint8))
    frames, _ = decode(tmp_path / "video.mp4")
    assert frames[1].shape == (64, 128, 3)
    assert frames[1][32, 64].min() > 235 and frames[1][:, :40].max() < 60 and frames[1][:, 88:].max() < 60


def test_no_pictures_no_video(tmp_path: Path) -> None:
    pytest.importorskip("av")
    with VideoWriter(tmp_path / "video.mp4", 5.0):
        pass
    assert list(tmp_path.iterdir()) == []


def test_an_error_leaves_no_half_video(tmp_path: Path) -> None:
    pytest.importorskip("av")
    (tmp_path / "video.mp4").write_bytes(b"old")
    with pytest.raises(FrameError, match="not an H x W x 3 uint8"), VideoWriter(tmp_path / "video.mp4", 5.0) as writer:
        writer.write(np.zeros((8, 8, 3), np.uint8))
        writer.write(np.zeros((8, 8), np.uint8))
    assert [file.name for file in tmp_path.iterdir()] == ["video.mp4"]
    assert (tmp_path / "video.mp4").read_bytes() == b"old"


def test_an_error_of_the_caller_comes_through_as_it_is(tmp_path: Path) -> None:
    pytest.importorskip("av")
    with pytest.raises(FileNotFoundError, match="the drive"), VideoWriter(tmp_path / "video.mp4", 5.0) as writer:
        writer.write(np.zeros((8, 8, 3), np.uint8))
        raise FileNotFoundError("the drive")
    assert list(tmp_path.iterdir()) == []


def test_video_errors_say_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("av")
    with pytest.raises(ConfigError, match="pictures a second"):
        VideoWriter(tmp_path / "video.mp4", 0.0)
    (tmp_path / "file").write_text("")
    inside_a_file = tmp_path / "file" / "video.mp4"
    with pytest.raises(SourceError, match="cannot write .*video.mp4"), VideoWriter(inside_a_file, 5.0) as writer:
        writer.write(np.zeros((8, 8, 3), np.uint8))
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(SourceError, match="pip install av"):
        video_module.VideoWriter(tmp_path / "video.mp4", 5.0)


def test_letterbox_repeats_the_one_pixel_that_evenness_needs() -> None:
    picture = np.arange(27, dtype=np.uint8).reshape(3, 3, 3)
    boxed = letterbox(picture, 4, 4)
    np.testing.assert_array_equal(boxed[:3, :3], picture)
    np.testing.assert_array_equal(boxed[3, :3], picture[2])
    np.testing.assert_array_equal(boxed[:3, 3], picture[:, 2])


@pytest.mark.parametrize(
    ("size", "max_width", "shape"),
    [((40, 100), 1280, (40 * 3 + 8, 100)), ((40, 60), 1280, (40, 60 * 3 + 8)), ((200, 800), 400, (100 * 3 + 8, 400))],
)
def test_three_pictures_are_stacked_when_wide(size: tuple[int, int], max_width: int, shape: tuple[int, int]) -> None:
    height, width = size
    image, depth = np.full((height, width, 3), 90, np.uint8), np.full((height, width, 3), 160, np.uint8)
    smaller = np.full((height // 2, width // 2, 3), 220, np.uint8)
    joined = side_by_side(image, smaller, depth, max_width)
    assert joined.shape == (*shape, 3)
    stacked = width > 2 * height
    ends = (joined[-1, -1], joined[shape[0] // 2 + 15, -1] if stacked else joined[-1, shape[1] // 2 + 15])
    assert (ends[0] == 160).all() and (ends[1] == 220).all()
    assert (image == 90).all(), "captions belong on the joined picture, not on the caller's"


# Report


class Page(HTMLParser):
    """The tags, links and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href") and value]

    def handle_data(self, data: str) -> None:
        self.text += data


def example(**changes: object) -> ReportData:
    picture = np.full((30, 40, 3), 128, np.uint8)
    values = {
        "title": "a run",
        "class_set": STREET,
        "max_depth": 80.0,
        "facts": {"source": "drive 9"},
        "frames": [ReportFrame("frame 0", {"camera": picture, "depth": picture})],
        "cloud": make_cloud([(0.0, 1.0, 5.0, 0x102030, 0), (1.0, 1.0, 6.0, 0x405060, 11), (np.nan, 0, 0, 0, 0)]),
        "topics": [TopicRow("/a/b", "sensor_msgs/msg/Image", 12, 9.96, 81.24, None)],
        "counts": {"frames in": 12},
        "notes": ["an honest remark"],
    }
    return ReportData(**{**values, **changes})  # type: ignore[arg-type]


def test_report_says_what_it_was_given(tmp_path: Path) -> None:
    index = write_report(tmp_path, example(card="a card"))
    assert index == tmp_path / "index.html"
    page = Page(index.read_text(encoding="utf-8"))
    for text in ("a run", "drive 9", "a card", "frame 0", "/a/b", "sensor_msgs/msg/Image", "10.0", "81.2", "–", "frames in"):
        assert text in page.text
    for text in ("an honest remark", *STREET.names, "2 points"):
        assert text in page.text


def test_every_link_of_the_report_exists_inside_its_folder(tmp_path: Path) -> None:
    (tmp_path / "video.mp4").write_bytes(b"v")
    (tmp_path / "a: b#%.mcap").write_bytes(b"r" * 2_500_000)
    data = example(files=("a: b#%.mcap", "cloud.ply", "absent.mcap"))
    page = Page(write_report(tmp_path, data).read_text(encoding="utf-8"))
    assert {"pictures/frame0_0.jpg", "pictures/cloud.js", "viewer.js", "./video.mp4", "./cloud.ply"} <= set(page.links)
    for link in page.links:
        assert ":" not in link and not link.startswith("/")
        assert (tmp_path / unquote(link)).is_file(), link
    assert "2.5 MB" in page.text and "absent" not in page.text


def test_report_takes_nothing_from_outside(tmp_path: Path) -> None:
    write_report(tmp_path, example())
    for name in ("index.html", "viewer.js"):
        assert not re.search(r"https?:|//cdn|@import|url\(", (tmp_path / name).read_text(encoding="utf-8"))


def test_report_escapes_hostile_names(tmp_path: Path) -> None:
    hostile = "\"><script>alert('x')</script>$title&amp;"
    plain = Page(write_report(tmp_path / "plain", example()).read_text(encoding="utf-8"))
    picture = np.zeros((4, 4, 3), np.uint8)
    data = example(
        title=hostile,
        class_set=ClassSet(hostile, (hostile,), ((1, 2, 3),)),
        facts={hostile: hostile},
        frames=[ReportFrame(hostile, {hostile: picture, "b": picture})],
        cloud_caption=hostile,
        topics=[TopicRow(hostile, hostile, 1)],
        counts={hostile: hostile},
        notes=[hostile],
    )
    text = write_report(tmp_path / "hostile", data).read_text(encoding="utf-8")
    page = Page(text)
    assert page.tags.count("script") == plain.tags.count("script") == 2
    assert "<script>alert" not in text
    assert page.text.count(hostile) == 13 and set(page.links) == set(plain.links)


def test_report_without_anything_has_no_empty_sections(tmp_path: Path) -> None:
    page = Page(write_report(tmp_path, ReportData("empty", STREET, 80.0)).read_text(encoding="utf-8"))
    assert page.tags.count("section") == 0 and "script" not in page.tags


def test_viewer_data_gives_back_places_and_colours(tmp_path: Path) -> None:
    write_report(tmp_path, example())
    text = (tmp_path / "pictures" / "cloud.js").read_text(encoding="utf-8")
    values = json.loads(text.removeprefix("window.CLOUD = ").rstrip(";\n"))
    assert values["count"] == 2
    places = np.frombuffer(base64.b64decode(values["positions"]), "<i2").reshape(-1, 3) * values["step"]
    np.testing.assert_allclose(places, [(0, 1, 5), (1, 1, 6)], atol=values["step"] / 2)
    assert list(base64.b64decode(values["rgb"])) == [0x10, 0x20, 0x30, 0x40, 0x50, 0x60]
    assert list(base64.b64decode(values["label"])) == [*ROAD, *VEHICLE]


def test_viewer_gets_a_bounded_number_of_points_and_the_file_gets_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert MAX_VIEWER_POINTS <= 120_000
    monkeypatch.setattr("mtl_perception.viz.report.MAX_VIEWER_POINTS", 100)
    monkeypatch.setattr(cloud_module, "SUPERSAMPLING", 1)
    cloud = np.zeros(1000, CLOUD_DTYPE)
    cloud["z"] = np.linspace(2, 60, 1000)
    page = write_report(tmp_path, example(cloud=cloud)).read_text(encoding="utf-8")
    assert "100 of 1,000 points" in page
    text = (tmp_path / "pictures" / "cloud.js").read_text(encoding="utf-8")
    values = json.loads(text.removeprefix("window.CLOUD = ").rstrip(";\n"))
    places = np.frombuffer(base64.b64decode(values["positions"]), "<i2").reshape(-1, 3)
    assert len(np.unique(places[:, 2])) == values["count"] == 100
    assert b"element vertex 1000\n" in (tmp_path / "cloud.ply").read_bytes()
