"""Video, point cloud and report page of the demo's recording."""

from __future__ import annotations

import platform
import shlex
from importlib.metadata import version
from pathlib import Path

from mtl_perception.demo.recording import Recording
from mtl_perception.errors import PerceptionError
from mtl_perception.inference.machine import device_name
from mtl_perception.pipeline import Pipeline
from mtl_perception.progress import progress_bar
from mtl_perception.sources.base import Source
from mtl_perception.visualization.colors import colorize_depth, with_legend
from mtl_perception.visualization.report import ReportData, write_report
from mtl_perception.visualization.video import VideoWriter, side_by_side


def write_page(
    out: Path,
    drive: str,
    source: Source,
    rate: float,
    pipeline: Pipeline,
    recording: Recording,
    *,
    show_legend: bool = True,
    rerun: Path | None = None,
) -> None:
    """Write video.mp4, cloud.ply and index.html.

    Args:
        out: Folder of the demo.
        drive: Name of the source as given by the user.
        source: The source that was played.
        rate: Playback rate relative to real time.
        pipeline: Pipeline with the node's weights and parameters.
        recording: Recording of the run.
        show_legend: Whether to append a legend of the classes below the video.
        rerun: Recording for Rerun that was written; None for none.

    Raises:
        PerceptionError: The node published nothing.
    """
    topics = recording.topics()
    count = next((row.messages for row in topics if row.name.endswith("/depth/image")), 0)
    if count == 0:
        raise PerceptionError(f"the node published nothing; see {out / 'log' / 'node.log'}")
    middle = 0
    # The video runs in real time whatever the playback rate was.
    with VideoWriter(out / "video.mp4", max(source.rate_hz * count / len(source), 1.0)) as video:
        for index, frame in enumerate(progress_bar(recording.frames(), total=count, unit="frame")):
            depth = colorize_depth(frame.depth, pipeline.max_depth)
            panels = side_by_side(frame.image, frame.overlay, depth)
            video.write(with_legend(panels, pipeline.class_set) if show_legend else panels)
            if index == count // 2:
                middle = frame.stamp_ns
    description = pipeline.description
    synthetic = drive.startswith("synthetic")
    facts = {
        "Drive": "procedural street" if synthetic else source.name,
        "Playback rate": f"{rate:.2f} x real time",
        "Weights": f"{description.name}; {description.license}",
        "Device": f"{pipeline.device}, {pipeline.precision}; {device_name(pipeline.device)}",
        "Versions": f"mtl_perception {version('mtl_perception')}, torch {version('torch')}, Python {platform.python_version()}",
    }
    notes = [
        "Latency is the time from the publication of an image to the arrival of the output at the recorder, which is another "
        "process. Player, node and recorder share the cores of this machine.",
    ]
    if synthetic:
        notes.append(
            "The images are procedural; weights trained on real streets are less accurate on them than on real images."
        )
    if rate < 1:
        notes.append(
            f"The drive was played {1 / rate:.1f} times slower than real time, as fast as this machine can process it."
        )
    write_report(
        out,
        ReportData(
            title=f"mtl_perception: {facts['Drive']}",
            class_set=pipeline.class_set,
            max_depth=pipeline.max_depth,
            facts=facts,
            card=str(description.card.get("what", "")),
            cloud=recording.cloud(middle),
            cloud_caption=f"frame {count // 2 + 1} of {count}",
            files=("recording.mcap", "cloud.ply", "video.mp4", *([rerun.name] if rerun and rerun.parent == out else [])),
            viewer_command=shlex.join(["python", "-m", "mtl_perception", "view", str(rerun or out / "recording.mcap")]),
            topics=topics,
            counts=recording.counts(),
            notes=notes,
        ),
    )
