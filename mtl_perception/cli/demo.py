"""`demo`: node, player and recorder as real ROS 2 processes, and a page that shows what came of it."""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import sys
import time
from importlib.metadata import version
from pathlib import Path

from mtl_perception.cli.options import add_parameters, config_from
from mtl_perception.cli.processes import Child, wait_for
from mtl_perception.cli.recording import Recording
from mtl_perception.config import Config, parameters
from mtl_perception.errors import ConfigError, PerceptionError, SourceError
from mtl_perception.inference.machine import device_name
from mtl_perception.pipeline import Pipeline
from mtl_perception.sources.base import Source
from mtl_perception.sources.open import open_source
from mtl_perception.types import Frame
from mtl_perception.visualization.cloud import render_cloud
from mtl_perception.visualization.colors import colorize_depth
from mtl_perception.visualization.report import ReportData, ReportFrame, write_report
from mtl_perception.visualization.video import VideoWriter, side_by_side

SYNTHETIC = "synthetic:40:6"
SHOWN_FRAMES = 4
MARGIN = 1.6
"""A frame may take this many times what the pipeline alone needs: player and recorder use the same cores."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to drive through, and where to leave the result."""
    parser.add_argument(
        "--drive", default=SYNTHETIC, metavar="SOURCE", help=f"KITTI raw drive, picture folder, bag, or {SYNTHETIC} (default)"
    )
    parser.add_argument("--out", type=Path, default=Path("demo"), metavar="DIR", help="folder for the result; default demo")
    parser.add_argument(
        "--rate", type=float, metavar="R", help="speed of the drive; default: real time, or what this machine keeps up with"
    )
    add_parameters(parser)


def run(args: argparse.Namespace) -> int:
    """Run the three processes, then make video, cloud and page of the recording."""
    if args.rate is not None and not args.rate > 0:
        raise ConfigError(f"--rate must be above 0, not {args.rate}")
    config = config_from(args)
    _say(1, f"loading the network and the drive ({args.drive})")
    source = open_source(args.drive, rectified=config.input_rectified)
    first = next(iter(source), None)
    if first is None:
        raise SourceError(f"{args.drive}: no pictures in it")
    pipeline = Pipeline(config=config)
    rate = args.rate or _rate_for(pipeline, first, source.rate_hz)
    seconds = len(source) / source.rate_hz / rate
    domain = _own_domain()
    pace = f"{source.rate_hz * rate:.1f} Hz ({rate:.2f} x real time, {seconds:.0f} s)"
    _say(2, f"{len(source)} frames at {pace}, in ROS domain {domain}")
    recording = args.out / "recording.mcap"
    _prepare(args.out)
    _run_processes(args, config, rate, seconds + 60 + 3 * len(source), recording, domain)
    _say(3, "making video, cloud and page")
    _make_page(args, source, rate, pipeline, Recording(recording))
    _say(4, "done. Look at:")
    for name in ("index.html", "video.mp4", "cloud.ply", "recording.mcap"):
        print(f"    {args.out / name}")
    return 0


def _say(step: int, text: str) -> None:
    print(f"[{step}/4] {text}", flush=True)


def _rate_for(pipeline: Pipeline, frame: Frame, rate_hz: float) -> float:
    """Real time, or as much of it as the pipeline keeps up with here."""
    pipeline(frame)
    started = time.monotonic()
    pipeline(frame)
    return min(1.0, 1 / (rate_hz * (time.monotonic() - started) * MARGIN))


def _prepare(out: Path) -> None:
    """An empty folder, unless it holds what is not ours."""
    ours = {"recording.mcap", "video.mp4", "cloud.ply", "viewer.js", "index.html", "pictures", "log"}
    if out.exists():
        others = {path.name for path in out.iterdir()} - ours if out.is_dir() else {out.name}
        if others:
            raise SourceError(f"{out} holds other things ({sorted(others)[0]}): choose another --out")
        shutil.rmtree(out)
    out.mkdir(parents=True)


def _own_domain() -> int:
    """A domain that is not the user's, so that another ROS on this machine or its network neither disturbs nor is disturbed."""
    domain = 1 + os.getpid() % 100
    return domain % 100 + 1 if str(domain) == os.environ.get("ROS_DOMAIN_ID", "0") else domain


