"""Report page: content, links, escaping and the data of the cloud viewer."""

from __future__ import annotations

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from support.clouds import ROAD, VEHICLE, make_cloud

from mtl_perception.labels import STREET, ClassSet
from mtl_perception.types import CLOUD_DTYPE
from mtl_perception.visualization import cloud as cloud_module
from mtl_perception.visualization.report import MAX_VIEWER_POINTS, ReportData, ReportFrame, TopicRow, write_report


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
    image = np.full((30, 40, 3), 128, np.uint8)
    values = {
        "title": "a run",
        "class_set": STREET,
        "max_depth": 80.0,
        "facts": {"source": "drive 9"},
        "frames": [ReportFrame("frame 0", {"camera": image, "depth": image})],
        "cloud": make_cloud([(0.0, 1.0, 5.0, 0x102030, 0), (1.0, 1.0, 6.0, 0x405060, 11), (np.nan, 0, 0, 0, 0)]),
        "topics": [TopicRow("/a/b", "sensor_msgs/msg/Image", 12, 9.96, 81.24, None)],
        "counts": {"frames in": 12},
        "notes": ["a remark"],
    }
    return ReportData(**{**values, **changes})  # type: ignore[arg-type]


def test_report_contains_all_given_texts(tmp_path: Path) -> None:
    index = write_report(tmp_path, example(card="a card"))
    assert index == tmp_path / "index.html"
    page = Page(index.read_text(encoding="utf-8"))
    for text in ("a run", "drive 9", "a card", "frame 0", "/a/b", "sensor_msgs/msg/Image", "10.0", "81.2", "–", "frames in"):
        assert text in page.text
    for text in ("a remark", *STREET.names, "2 points"):
        assert text in page.text


def test_every_link_points_to_a_file_inside_the_folder(tmp_path: Path) -> None:
    (tmp_path / "video.mp4").write_bytes(b"v")
    (tmp_path / "a: b#%.mcap").write_bytes(b"r" * 2_500_000)
    data = example(files=("a: b#%.mcap", "cloud.ply", "absent.mcap"))
    page = Page(write_report(tmp_path, data).read_text(encoding="utf-8"))
    assert {"images/frame0_0.jpg", "images/cloud.js", "viewer.js", "./video.mp4", "./cloud.ply"} <= set(page.links)
    for link in page.links:
        assert ":" not in link and not link.startswith("/")
        assert (tmp_path / unquote(link)).is_file(), link
    assert "2.5 MB" in page.text and "absent" not in page.text


def test_report_loads_no_external_resources(tmp_path: Path) -> None:
    write_report(tmp_path, example())
    for name in ("index.html", "viewer.js"):
        assert not re.search(r"https?:|//cdn|@import|url\(", (tmp_path / name).read_text(encoding="utf-8"))


def test_report_escapes_hostile_names(tmp_path: Path) -> None:
    hostile = "\"><script>alert('x')</script>$title&amp;"
    plain = Page(write_report(tmp_path / "plain", example()).read_text(encoding="utf-8"))
    image = np.zeros((4, 4, 3), np.uint8)
    data = example(
        title=hostile,
        class_set=ClassSet(hostile, (hostile,), ((1, 2, 3),)),
        facts={hostile: hostile},
        frames=[ReportFrame(hostile, {hostile: image, "b": image})],
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


def test_empty_report_has_no_sections(tmp_path: Path) -> None:
    page = Page(write_report(tmp_path, ReportData("empty", STREET, 80.0)).read_text(encoding="utf-8"))
    assert page.tags.count("section") == 0 and "script" not in page.tags


def test_viewer_data_decode_to_positions_and_colors(tmp_path: Path) -> None:
    write_report(tmp_path, example())
    text = (tmp_path / "images" / "cloud.js").read_text(encoding="utf-8")
    values = json.loads(text.removeprefix("window.CLOUD = ").rstrip(";\n"))
    assert values["count"] == 2
    positions = np.frombuffer(base64.b64decode(values["positions"]), "<i2").reshape(-1, 3) * values["step"]
    np.testing.assert_allclose(positions, [(0, 1, 5), (1, 1, 6)], atol=values["step"] / 2)
    assert list(base64.b64decode(values["rgb"])) == [0x10, 0x20, 0x30, 0x40, 0x50, 0x60]
    assert list(base64.b64decode(values["label"])) == [*ROAD, *VEHICLE]


def test_viewer_subsamples_points_and_the_ply_keeps_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert MAX_VIEWER_POINTS <= 120_000
    monkeypatch.setattr("mtl_perception.visualization.report.MAX_VIEWER_POINTS", 100)
    monkeypatch.setattr(cloud_module, "SUPERSAMPLING", 1)
    cloud = np.zeros(1000, CLOUD_DTYPE)
    cloud["z"] = np.linspace(2, 60, 1000)
    page = write_report(tmp_path, example(cloud=cloud)).read_text(encoding="utf-8")
    assert "100 of 1,000 points" in page
    text = (tmp_path / "images" / "cloud.js").read_text(encoding="utf-8")
    values = json.loads(text.removeprefix("window.CLOUD = ").rstrip(";\n"))
    positions = np.frombuffer(base64.b64decode(values["positions"]), "<i2").reshape(-1, 3)
    assert len(np.unique(positions[:, 2])) == values["count"] == 100
    assert b"element vertex 1000\n" in (tmp_path / "cloud.ply").read_bytes()
