"""The page that shows a run: a folder that opens in any browser from disk and needs nothing else."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from importlib import resources
from pathlib import Path
from string import Template
from urllib.parse import quote

import cv2
import numpy as np

from mtl_perception.errors import SourceError
from mtl_perception.labels import ClassSet
from mtl_perception.visualization.cloud import EYE, TARGET, finite_points, label_colors_of, render_cloud, rgb_of, write_ply
from mtl_perception.visualization.colors import depth_scale
from mtl_perception.visualization.files import replacing

MAX_VIEWER_POINTS = 120_000
POSITION_STEP = 0.004
"""Meters; the viewer's positions are whole multiples of it in 16 bits, which reaches 131 m."""


@dataclass(frozen=True)
class TopicRow:
    """What was recorded of one topic.

    Attributes:
        name: Full name.
        type: Message type, as in `sensor_msgs/msg/Image`.
        messages: How many.
        rate_hz: By their stamps; None when there were fewer than two.
        latency_median_ms: From the stamp to its arrival; None where that says nothing.
        latency_p95_ms: The same, 95th percentile.
    """

    name: str
    type: str
    messages: int
    rate_hz: float | None = None
    latency_median_ms: float | None = None
    latency_p95_ms: float | None = None


@dataclass(frozen=True)
class ReportFrame:
    """One frame to show.

    Attributes:
        caption: Which one it is.
        pictures: By caption ("camera", "segmentation", "depth", …), H x W x 3 uint8 RGB each.
    """

    caption: str
    pictures: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class ReportData:
    """All that the page says. Any text may hold any characters.

    Attributes:
        title: Heading.
        class_set: The classes of the labels.
        max_depth: End of the depth colors, meters.
        min_depth: Start of the depth colors, meters; 0: `max_depth` / 40.
        facts: What ran: source, weights, license, device, versions …, in the order to show.
        card: The weights' description, one paragraph; "" for none.
        frames: Frames to show.
        cloud: Array of CLOUD_DTYPE for the viewer and `cloud.ply`; None for none.
        cloud_caption: Of which frame it is.
        video: The video's path inside the folder; "" for none.
        files: Paths inside the folder to link to, files or folders; those that are absent are left out.
        topics: What was recorded.
        counts: The node's own diagnostics.
        notes: What a reader should know to judge the result.
    """

    title: str
    class_set: ClassSet
    max_depth: float
    min_depth: float = 0.0
    facts: Mapping[str, str] = field(default_factory=dict)
    card: str = ""
    frames: Sequence[ReportFrame] = ()
    cloud: np.ndarray | None = None
    cloud_caption: str = ""
    video: str = "video.mp4"
    files: Sequence[str] = ("recording.mcap", "cloud.ply", "video.mp4")
    topics: Sequence[TopicRow] = ()
    counts: Mapping[str, object] = field(default_factory=dict)
    notes: Sequence[str] = ()


def write_report(out_dir: str | Path, data: ReportData) -> Path:
    """Write the page with its pictures, and the cloud as `cloud.ply` and for the viewer.

    Args:
        out_dir: The folder; video and recording, if any, are in it already.
        data: What to show.

    Returns:
        `out_dir`/index.html.

    Raises:
        FrameError: `data.cloud` is no cloud.
        ConfigError: The depth range is empty.
        SourceError: Something cannot be written.
    """
    out = Path(out_dir)
    _write_picture(out / "pictures" / "depth_scale.png", depth_scale(data.max_depth, data.min_depth, 720))
    sections = [
        _video(out, data.video),
        _cloud(out, data),
        _frames(out, data.frames),
        _topics(data.topics),
        _pairs("Node diagnostics", {name: str(value) for name, value in data.counts.items()}),
        _notes(data.notes),
        _downloads(out, data.files),
    ]
    page = Template(_resource("report.html")).substitute(
        title=escape(data.title),
        facts=_definitions(data.facts),
        card=f'<p class="card">{escape(data.card)}</p>' if data.card else "",
        classes=_legend(data.class_set),
        sections="\n".join(section for section in sections if section),
    )
    index = out / "index.html"
    with replacing(index) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return index


def _resource(name: str) -> str:
    return (resources.files(__package__) / name).read_text(encoding="utf-8")


def _section(heading: str, body: str) -> str:
    return f"<section>\n<h2>{escape(heading)}</h2>\n{body}\n</section>"


def _definitions(pairs: Mapping[str, str]) -> str:
    rows = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(str(value))}</dd></div>" for name, value in pairs.items())
    return f"<dl>{rows}</dl>" if rows else ""


def _pairs(heading: str, pairs: Mapping[str, str]) -> str:
    return _section(heading, _definitions(pairs)) if pairs else ""


def _legend(class_set: ClassSet) -> str:
    chips = (
        f'<li><span style="background:rgb{color}"></span>{escape(name)}</li>'
        for name, color in zip(class_set.names, class_set.colors, strict=True)
    )
    return f'<ul class="legend">{"".join(chips)}</ul>'


def _video(out: Path, name: str) -> str:
    if not name or not (out / name).is_file():
        return ""
    return _section("Video", f'<video controls muted loop autoplay playsinline src="{_link(name)}"></video>')


