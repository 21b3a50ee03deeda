"""`bench`: how long each stage takes on this machine."""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from mtl_perception.cli.options import add_parameters, config_from
from mtl_perception.engine.machine import device_name
from mtl_perception.errors import ConfigError
from mtl_perception.geometry.camera import CameraModel
from mtl_perception.messages.decode import decode_image
from mtl_perception.messages.outputs import OUTPUT_TOPICS, Encoder, image_fields
from mtl_perception.pipeline import Pipeline
from mtl_perception.types import Frame

SIZES = ("1242x375", "621x188", "640x480")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Sizes and counts."""
    parser.add_argument(
        "--size", action="append", metavar="WxH", help=f"picture size; may be repeated; default {', '.join(SIZES)}"
    )
    parser.add_argument("--runs", type=int, default=15, metavar="N", help="counted runs of each; default 15")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    add_parameters(parser)


def run(args: argparse.Namespace) -> None:
    """Measure and print a table: median and interquartile range, milliseconds."""
    if args.runs < 3:
        raise ConfigError(f"--runs must be at least 3, not {args.runs}")
    pipeline = Pipeline(config=config_from(args), reuse_outputs=True)
    machine = {
        "device": device_name(pipeline.device),
        "threads": torch.get_num_threads(),
        "precision": pipeline.precision,
        "torch": torch.__version__,
        "weights": pipeline.config.weights,
    }
    print(", ".join(f"{key} {value}" for key, value in machine.items()))
    print(f"median and interquartile range of {args.runs} runs after 2 warm-up runs, ms")
    results = {}
    for size in args.size or SIZES:
        results[size] = _measure_size(pipeline, *_parse(size), args.runs)
        print(f"\n{size}\n  {'stage':<34}{'median':>10}{'iqr':>10}{'share':>8}")
        whole = results[size]["whole: message to fields"]["median_ms"]
        for stage, row in results[size].items():
            print(f"  {stage:<34}{row['median_ms']:>10.2f}{row['iqr_ms']:>10.2f}{row['median_ms'] / whole:>8.0%}")
    if args.json:
        args.json.write_text(json.dumps({"machine": machine, "runs": args.runs, "sizes": results}, indent=1) + "\n")


def _parse(size: str) -> tuple[int, int]:
    width, _, height = size.partition("x")
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise ConfigError(f"--size {size!r} is not WIDTHxHEIGHT")
    return int(width), int(height)


def _measure_size(pipeline: Pipeline, width: int, height: int, runs: int) -> dict[str, dict[str, float]]:
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    camera = CameraModel(width, height, 0.58 * width, 0.58 * width, width / 2, height / 2)
    message = SimpleNamespace(**image_fields(image, "bgr8"))
    encoder = Encoder(pipeline.class_set, pipeline.config.overlay_opacity)
    frame = Frame(image, camera)

    def only(*outputs: str) -> Callable[[], Any]:
        return lambda: pipeline(frame, outputs)

    def whole() -> None:
        result = pipeline(Frame(decode_image(message), camera))
        for row in OUTPUT_TOPICS:
            encoder.encode(row.name, result)

    result = pipeline(frame)
    stages: dict[str, Callable[[], Any]] = {
        "decode bgr8": lambda: decode_image(message),
        "network, depth": only("depth"),
        "network, labels": only("labels"),
        "network, labels, confidence": only("labels", "confidence"),
        "network, labels, depth, cloud": only("cloud"),
        "message fields": lambda: [encoder.encode(row.name, result) for row in OUTPUT_TOPICS],
        "whole: message to fields": whole,
    }
    for stage in stages.values():
        stage()
        stage()
    seconds: dict[str, list[float]] = {name: [] for name in stages}
    # In turn, not one after the other: a machine that slows down then slows all of them.
    for _ in range(runs):
        for name, stage in stages.items():
            started = time.perf_counter()
            stage()
            seconds[name].append(time.perf_counter() - started)
    return {name: _summary(values) for name, values in seconds.items()}


def _summary(seconds: list[float]) -> dict[str, float]:
    low, middle, high = statistics.quantiles([1000 * value for value in seconds], n=4)
    return {"median_ms": round(middle, 3), "iqr_ms": round(high - low, 3)}
