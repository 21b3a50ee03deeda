"""`process`: the node's outputs for every frame of a bag, without ROS."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mtl_perception.cli.options import add_parameters, config_from, print_license, print_notes
from mtl_perception.errors import PerceptionError, SourceError, require
from mtl_perception.messages.encode import MessageEncoder
from mtl_perception.messages.topics import OUTPUT_TOPICS, RECORDED_TOPICS, needed_results
from mtl_perception.progress import progress_bar
from mtl_perception.sources.base import rejection_note
from mtl_perception.types import Frame


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add source, output bag, topics and calibration."""
    omitted = [row.name for row in OUTPUT_TOPICS if row.redundant]
    parser.add_argument(
        "source", metavar="SOURCE", help="ROS 1 or ROS 2 bag, KITTI raw drive, image folder, or synthetic:FRAMES:SEED"
    )
    parser.add_argument("--out", required=True, type=Path, metavar="BAG", help="MCAP bag to write: NAME.mcap, or a bag folder")
    parser.add_argument("--image", default="", metavar="TOPIC", help="image topic; required if the bag has several")
    parser.add_argument(
        "--camera-info", default="", metavar="TOPIC", help="CameraInfo topic (default: sibling of the image topic)"
    )
    parser.add_argument("--camera", type=Path, metavar="FILE", help="calibration file that replaces the source's CameraInfo")
    parser.add_argument("--with-input", action="store_true", help="also write the images and their CameraInfo")
    parser.add_argument(
        "--topics",
        nargs="+",
        default=RECORDED_TOPICS,
        choices=[row.name for row in OUTPUT_TOPICS],
        metavar="TOPIC",
        help=f"outputs to write, such as segmentation/labels (default: all except {', '.join(omitted)})",
    )
    parser.add_argument("--force", action="store_true", help="replace an existing bag")
    add_parameters(parser)


def run(args: argparse.Namespace) -> None:
    """Process every frame in the order of the bag."""
    from mtl_perception.pipeline import Pipeline
    from mtl_perception.sources.open import open_source

    config = config_from(args, warm_up=False)
    source = open_source(
        args.source,
        rectified=config.input_rectified,
        camera_file=args.camera,
        image_topic=args.image,
        camera_info_topic=args.camera_info,
    )
    require("rosbags", extra="bags", purpose="writing bags")
    from mtl_perception.sources.bag.result_writer import ResultWriter
    from mtl_perception.sources.bag.writer import BagWriter

    pipeline = Pipeline(config=config, reuse_outputs=True)
    print_license(pipeline.description)
    outputs = needed_results(args.topics)
    with BagWriter(args.out, force=args.force) as bag:
        encoder = MessageEncoder(pipeline.class_set, config.overlay_opacity, config.min_confidence)
        writer = ResultWriter(bag, encoder, args.with_input, args.topics)
        try:
            for time_ns, frame in progress_bar(_timed_frames(source), total=len(source), unit="frame"):
                writer.write(time_ns, frame, pipeline(frame, outputs))
        except (Exception, KeyboardInterrupt) as error:
            if not writer.frames or str(bag.partial) in str(error):
                raise
            raise SourceError(f"{_cause(error)}; the {writer.frames} frames before it are in {bag.partial}") from error
        note = rejection_note(source)
        if not writer.frames:
            raise SourceError(f"{args.source}: no frame was processed{note}")
    print_notes(pipeline)
    print(f"{writer.frames} frames{note} -> {args.out}")


def _cause(error: BaseException) -> str:
    if isinstance(error, PerceptionError):
        return str(error)
    return "interrupted" if isinstance(error, KeyboardInterrupt) else f"{type(error).__name__}: {error}"


def _timed_frames(source: Any) -> Iterator[tuple[int, Frame]]:
    """Yield bag time and frame; for sources other than bags, the stamp is the time."""
    if hasattr(source, "timed_frames"):
        yield from source.timed_frames()
    else:
        for frame in source:
            yield frame.stamp_ns, frame
