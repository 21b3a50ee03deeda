"""`process`: the node's outputs for every frame of a bag, offline."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtl_perception.camera.model import Calibration
from mtl_perception.cli.options import add_parameters, config_from
from mtl_perception.errors import PerceptionError, SourceError
from mtl_perception.messages.encode import Fields, MessageEncoder, camera_info_fields, image_fields
from mtl_perception.messages.topics import CAMERA_INFO, IMAGE, LABEL_INFO, NODE_NAME, OUTPUT_TOPICS, needed_results
from mtl_perception.progress import progress_bar
from mtl_perception.sources.bag.messages import LABEL_INFO_DEFINITIONS, header, to_bag_message
from mtl_perception.types import Frame

if TYPE_CHECKING:
    from mtl_perception.sources.bag.writer import BagWriter

NODE = f"/{NODE_NAME}"
INPUT = "/camera"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Bag in, bag out."""
    parser.add_argument("source", metavar="BAG", help="ROS 1 or ROS 2 bag; also a KITTI drive, a picture folder or `synthetic`")
    parser.add_argument("--out", required=True, type=Path, metavar="BAG", help="mcap to write: NAME.mcap, or a bag folder")
    parser.add_argument("--image", default="", metavar="TOPIC", help="the bag's picture topic, where there are several")
    parser.add_argument(
        "--camera-info", default="", metavar="TOPIC", help="the bag's CameraInfo topic; default: the image's sibling"
    )
    parser.add_argument("--camera", type=Path, metavar="FILE", help="calibration to use instead of the source's own")
    parser.add_argument("--with-input", action="store_true", help="copy pictures and camera_info into the result, too")
    parser.add_argument("--force", action="store_true", help="replace a bag that is there")
    add_parameters(parser)


def run(args: argparse.Namespace) -> None:
    """Process every frame, in the order of the bag."""
    from mtl_perception.pipeline import Pipeline
    from mtl_perception.sources.bag.writer import BagWriter
    from mtl_perception.sources.open import open_source

    config = config_from(args, warm_up=False)
    source = open_source(
        args.source,
        rectified=config.input_rectified,
        camera_file=args.camera,
        image_topic=args.image,
        camera_info_topic=args.camera_info,
    )
    pipeline = Pipeline(config=config, reuse_outputs=True)
    print(f"weights {pipeline.description.name!r}; license: {pipeline.description.license}", file=sys.stderr)
    outputs = needed_results([row.name for row in OUTPUT_TOPICS])
    with BagWriter(args.out, force=args.force) as writer:
        recorder = _Recorder(writer, MessageEncoder(pipeline.class_set, config.overlay_opacity), args.with_input)
        try:
            for time_ns, frame in progress_bar(_records(source), total=len(source), unit="frame"):
                recorder.write(time_ns, frame, pipeline(frame, outputs))
        except PerceptionError as error:
            if not recorder.frames:
                raise
            raise SourceError(f"{error}; the {recorder.frames} frames before that are in {args.out}") from error
    for note in pipeline.notes:
        print(note, file=sys.stderr)
    rejected = dict(getattr(source, "rejected", {}))
    left_out = f", {sum(rejected.values())} left out {rejected}" if rejected else ""
    print(f"{recorder.frames} frames{left_out} -> {args.out}")


def _records(source: Any) -> Iterator[tuple[int, Frame]]:
    """Bag time and frame; sources without a bag time have the stamp's."""
    if hasattr(source, "records"):
        yield from source.records()
    else:
        for frame in source:
            yield frame.stamp_ns, frame


class _Recorder:
    """Writes the messages of each result."""

    def __init__(self, writer: BagWriter, encoder: MessageEncoder, with_input: bool) -> None:
        self.frames = 0
        self._writer, self._encoder, self._with_input = writer, encoder, with_input
        for kind, definition in LABEL_INFO_DEFINITIONS:
            writer.add_type(kind, definition)
        for row in OUTPUT_TOPICS:
            writer.add_topic(f"{NODE}/{row.name}", row.type, latched=row.latched)

    def write(self, time_ns: int, frame: Frame, result: Any) -> None:
        stamp = header(self._writer.typestore, frame.stamp_ns, frame.frame_id)
        if self.frames == 0:
            self._put(f"{NODE}/segmentation/label_info", LABEL_INFO, self._encoder.label_info(), stamp, time_ns)
        if self._with_input:
            self._put(f"{INPUT}/image", IMAGE, image_fields(frame.image, "rgb8"), stamp, time_ns)
            if frame.camera is not None:
                fields = camera_info_fields(Calibration.of(frame.camera))
                self._put(f"{INPUT}/camera_info", CAMERA_INFO, fields, stamp, time_ns)
        for row in OUTPUT_TOPICS:
            if row.latched:
                continue
            encoded = row.encode(self._encoder, result)
            if encoded is not None:
                self._put(f"{NODE}/{row.name}", row.type, encoded, stamp, time_ns)
        self.frames += 1

    def _put(self, topic: str, kind: str, fields: Fields, stamp: Any, time_ns: int) -> None:
        message = to_bag_message(self._writer.typestore, kind, fields, stamp)
        self._writer.write_message(topic, message, time_ns)
