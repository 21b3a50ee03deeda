"""Report page: content, links, escaping and images of the cloud."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import cv2
import numpy as np
from support.clouds import ROAD, VEHICLE, make_cloud

from mtl_perception.labels import STREET, ClassSet
from mtl_perception.visualization.report import ReportData, TopicRow, write_report


class Page(HTMLParser):
    """Tags, links and text of a page."""

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
    values = {
        "title": "a run",
        "class_set": STREET,
        "max_depth": 80.0,
        "facts": {"source": "drive 9"},
        "cloud": make_cloud([(0.0, 1.0, 5.0, 0x102030, 0), (1.0, 1.0, 6.0, 0x405060, 11), (np.nan, 0, 0, 0, 0)]),
        "topics": [TopicRow("/a/b", "sensor_msgs/msg/Image", 12, 9.96, 81.24, None)],
        "counts": {"frames in": 12},
        "viewer_command": "python -m mtl_perception view 'a run/recording.mcap'",
        "notes": ["a remark"],
    }
    return ReportData(**{**values, **changes})  # type: ignore[arg-type]


def test_report_contains_all_given_texts(tmp_path: Path) -> None:
    index = write_report(tmp_path, example(card="a card"))
    assert index == tmp_path / "index.html"
    page = Page(index.read_text(encoding="utf-8"))
    for text in ("a run", "drive 9", "a card", "/a/b", "sensor_msgs/msg/Image", "10.0", "81.2", "–", "frames in"):
        assert text in page.text
    for text in ("a remark", *STREET.names, "2 points", "python -m mtl_perception view 'a run/recording.mcap'"):
        assert text in page.text


def test_every_link_points_to_a_file_inside_the_folder(tmp_path: Path) -> None:
    (tmp_path / "video.mp4").write_bytes(b"v")
    (tmp_path / "a: b#%.mcap").write_bytes(b"r" * 2_500_000)
    data = example(files=("a: b#%.mcap", "cloud.ply", "absent.mcap"))
    page = Page(write_report(tmp_path, data).read_text(encoding="utf-8"))
    assert {"images/depth_scale.png", "images/cloud.jpg", "./video.mp4", "./cloud.ply"} <= set(page.links)
    for link in page.links:
        assert ":" not in link and not link.startswith("/")
        assert (tmp_path / unquote(link)).is_file(), link
    assert "2.5 MB" in page.text and "absent" not in page.text


def test_report_loads_no_external_resources(tmp_path: Path) -> None:
    page = write_report(tmp_path, example()).read_text(encoding="utf-8")
    assert not re.search(r"https?:|//cdn|@import|url\(|<script", page)


def test_report_escapes_hostile_names(tmp_path: Path) -> None:
    hostile = "\"><script>alert('x')</script>$title&amp;"
    plain = Page(write_report(tmp_path / "plain", example()).read_text(encoding="utf-8"))
    data = example(
        title=hostile,
        class_set=ClassSet(hostile, (hostile,), ((1, 2, 3),)),
        facts={hostile: hostile},
        cloud_caption=hostile,
        topics=[TopicRow(hostile, hostile, 1)],
        counts={hostile: hostile},
        notes=[hostile],
        viewer_command=hostile,
    )
    text = write_report(tmp_path / "hostile", data).read_text(encoding="utf-8")
    page = Page(text)
    assert "script" not in page.tags and "<script>alert" not in text
    assert page.text.count(hostile) == 12 and set(page.links) == set(plain.links)


def test_empty_report_has_no_sections(tmp_path: Path) -> None:
    page = Page(write_report(tmp_path, ReportData("empty", STREET, 80.0)).read_text(encoding="utf-8"))
    assert page.tags.count("section") == 0 and "script" not in page.tags


def test_images_of_the_cloud_have_image_colors_and_class_colors(tmp_path: Path) -> None:
    wall = [(x, y, 8.0, 0x20D0E0, label) for x, label in ((-2.0, 0), (2.0, 11)) for y in (-1.0, 0.0, 1.0)]
    write_report(tmp_path, example(cloud=make_cloud(wall)))
    names = ("cloud", "cloud_labels")
    shown = {name: cv2.imread(str(tmp_path / f"images/{name}.jpg")).reshape(-1, 3)[:, ::-1] for name in names}
    for name, color, expected in (
        ("cloud", (0x20, 0xD0, 0xE0), True),
        ("cloud", VEHICLE, False),
        ("cloud_labels", ROAD, True),
        ("cloud_labels", VEHICLE, True),
        ("cloud_labels", (0x20, 0xD0, 0xE0), False),
    ):
        found = (np.abs(shown[name].astype(int) - color).max(axis=1) <= 40).any()
        assert found == expected, (name, color)
    assert b"element vertex 6\n" in (tmp_path / "cloud.ply").read_bytes()
