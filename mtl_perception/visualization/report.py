"""Report page of a run: a self-contained folder that any browser opens from disk."""

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
"""Resolution of the viewer's 16-bit positions, meters; the range is 131 m."""


@dataclass(frozen=True)
class TopicRow:
    """Statistics of one recorded topic.

    Attributes:
        name: Fully qualified name.
        type: Message type, such as `sensor_msgs/msg/Image`.
        messages: Number of messages.
        rate_hz: Rate by stamps; None for fewer than two messages.
        latency_median_ms: Median time from stamp to arrival; None for messages without a header.
        latency_p95_ms: 95th percentile of the same.
    """

    name: str
    type: str
    messages: int
    rate_hz: float | None = None
    latency_median_ms: float | None = None
    latency_p95_ms: float | None = None


@dataclass(frozen=True)
class ReportFrame:
    """One frame of the page.

    Attributes:
        caption: Heading of the frame.
        images: H x W x 3 uint8 RGB by caption ("camera", "segmentation", "depth", …).
    """

    caption: str
    images: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class ReportData:
    """Content of the page. All texts are escaped.

    Attributes:
        title: Heading.
        class_set: Classes of the labels.
        max_depth: Upper end of the depth colors, meters.
        min_depth: Lower end of the depth colors, meters; 0 selects `max_depth` / 40.
        facts: Source, weights, license, device, versions and so on, in display order.
        card: Description of the weights, one paragraph; may be empty.
        frames: Frames to show.
        cloud: Array of CLOUD_DTYPE for the viewer and `cloud.ply`, or None.
        cloud_caption: Caption of the cloud, such as its frame.
        video: Path of the video inside the folder; "" for none.
        files: Paths of files or folders inside the folder to link to; missing ones are omitted.
        topics: Statistics of the recorded topics.
        counts: The node's counts from its diagnostics.
        notes: Remarks on the interpretation of the result.
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
    """Write the page with its images, `cloud.ply` and the data of the cloud viewer.

    Args:
        out_dir: Output folder; a video and a recording, if any, are already in it.
        data: Content of the page.

    Returns:
        Path of index.html.

    Raises:
        FrameError: `data.cloud` is not a cloud.
        ConfigError: The depth range is empty.
        SourceError: A file cannot be written.
    """
    out = Path(out_dir)
    _write_image(out / "images" / "depth_scale.png", depth_scale(data.max_depth, data.min_depth, 720))
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
        figure = []
        for position, (caption, image) in enumerate(frame.images.items()):
            name = f"images/frame{number}_{position}.jpg"
            _write_image(out / name, image)
            height, width = image.shape[:2]
            figure.append(
                f'<figure><a href="{name}"><img src="{name}" width="{width}" height="{height}" alt="{escape(caption)}"></a>'
                f"<figcaption>{escape(caption)}</figcaption></figure>"
            )
        figures.append(f'<h3>{escape(frame.caption)}</h3>\n<div class="frame">{"".join(figure)}</div>')
    scale = '<img class="scale" src="images/depth_scale.png" width="720" height="52" alt="depth scale in meters">'
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
    # Without "./", a name with a colon would be parsed as a URL scheme.
    return escape("./" + quote(name))


def _cloud(out: Path, data: ReportData) -> str:
    if data.cloud is None:
        return ""
    write_ply(out / "cloud.ply", data.cloud)
    _write_image(out / "images" / "cloud.jpg", render_cloud(data.cloud))
    _write_image(out / "images" / "cloud_labels.jpg", render_cloud(data.cloud, class_set=data.class_set))
    points = finite_points(data.cloud)
    total = len(points)
    if total > MAX_VIEWER_POINTS:
        points = _subsample(points)
    with replacing(out / "images" / "cloud.js") as temporary:
        temporary.write_text(_viewer_data(points, data.class_set), encoding="utf-8")
    with replacing(out / "viewer.js") as temporary:
        temporary.write_text(_resource("viewer.js"), encoding="utf-8")
    count = f"{len(points):,} of {total:,} points" if len(points) < total else f"{total:,} points"
    caption = f"{data.cloud_caption}: {count}" if data.cloud_caption else count
    return _section("Point cloud", Template(_resource("viewer.html")).substitute(caption=escape(caption)))


def _subsample(points: np.ndarray) -> np.ndarray:
    """Return MAX_VIEWER_POINTS points.

    They are random, because a regular stride leaves stripes, and favor distant points, which are sparser.
    """
    positions = np.stack([points["x"], points["y"], points["z"]], axis=-1).astype(np.float64)
    weights = np.sqrt(np.linalg.norm(positions, axis=-1) + 0.01)
    chosen = np.random.default_rng(0).choice(len(points), MAX_VIEWER_POINTS, replace=False, p=weights / weights.sum())
    subsampled: np.ndarray = points[np.sort(chosen)]
    return subsampled


def _viewer_data(points: np.ndarray, class_set: ClassSet) -> str:
    positions = np.stack([points["x"], points["y"], points["z"]], axis=-1)
    steps = np.clip(np.rint(positions / POSITION_STEP), -32767, 32767).astype("<i2")
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


def _write_image(path: Path, image: np.ndarray) -> None:
    """Write an RGB image in the format of the path's suffix."""
    written, data = cv2.imencode(path.suffix, cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2BGR))
    if not written:
        raise SourceError(f"cannot encode {path}")
    with replacing(path) as temporary:
        temporary.write_bytes(data.tobytes())