def _frames(out: Path, frames: Sequence[ReportFrame]) -> str:
    figures = []
    for number, frame in enumerate(frames):
        shown = []
        for position, (caption, picture) in enumerate(frame.pictures.items()):
            name = f"pictures/frame{number}_{position}.jpg"
            _write_picture(out / name, picture)
            height, width = picture.shape[:2]
            shown.append(
                f'<figure><a href="{name}"><img src="{name}" width="{width}" height="{height}" alt="{escape(caption)}"></a>'
                f"<figcaption>{escape(caption)}</figcaption></figure>"
            )
        figures.append(f'<h3>{escape(frame.caption)}</h3>\n<div class="frame">{"".join(shown)}</div>')
    scale = '<img class="scale" src="pictures/depth_scale.png" width="720" height="52" alt="depth scale in meters">'
    return _section("Frames", "\n".join([scale, *figures])) if figures else ""


def _topics(topics: Sequence[TopicRow]) -> str:
    if not topics:
        return ""
    headings = ("topic", "type", "messages", "rate, Hz", "latency, ms", "p95, ms")
    rows = [
        (
            f"<code>{escape(topic.name)}</code>",
            f"<code>{escape(topic.type)}</code>",
            str(topic.messages),
            *(_number(value) for value in (topic.rate_hz, topic.latency_median_ms, topic.latency_p95_ms)),
        )
        for topic in topics
    ]
    head = "".join(f"<th>{heading}</th>" for heading in headings)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return _section("Topics", f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>')


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


def _notes(notes: Sequence[str]) -> str:
    items = "".join(f"<li>{escape(note)}</li>" for note in notes)
    return _section("Notes", f'<ul class="notes">{items}</ul>') if items else ""


def _downloads(out: Path, names: Sequence[str]) -> str:
    items = []
    for name in names:
        path = out / name
        if path.exists():
            size = sum(file.stat().st_size for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file())
            items.append(f'<li><a href="{_link(name)}">{escape(name)}</a> <small>{size / 1e6:.1f} MB</small></li>')
    return _section("Files", f'<ul class="files">{"".join(items)}</ul>') if items else ""


def _link(name: str) -> str:
    # "./" keeps a name with a colon from being read as a scheme.
    return escape("./" + quote(name))


def _cloud(out: Path, data: ReportData) -> str:
    if data.cloud is None:
        return ""
    write_ply(out / "cloud.ply", data.cloud)
    _write_picture(out / "pictures" / "cloud.jpg", render_cloud(data.cloud))
    _write_picture(out / "pictures" / "cloud_labels.jpg", render_cloud(data.cloud, class_set=data.class_set))
    points = finite_points(data.cloud)
    total = len(points)
    if total > MAX_VIEWER_POINTS:
        points = _thin(points)
    with replacing(out / "pictures" / "cloud.js") as temporary:
        temporary.write_text(_viewer_data(points, data.class_set), encoding="utf-8")
    with replacing(out / "viewer.js") as temporary:
        temporary.write_text(_resource("viewer.js"), encoding="utf-8")
    shown = f"{len(points):,} of {total:,} points" if len(points) < total else f"{total:,} points"
    caption = f"{data.cloud_caption}: {shown}" if data.cloud_caption else shown
    return _section("Point cloud", Template(_resource("viewer.html")).substitute(caption=escape(caption)))


def _thin(points: np.ndarray) -> np.ndarray:
    """MAX_VIEWER_POINTS of the points: by chance, as every n-th would leave stripes; far ones rather, as they lie sparser."""
    places = np.stack([points["x"], points["y"], points["z"]], axis=-1).astype(np.float64)
    weights = np.sqrt(np.linalg.norm(places, axis=-1) + 0.01)
    chosen = np.random.default_rng(0).choice(len(points), MAX_VIEWER_POINTS, replace=False, p=weights / weights.sum())
    thinned: np.ndarray = points[np.sort(chosen)]
    return thinned


def _viewer_data(points: np.ndarray, class_set: ClassSet) -> str:
    places = np.stack([points["x"], points["y"], points["z"]], axis=-1)
    steps = np.clip(np.rint(places / POSITION_STEP), -32767, 32767).astype("<i2")
    values = {
        "count": len(points),
        "step": POSITION_STEP,
        "eye": EYE,
        "target": TARGET,
        "positions": _base64(steps),
        "rgb": _base64(rgb_of(points)),
        "label": _base64(label_colors_of(points, class_set)),
    }
    return f"window.CLOUD = {json.dumps(values)};\n"


def _base64(values: np.ndarray) -> str:
    return base64.b64encode(values.tobytes()).decode("ascii")


def _write_picture(path: Path, picture: np.ndarray) -> None:
    """Write an RGB picture, as JPEG or PNG by the path's ending."""
    written, data = cv2.imencode(path.suffix, cv2.cvtColor(np.ascontiguousarray(picture), cv2.COLOR_RGB2BGR))
    if not written:
        raise SourceError(f"cannot encode {path}")
    with replacing(path) as temporary:
        temporary.write_bytes(data.tobytes())
