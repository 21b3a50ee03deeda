"""`bench`: how long each stage takes on this machine."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np

from mtl_perception.benchmark.compare import compare, table
from mtl_perception.benchmark.stages import cpu_stages
from mtl_perception.benchmark.timing import WARM_UPS, machine, summary, time_in_turn
from mtl_perception.camera.model import CameraModel
from mtl_perception.cli.options import add_parameters, config_from
from mtl_perception.errors import ConfigError
from mtl_perception.inference.device import DTYPES
from mtl_perception.inference.host.preprocess import Preprocessor
from mtl_perception.inference.onnx.check import made_up_picture
from mtl_perception.messages.decode import decode_image
from mtl_perception.messages.encode import MessageEncoder, image_fields
from mtl_perception.messages.topics import OUTPUT_TOPICS
from mtl_perception.pipeline import Pipeline
from mtl_perception.types import Frame

WHOLE = "whole: message to fields"
SIZES = ("1242x375", "621x188", "640x480")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Sizes, counts, and what else to measure."""
    parser.add_argument(
        "--size", action="append", metavar="WxH", help=f"picture size; may be repeated; default {', '.join(SIZES)}"
    )
    parser.add_argument("--runs", type=int, default=15, metavar="N", help="counted runs of each; default 15")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="measure on this picture, resized; default a made-up one")
    parser.add_argument(
        "--compare",
        action="store_true",
        help="every way to run the network that there is here, side by side with the published one",
    )
    parser.add_argument(
        "--scaling",
        type=Path,
        metavar="PNG",
        help="latency against pixels, classes and cameras: a plot there, whether it grows faster than linearly printed",
    )
    add_parameters(parser)


def run(args: argparse.Namespace) -> None:
    """Measure and print tables: median and interquartile range, milliseconds."""
    if args.runs < 3:
        raise ConfigError(f"--runs must be at least 3, not {args.runs}")
    sizes = [_parse(size) for size in args.size or SIZES]
    config = config_from(args)
    pipeline = Pipeline(config=config, reuse_outputs=True)
    facts = {
        **machine(pipeline.device),
        "backend": pipeline.backend,
        "precision": pipeline.precision,
        "weights": config.weights,
    }
    print(", ".join(f"{key} {value}" for key, value in facts.items()))
    for note in pipeline.notes:
        print(note)
    print(f"median and interquartile range of {args.runs} runs after {WARM_UPS} warm-up runs, ms")
    report: dict[str, Any] = {"machine": facts, "runs": args.runs}
    if args.scaling:
        from mtl_perception.benchmark.scaling import scaling

        report["scaling"] = scaling(config, args.runs, args.scaling)
    else:
        results = report["compare" if args.compare else "sizes"] = {}
        for width, height in sizes:
            name, image = f"{width}x{height}", _picture(args.picture, width, height)
            print(f"\n{name}")
            if args.compare:
                results[name] = compare(config, image, args.runs)
                print(table(results[name]))
            else:
                results[name] = _measure_size(pipeline, image, args.runs)
                _print_stages(results[name])
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")


def _parse(size: str) -> tuple[int, int]:
    width, _, height = size.partition("x")
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise ConfigError(f"--size {size!r} is not WIDTHxHEIGHT")
    return int(width), int(height)


def _picture(path: Path | None, width: int, height: int) -> np.ndarray:
    if path is None:
        return made_up_picture(height, width)
    from mtl_perception.sources.images import read_image_file

    return np.asarray(cv2.resize(read_image_file(path), (width, height), interpolation=cv2.INTER_AREA))


def _print_stages(stages: dict[str, dict[str, float]]) -> None:
    print(f"  {'stage':<34}{'median':>10}{'iqr':>10}{'share':>8}")
    whole = stages[WHOLE]["median_ms"]
    for stage, row in stages.items():
        print(f"  {stage:<34}{row['median_ms']:>10.2f}{row['iqr_ms']:>10.2f}{row['median_ms'] / whole:>8.0%}")


def _measure_size(pipeline: Pipeline, image: np.ndarray, runs: int) -> dict[str, dict[str, float]]:
    height, width = image.shape[:2]
    camera = CameraModel(width, height, 0.58 * width, 0.58 * width, width / 2, height / 2)
    message = SimpleNamespace(**image_fields(image, "bgr8"))
    encoder = MessageEncoder(pipeline.class_set, pipeline.config.overlay_opacity)
    frame = Frame(image, camera)
    # OpenVINO normalizes within the forward pass; this is what the others do before it.
    preprocess = Preprocessor(pipeline.description, DTYPES[pipeline.precision])

    def whole() -> None:
        result = pipeline(Frame(decode_image(message), camera))
        for row in OUTPUT_TOPICS:
            row.encode(encoder, result)

    result = pipeline(frame)
    normalize = {} if not pipeline.backend.startswith("torch") else {"normalize (part of forward)": lambda: preprocess(image)}
    stages: dict[str, Callable[[], Any]] = {
        "decode bgr8": lambda: decode_image(message),
        **normalize,
        **(cpu_stages(pipeline, frame) if pipeline.device.type == "cpu" else {}),
        "labels, depth, cloud": lambda: pipeline(frame, ("labels", "depth", "cloud")),
        "message fields": lambda: [row.encode(encoder, result) for row in OUTPUT_TOPICS],
        WHOLE: whole,
    }
    return {name: summary(milliseconds) for name, milliseconds in time_in_turn(stages, runs).items()}
