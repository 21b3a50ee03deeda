"""Report page of a run: a self-contained folder that any browser opens from disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from importlib import resources
from pathlib import Path
from string import Template
from urllib.parse import quote

import numpy as np

from mtl_perception.labels import ClassSet
from mtl_perception.visualization.cloud import render_cloud, write_ply
from mtl_perception.visualization.colors import depth_scale
from mtl_perception.visualization.files import replacing
from mtl_perception.visualization.image_files import write_image


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
class ReportData:
    """Content of the page. All texts are escaped.

    Attributes:
        title: Heading.
        class_set: Classes of the labels.
        max_depth: Upper end of the depth colors, meters.
        facts: Source, weights, license, device, versions and so on, in display order.
        card: Description of the weights, one paragraph; may be empty.
        cloud: Array of CLOUD_DTYPE for two images and `cloud.ply`, or None.
        cloud_caption: Caption of the cloud, such as its frame.
        video: Path of the video inside the folder; "" for none.
        files: Paths of files or folders inside the folder to link to; missing ones are omitted.
        viewer_command: Command that opens the recording in a viewer; "" for none.
        topics: Statistics of the recorded topics.
        counts: The node's counts from its diagnostics.
        notes: Remarks on the interpretation of the result.
    """

    title: str
    class_set: ClassSet
    max_depth: float
    facts: Mapping[str, str] = field(default_factory=dict)
    card: str = ""
    cloud: np.ndarray | None = None
    cloud_caption: str = ""
    video: str = "video.mp4"
    files: Sequence[str] = ("recording.mcap", "cloud.ply", "video.mp4")
    viewer_command: str = ""
    topics: Sequence[TopicRow] = ()
    counts: Mapping[str, object] = field(default_factory=dict)
    notes: Sequence[str] = ()


def write_report(out_dir: str | Path, data: ReportData) -> Path:
    """Write the page with its images, and `cloud.ply`.

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
    sections = [
        _video(out, data),
        _cloud(out, data),
        _topics(data.topics),
        _pairs("Node diagnostics", {name: str(value) for name, value in data.counts.items()}),
        _notes(data.notes),
        _files(out, data.files, data.viewer_command),
    ]
    template = (resources.files(__package__) / "report.html").read_text(encoding="utf-8")
    page = Template(template).substitute(
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


def _video(out: Path, data: ReportData) -> str:
    if not data.video or not (out / data.video).is_file():
        return ""
    scale = depth_scale(data.max_depth, 720)
    player = f'<video controls muted loop autoplay playsinline src="{_link(data.video)}"></video>'
    return _section("Video", f"{player}\n{_figure(out, 'images/depth_scale.png', scale, 'depth, meters')}")


def _cloud(out: Path, data: ReportData) -> str:
    if data.cloud is None:
        return ""
    count = write_ply(out / "cloud.ply", data.cloud)
    figures = [
        _figure(out, "images/cloud.jpg", render_cloud(data.cloud), "image colors"),
        _figure(out, "images/cloud_labels.jpg", render_cloud(data.cloud, class_set=data.class_set), "class colors"),
    ]
    caption = escape(", ".join(filter(None, (data.cloud_caption, f"{count:,} points"))))
    return _section("Point cloud", f'<p class="caption">{caption}</p>\n<div class="figures">{"".join(figures)}</div>')


def _figure(out: Path, name: str, image: np.ndarray, caption: str) -> str:
    """Write an RGB image in the format of the name's suffix, and return the element that shows it."""
    write_image(out / name, image)
    height, width = image.shape[:2]
    return (
        f'<figure><a href="{name}"><img src="{name}" width="{width}" height="{height}" alt="{escape(caption)}"></a>'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


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


def _files(out: Path, names: Sequence[str], viewer_command: str) -> str:
    items = []
    for name in names:
        path = out / name
        if path.exists():
            size = sum(file.stat().st_size for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file())
            items.append(f'<li><a href="{_link(name)}">{escape(name)}</a> <small>{size / 1e6:.1f} MB</small></li>')
    body = [f'<ul class="files">{"".join(items)}</ul>'] if items else []
    if viewer_command:
        body.append(f"<p>Every frame with its cloud, in the Rerun viewer:</p>\n<pre>{escape(viewer_command)}</pre>")
    return _section("Files", "\n".join(body)) if body else ""


def _link(name: str) -> str:
    # Without "./", a name with a colon would be parsed as a URL scheme.
    return escape("./" + quote(name))
