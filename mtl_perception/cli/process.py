"""`process`: the node's outputs for every frame of one or more sources, without ROS."""

from __future__ import annotations

import argparse
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING

from mtl_perception.cli.options import (
    add_parameters,
    add_rerun_options,
    config_from,
    print_license,
    print_notes,
    rerun_options,
)
from mtl_perception.errors import ConfigError, SourceError, require
from mtl_perception.messages.topics import OUTPUT_TOPICS, RECORDED_TOPICS
from mtl_perception.progress import progress_bar
from mtl_perception.sources.base import TimeSlice, rejection_note
from mtl_perception.sources.files import is_pattern

if TYPE_CHECKING:
    from mtl_perception.batch.settings import Settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add sources, output, topics and calibration."""
    omitted = [row.name for row in OUTPUT_TOPICS if row.redundant]
    parser.add_argument(
        "sources",
        nargs="*",
        metavar="SOURCE",
        help="ROS 1 or ROS 2 bag, KITTI raw drive, image folder, video, synthetic[:FRAMES[:SEED]], "
        "or pattern such as 'recordings/*.mcap'",
    )
    parser.add_argument(
        "--out",
        required=True,
        metavar="BAG|DIR",
        help="MCAP bag to write: NAME.mcap, or a bag folder; for several sources, or with a / at the end: "
        "folder for a bag of each source and results.jsonl. A run continues where the one before ended",
    )
    parser.add_argument("--list", type=Path, metavar="FILE", help="file with further sources or patterns, one on each line")
    parser.add_argument(
        "--jobs",
        type=int,
        metavar="N",
        help="number of sources processed at the same time (default: 1, or with --ray what the cluster has room for)",
    )
    parser.add_argument(
        "--ray",
        nargs="?",
        const=os.environ.get("RAY_ADDRESS", "local"),
        metavar="ADDRESS",
        help="process on a Ray cluster: HOST:PORT, auto (the cluster of this machine) or local (start one for this run) "
        "(default: RAY_ADDRESS, else local)",
    )
    parser.add_argument(
        "--worker-memory",
        type=float,
        default=1.3,
        metavar="GIB",
        help="memory to request of Ray for each worker (default: 1.3)",
    )
    parser.add_argument(
        "--shard", metavar="I/N", help="process only the I-th of N parts of the list of sources, such as 1/8 to 8/8"
    )
    parser.add_argument("--start", type=float, default=0.0, metavar="SECONDS", help="skip the beginning of each source")
    parser.add_argument(
        "--duration", type=float, default=math.inf, metavar="SECONDS", help="process only this much of each source"
    )
    parser.add_argument("--image", default="", metavar="TOPIC", help="image topic; required if the bag has several")
    parser.add_argument(
        "--camera-info", default="", metavar="TOPIC", help="CameraInfo topic (default: sibling of the image topic)"
    )
    parser.add_argument("--camera", type=Path, metavar="FILE", help="calibration file that replaces the source's CameraInfo")
    parser.add_argument(
        "--images",
        action="store_true",
        help="write a data set for train and eval instead of a bag: a folder with image, label, depth and dataset.yaml",
    )
    parser.add_argument("--with-input", action="store_true", help="also write the images and their CameraInfo")
    parser.add_argument(
        "--topics",
        nargs="+",
        default=RECORDED_TOPICS,
        choices=[row.name for row in OUTPUT_TOPICS],
        metavar="TOPIC",
        help=f"outputs to write, such as segmentation/labels (default: all except {', '.join(omitted)})",
    )
    parser.add_argument("--force", action="store_true", help="replace existing outputs")
    add_rerun_options(
        parser, "FILE.rrd|DIR", "also write a recording for Rerun (docs/view.md): a file, or a folder for one of each source"
    )
    add_parameters(parser)


def run(args: argparse.Namespace) -> None:
    """Process every frame of each source, in its order."""
    if not (0 <= args.start < math.inf and args.duration > 0):
        raise ConfigError(f"--start {args.start:g} --duration {args.duration:g}: give a start from 0 and a duration above 0")
    if args.images and (args.with_input or args.topics is not RECORDED_TOPICS):
        raise ConfigError("--images writes images, labels and depth only; omit --topics and --with-input")
    from mtl_perception.batch.settings import Settings

    settings = Settings(
        config_from(args, warm_up=False),
        args.topics,
        args.with_input,
        TimeSlice(args.start, args.duration),
        args.camera,
        args.image,
        args.camera_info,
        args.images,
        args.rerun,
        rerun_options(args),
    )
    if args.rerun is not None and (args.rerun.suffix == ".rrd") == _is_folder(args):
        expected = "a folder for the recordings of several sources" if _is_folder(args) else "FILE.rrd"
        raise ConfigError(f"--rerun {args.rerun}: give {expected}")
    if _is_folder(args):
        _run_many(args, settings)
    else:
        _run_one(args, settings)


def _is_folder(args: argparse.Namespace) -> bool:
    """Return whether --out is a folder of outputs and not an output."""
    out = Path(args.out)
    options = (args.list, args.jobs, args.shard, args.ray)
    many = len(args.sources) != 1 or is_pattern(args.sources[0]) or any(option is not None for option in options)
    return many or (out / "results.jsonl").is_file() or (args.out.endswith("/") and not (out / "metadata.yaml").is_file())


def _run_one(args: argparse.Namespace, settings: Settings) -> None:
    from mtl_perception.batch.outputs import create_pipeline, write_outputs
    from mtl_perception.batch.record import describe_settings

    (spec,), out = args.sources, Path(args.out)
    source = settings.open(spec)
    if not args.images:
        require("rosbags", extra="bags", purpose="writing bags")
    described = describe_settings(settings)
    pipeline = create_pipeline(settings.config)
    print_license(pipeline.description)
    with progress_bar(total=settings.part.count(source), unit="frame") as bar:
        for frames in write_outputs(source, spec, pipeline, out, settings, described, force=args.force):  # noqa: B007
            bar.update()
    print_notes(pipeline)
    print(f"{frames} frames{rejection_note(source)} -> {out}")


def _run_many(args: argparse.Namespace, settings: Settings) -> None:
    from mtl_perception.batch.cluster import Cluster, import_ray
    from mtl_perception.batch.plan import expand_patterns, make_plan, parse_shard, read_list
    from mtl_perception.batch.progress import SKIPPED
    from mtl_perception.batch.results import DONE, FAILED, ResultsFile
    from mtl_perception.batch.run import run_tasks
    from mtl_perception.weights.metadata import read_description
    from mtl_perception.weights.registry import resolve

    folder = Path(args.out)
    if args.jobs is not None and args.jobs < 1:
        raise ConfigError(f"--jobs {args.jobs}: give 1 or more")
    cluster = None if args.ray is None else Cluster(args.ray, args.worker_memory)
    shard = parse_shard(args.shard) if args.shard is not None else (1, 1)
    sources = expand_patterns([*args.sources, *(read_list(args.list) if args.list else [])])
    if not sources:
        raise ConfigError("no source given; give SOURCE… or --list FILE")
    if folder.suffix == ".mcap" or (folder / "metadata.yaml").is_file():
        raise ConfigError(f"--out {folder} is a bag; give a folder for the bags of several sources")
    if cluster is not None:
        import_ray(cluster.address)
    if not args.images:
        require("rosbags", extra="bags", purpose="writing bags")
    description = read_description(resolve(settings.config.weights))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SourceError(f"output folder {folder} cannot be created: {error.strerror}") from error
    results = ResultsFile(folder)
    tasks = make_plan(sources, folder, settings.part, results.read(), shard, "" if args.images else ".mcap")
    print_license(description)
    counts = run_tasks(settings, tasks, results, jobs=args.jobs, cluster=cluster, force=args.force)
    print(f"{counts[DONE]} done, {counts[SKIPPED]} skipped, {counts[FAILED]} failed of {len(tasks)} sources -> {folder}")
    if counts[FAILED]:
        raise SourceError(f"{counts[FAILED]} of {len(tasks)} sources failed; the reasons are in {results.path}")
