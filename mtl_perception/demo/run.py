"""Run of the demo: play a drive to the node, record its outputs, and present the recording."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from pathlib import Path

from mtl_perception.config import Config, parameters
from mtl_perception.demo.page import write_page
from mtl_perception.demo.processes import Child, wait_for
from mtl_perception.demo.recording import Recording, write_rerun
from mtl_perception.errors import SourceError
from mtl_perception.pipeline import Pipeline
from mtl_perception.sources.open import open_source
from mtl_perception.types import Frame
from mtl_perception.visualization.files import partial_path
from mtl_perception.visualization.rerun import RerunOptions

MARGIN = 1.6
"""Factor between the period of a frame and the pipeline's time, because player and recorder use the same cores."""
FILES = ("recording.mcap", "recording.partial.mcap", "video.mp4", "cloud.ply", "index.html", "images", "log")
"""Everything that the demo leaves in its folder, without the recording for Rerun."""


def run_demo(
    drive: str,
    out: Path,
    config: Config,
    rate: float | None,
    *,
    show_legend: bool,
    rerun: Path | None,
    rerun_options: RerunOptions,
) -> None:
    """Run node, player and recorder, then write video, cloud and page from the recording.

    Args:
        drive: Source to play; see `open_source`.
        out: Output folder; an earlier demo in it is replaced.
        config: Parameters of the node.
        rate: Playback rate relative to real time; None chooses the rate that this machine can process, at most 1.
        show_legend: Whether to append a legend of the classes below the video.
        rerun: Recording to write for Rerun; None for none.
        rerun_options: Its content.

    Raises:
        SourceError: The drive cannot be read, or `out` contains other files or is not a folder.
        PerceptionError: A process failed, or the node published nothing.
    """
    _print_step(1, f"loading the network and the drive ({drive})")
    source = open_source(drive, rectified=config.input_rectified)
    first = next(iter(source), None)
    if first is None:
        raise SourceError(f"{drive}: contains no images")
    pipeline = Pipeline(config=config)
    rate = rate or _affordable_rate(pipeline, first, source.rate_hz)
    seconds = len(source) / source.rate_hz / rate
    domain = _unused_domain()
    pace = f"{source.rate_hz * rate:.1f} Hz ({rate:.2f} x real time, {seconds:.0f} s)"
    _print_step(2, f"playing {len(source)} frames at {pace} in ROS domain {domain}")
    _prepare(out, rerun)
    _run_processes(drive, out, config, rate, seconds + 60 + 3 * len(source), domain)
    _print_step(3, "writing video, cloud and page")
    if rerun is not None:
        write_rerun(out / "recording.mcap", rerun, pipeline, rerun_options)
    write_page(out, drive, source, rate, pipeline, Recording(out / "recording.mcap"), show_legend=show_legend, rerun=rerun)
    _print_step(4, "done:")
    for path in (*(out / name for name in ("index.html", "video.mp4", "cloud.ply", "recording.mcap")), rerun):
        if path is not None:
            print(f"    {path}")


def _print_step(number: int, text: str) -> None:
    print(f"[{number}/4] {text}", flush=True)


def _affordable_rate(pipeline: Pipeline, frame: Frame, rate_hz: float) -> float:
    """Return the playback rate that the pipeline can keep up with on this machine, at most real time."""
    pipeline(frame)
    started = time.monotonic()
    pipeline(frame)
    return min(1.0, 1 / (rate_hz * (time.monotonic() - started) * MARGIN))


def _prepare(out: Path, rerun: Path | None = None) -> None:
    """Create an empty folder, or empty that of an earlier demo."""
    if out.exists():
        if not out.is_dir():
            raise SourceError(f"{out} is not a folder; choose another --out")
        is_inside = rerun is not None and rerun.absolute().parent == out.absolute()
        files = {*FILES, *((rerun.name, partial_path(rerun).name) if rerun and is_inside else ())}
        names = {path.name for path in out.iterdir()}
        if others := names - files:
            raise SourceError(f"{out} contains other files ({min(others)}); choose another --out")
        # Its first file; others, such as images, are names that anybody may use.
        if names and not (out / "log" / "recorder.log").is_file():
            raise SourceError(f"{out} is not the folder of an earlier demo; choose another --out")
        shutil.rmtree(out)
    out.mkdir(parents=True)


def _unused_domain() -> int:
    """Return a domain other than the user's, so that other ROS nodes neither disturb the demo nor receive its topics."""
    domain = 1 + os.getpid() % 100
    return domain % 100 + 1 if str(domain) == os.environ.get("ROS_DOMAIN_ID", "0") else domain


def _run_processes(drive: str, out: Path, config: Config, rate: float, timeout: float, domain: int) -> None:
    log = out / "log"
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
    play = ["play", drive, "--rate", str(rate), "--stamps", "now", "--subscribers", "2"]
    if drive.startswith("synthetic"):
        play.append("--preload")
    children: list[Child] = []
    try:
        # The node needs seconds to load, during which there are only diagnostics.
        record = ["record", "--out", str(out / "recording.mcap"), "--force", "--start-on", "/image"]
        recorder = Child("recorder", record, log, env)
        children.append(recorder)
        node = Child("node", ["node", "--ros-args", *settings], log, env)
        children.append(node)
        player = Child("player", play, log, env, quiet=not sys.stderr.isatty())
        children.append(player)
        wait_for(player, [node, recorder], timeout)
        # The node still processes the last frame.
        time.sleep(2.0 + 1.0 / rate / 10)
    finally:
        for child in reversed(children):
            child.stop()
    recorder.has_finished()


def _yaml(value: object) -> str:
    return str(value) if isinstance(value, str) else json.dumps(value)