def _run_processes(
    args: argparse.Namespace, config: Config, rate: float, patience: float, recording: Path, domain: int
) -> None:
    log = args.out / "log"
    env = {
        "ROS_DOMAIN_ID": str(domain),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
        "ROS_LOG_DIR": str((log / "ros").absolute()),
    }
    settings = [
        argument
        for row in parameters()
        if getattr(config, row.name) != row.default
        for argument in ("-p", f"{row.name}:={_yaml(getattr(config, row.name))}")
    ]
    play = ["play", args.drive, "--rate", str(rate), "--stamps", "now", "--subscribers", "2"]
    if args.drive.startswith("synthetic"):
        play.append("--preload")
    children: list[Child] = []
    try:
        recorder = Child("recorder", ["record", "--out", str(recording), "--force"], log, env)
        children.append(recorder)
        node = Child("node", ["node", "--ros-args", *settings], log, env)
        children.append(node)
        player = Child("player", play, log, env, quiet=not sys.stderr.isatty())
        children.append(player)
        wait_for(player, [node, recorder], patience)
        # The last frame is still in work.
        time.sleep(2.0 + 1.0 / rate / 10)
    finally:
        for child in reversed(children):
            child.stop()
    recorder.check()


def _yaml(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _make_page(args: argparse.Namespace, source: Source, rate: float, pipeline: Pipeline, recording: Recording) -> None:
    topics = recording.topics()
    count = next((row.messages for row in topics if row.name.endswith("/depth/image")), 0)
    if count == 0:
        raise PerceptionError(f"the node published nothing: see {args.out / 'log' / 'node.log'}")
    shown = {round(i * (count - 1) / max(SHOWN_FRAMES - 1, 1)) for i in range(SHOWN_FRAMES)}
    frames: list[ReportFrame] = []
    middle = 0
    # The drive in its own time, whatever the speed at which it was played.
    with VideoWriter(args.out / "video.mp4", max(source.rate_hz * count / len(source), 1.0)) as video:
        for index, frame in enumerate(recording.frames()):
            depth = colorize_depth(frame.depth, pipeline.max_depth)
            video.write(side_by_side(frame.picture, frame.overlay, depth))
            if index == count // 2:
                middle = frame.stamp_ns
            if index in shown:
                pictures = {"camera": frame.picture.copy(), "segmentation": frame.overlay.copy(), "depth": depth}
                cloud = recording.cloud(frame.stamp_ns)
                if cloud is not None:
                    height, width = depth.shape[:2]
                    pictures["points in class colors"] = render_cloud(cloud, (width, height), class_set=pipeline.class_set)
                frames.append(ReportFrame(f"frame {index + 1} of {count}", pictures))
    description = pipeline.description
    facts = {
        "Drive": "procedural street" if args.drive.startswith("synthetic") else source.name,
        "Speed": f"{rate:.2f} x real time",
        "Weights": f"{description.name}; {description.license}",
        "Device": f"{pipeline.device}, {pipeline.precision}; {device_name(pipeline.device)}",
        "Versions": f"mtl_perception {version('mtl_perception')}, torch {version('torch')}, Python {platform.python_version()}",
    }
    notes = [
        "Latency is from the picture's publication to the arrival of the output at the recorder, another process; "
        "player, node and recorder share this machine's cores.",
    ]
    if args.drive.startswith("synthetic"):
        notes.append("The pictures are procedural; weights trained on real streets label them worse than real pictures.")
    if rate < 1:
        notes.append(f"The drive was played {1 / rate:.1f} times slower than recorded, as fast as this machine keeps up with.")
    data = ReportData(
        title=f"mtl_perception: {facts['Drive']}",
        class_set=pipeline.class_set,
        max_depth=pipeline.max_depth,
        facts=facts,
        card=str(description.card.get("what", "")),
        frames=frames,
        cloud=recording.cloud(middle),
        cloud_caption=f"frame {count // 2 + 1} of {count}",
        topics=topics,
        counts=recording.counts(),
        notes=notes,
    )
    write_report(args.out, data)
