"""`bench --scaling`: how latency grows with pixels, with classes and with cameras."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mtl_perception.benchmark.timing import summary, time_in_turn
from mtl_perception.camera.model import CameraModel
from mtl_perception.config import Config
from mtl_perception.errors import SourceError
from mtl_perception.inference.onnx.check import made_up_picture
from mtl_perception.pipeline import Pipeline
from mtl_perception.types import Frame
from mtl_perception.visualization.files import replacing
from mtl_perception.visualization.plot import Curve, plot
from mtl_perception.weights.files import load_network, save_weights

SIZE = (1242, 375)
SHARES = (0.125, 0.25, 0.5, 1.0, 2.0)
"""Pixels, as shares of `SIZE`."""
CLASSES = (2, 12, 24, 48, 96)
CAMERAS = (1, 2, 4, 8)
SMALL = (621, 188)
"""Of the pictures for classes and cameras."""
OUTPUTS = ("labels", "depth", "cloud")
LINEAR = 1.1
"""An exponent up to this is called linear: medians of few runs scatter by some per cent."""


def scaling(config: Config, runs: int, picture: Path) -> dict[str, Any]:
    """Measure, print, plot.

    Args:
        config: Of the pipeline; its weights' segmentation head is repeated to get other numbers of classes.
        runs: Counted runs of each.
        picture: PNG to write.

    Returns:
        For pixels, classes and cameras: x, median_ms, iqr_ms, exponent (of the power that fits best), and whether growth is
        linear or slower.

    Raises:
        SourceError: The plot cannot be written.
    """
    report = {
        "pixels": _over_pixels(config, runs),
        "classes": _over_classes(config, runs),
        "cameras": _over_cameras(config, runs),
    }
    curves = []
    for name, found in report.items():
        verdict = "no faster than linearly" if found["linear_or_slower"] else "FASTER THAN LINEARLY"
        print(f"\nlatency against {name}: as the {found['exponent']:.2f}th power: {verdict}")
        for x, middle, spread in zip(found["x"], found["median_ms"], found["iqr_ms"], strict=True):
            print(f"  {x:>10}{middle:>10.1f}{spread:>8.1f}")
        unit, divisor = ("megapixels", 1e6) if name == "pixels" else (name, 1)
        x = [value / divisor for value in found["x"]]
        curves.append(Curve(f"labels, depth, cloud: ms against {unit}", unit, x, found["median_ms"]))
    ok, data = cv2.imencode(".png", cv2.cvtColor(np.hstack([plot(curve) for curve in curves]), cv2.COLOR_RGB2BGR))
    if not ok:
        raise SourceError(f"{picture}: the plot could not be encoded")
    with replacing(picture) as part:
        part.write_bytes(data.tobytes())
    print(f"plot written to {picture}")
    return report


def _over_pixels(config: Config, runs: int) -> dict[str, Any]:
    pipeline = Pipeline(config=replace(config, warm_up=False), reuse_outputs=True)
    frames = [_frame(round(SIZE[0] * math.sqrt(share)), round(SIZE[1] * math.sqrt(share))) for share in SHARES]
    # One after the other: all sizes at a time would not fit among the compiled ones that are kept.
    times = [time_in_turn({"whole": partial(pipeline, frame, OUTPUTS)}, runs)["whole"] for frame in frames]
    return _report([frame.image.shape[0] * frame.image.shape[1] for frame in frames], times)


def _over_classes(config: Config, runs: int) -> dict[str, Any]:
    frame = _frame(*SMALL)
    with tempfile.TemporaryDirectory() as folder:
        pipelines = {count: _pipeline_of(config, count, Path(folder)) for count in CLASSES}
    stages = {str(count): partial(pipeline, frame, OUTPUTS) for count, pipeline in pipelines.items()}
    return _report(list(CLASSES), list(time_in_turn(stages, runs).values()))


def _over_cameras(config: Config, runs: int) -> dict[str, Any]:
    """All cameras' pictures by one call: on a CPU one after the other, on a GPU as a batch."""
    pipeline = Pipeline(config=replace(config, warm_up=False), reuse_outputs=True)
    calls = {str(count): partial(pipeline.batch, [_frame(*SMALL)] * count, [OUTPUTS] * count) for count in CAMERAS}
    return _report(list(CAMERAS), list(time_in_turn(calls, runs).values()))


def _pipeline_of(config: Config, count: int, folder: Path) -> Pipeline:
    """The same network with so many classes: its own, over and over."""
    network = load_network(config.weights)
    state, own = network.state_dict(), network.description
    chosen = [i % len(own.classes) for i in range(count)]
    for name in ("segm.weight", "segm.bias"):
        state[name] = state[name][chosen].clone()
    description = replace(
        own,
        classes=tuple(f"class{i}" for i in range(count)),
        colors=tuple(own.colors[i] for i in chosen),
        groups={},
    )
    path = folder / f"{count}.safetensors"
    save_weights(path, state, description, half=False)
    return Pipeline(config=replace(config, weights=str(path), classes="", warm_up=False), reuse_outputs=True)


def _frame(width: int, height: int) -> Frame:
    camera = CameraModel(width, height, 0.58 * width, 0.58 * width, width / 2, height / 2)
    return Frame(made_up_picture(height, width), camera)


def _report(x: Sequence[int], times: Sequence[list[float]]) -> dict[str, Any]:
    found = [summary(milliseconds) for milliseconds in times]
    middle = [row["median_ms"] for row in found]
    exponent = float(np.polyfit(np.log(x), np.log(middle), 1)[0])
    return {
        "x": list(x),
        "median_ms": middle,
        "iqr_ms": [row["iqr_ms"] for row in found],
        "exponent": round(exponent, 3),
        "linear_or_slower": exponent <= LINEAR,
    }
