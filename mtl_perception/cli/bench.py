"""`bench`: latency by stage, against other implementations, or against image size, classes and cameras."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mtl_perception.benchmark.compare import compare, format_table
from mtl_perception.benchmark.inputs import example_frame
from mtl_perception.benchmark.stages import format_stages, time_stages
from mtl_perception.benchmark.timing import WARM_UP_RUNS, describe_machine
from mtl_perception.cli.options import add_parameters, config_from, parse_size
from mtl_perception.errors import ConfigError, require
from mtl_perception.pipeline import Pipeline
from mtl_perception.visualization.files import replacing

SIZES = ("1242x375", "621x188", "640x480")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add sizes, runs, image and kind of measurement."""
    parser.add_argument(
        "--size", action="append", metavar="WIDTHxHEIGHT", help=f"image size; may be repeated (default: {', '.join(SIZES)})"
    )
    parser.add_argument("--runs", type=int, default=15, metavar="N", help="measured runs of each (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to a JSON file")
    parser.add_argument("--image", type=Path, metavar="FILE", help="image to measure on, resized (default: a generated one)")
    parser.add_argument(
        "--compare", action="store_true", help="compare all implementations that run here with the published one"
    )
    parser.add_argument("--scaling", type=Path, metavar="PNG", help="plot latency against pixels, classes and cameras")
    add_parameters(parser)


def run(args: argparse.Namespace) -> None:
    """Measure, and print medians and interquartile ranges in milliseconds."""
    if args.runs < 3:
        raise ConfigError(f"--runs must be at least 3, not {args.runs}")
    if args.scaling:
        require("matplotlib.figure", extra="plot", purpose="bench --scaling")
    sizes = [parse_size(size) for size in args.size or SIZES]
    config = config_from(args)
    pipeline = Pipeline(config=config, reuse_outputs=True)
    facts = {
        **describe_machine(pipeline.device),
        "backend": pipeline.backend,
        "precision": pipeline.precision,
        "weights": config.weights,
    }
    print(", ".join(f"{key} {value}" for key, value in facts.items()))
    for note in pipeline.notes:
        print(note)
    print(f"median and interquartile range of {args.runs} runs after {WARM_UP_RUNS} warm-up runs, ms")
    report: dict[str, Any] = {"machine": facts, "runs": args.runs}
    if args.scaling:
        from mtl_perception.benchmark.scaling import scaling

        report["scaling"] = scaling(config, args.runs, args.scaling)
    else:
        results = report["compare" if args.compare else "sizes"] = {}
        for width, height in sizes:
            name, image = f"{width}x{height}", _load_image(args.image, width, height)
            print(f"\n{name}")
            results[name] = compare(config, image, args.runs) if args.compare else time_stages(pipeline, image, args.runs)
            print(format_table(results[name]) if args.compare else format_stages(results[name]))
    if args.json:
        with replacing(args.json) as part:
            part.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def _load_image(path: Path | None, width: int, height: int) -> np.ndarray:
    if path is None:
        return example_frame(width, height).image
    from mtl_perception.image.files import read_image_file

    return np.asarray(cv2.resize(read_image_file(path), (width, height), interpolation=cv2.INTER_AREA))
