"""`bench --scaling`: latency against pixels, classes and cameras."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mtl_perception.benchmark.inputs import example_frame
from mtl_perception.benchmark.timing import summarize, time_interleaved
from mtl_perception.config import Config
from mtl_perception.pipeline import Pipeline
from mtl_perception.visualization.files import replacing
from mtl_perception.weights.files import load_network, save_weights

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FULL_SIZE = (1242, 375)
PIXEL_RATIOS = (0.125, 0.25, 0.5, 1.0, 2.0)
"""Numbers of pixels relative to `FULL_SIZE`."""
CLASSES = (2, 12, 24, 48, 96)
CAMERAS = (1, 2, 4, 8)
SMALL_SIZE = (621, 188)
"""Image size for classes and cameras."""
OUTPUTS = ("labels", "depth", "cloud")
MAX_LINEAR_EXPONENT = 1.1
"""Exponents up to this value count as linear, because medians of few runs vary by some per cent."""


def scaling(config: Config, runs: int, path: Path) -> dict[str, Any]:
    """Measure, print and plot latency against pixels, classes and cameras.

    Args:
        config: Parameters of the pipeline; to vary the number of classes, the segmentation head of its weights is repeated.
        runs: Measured runs of each.
        path: PNG file to write.

    Returns:
        For each of pixels, classes and cameras: x, median_ms, iqr_ms, exponent of the fitted power law, and linear_or_slower.

    Raises:
        SourceError: The plot cannot be written.
    """
    report = {
        "pixels": _over_pixels(config, runs),
        "classes": _over_classes(config, runs),
        "cameras": _over_cameras(config, runs),
    }
    for name, row in report.items():
        growth = "linear or slower" if row["linear_or_slower"] else "FASTER THAN LINEAR"
        print(f"\nlatency against {name}: exponent {row['exponent']:.2f}, {growth}")
        for x, median, iqr in zip(row["x"], row["median_ms"], row["iqr_ms"], strict=True):
            print(f"  {x:>10}{median:>10.1f}{iqr:>8.1f}")
    with replacing(path) as part:
        draw(report).savefig(part, dpi=100)
    print(f"plot written to {path}")
    return report


def draw(report: Mapping[str, Any]) -> Figure:
    """Plot the result of `scaling`, one panel each, with a gray line through zero and the last point for linear growth."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.6 * len(report), 3.8), layout="constrained")
    for axes, (name, row) in zip(figure.subplots(1, len(report), squeeze=False)[0], report.items(), strict=True):
        x = np.array(row["x"]) / (1e6 if name == "pixels" else 1)
        axes.plot([0, x[-1]], [0, row["median_ms"][-1]], color="0.7", label="linear")
        axes.plot(x, row["median_ms"], marker="o", label=f"measured, exponent {row['exponent']:.2f}")
        axes.set(xlim=(0, None), ylim=(0, None), ylabel="latency (ms)", title="labels, depth and cloud")
        axes.set_xlabel("megapixels" if name == "pixels" else name)
        axes.legend()
    return figure


def _over_pixels(config: Config, runs: int) -> dict[str, Any]:
    pipeline = Pipeline(config=replace(config, warm_up=False), reuse_outputs=True)
    sizes = [tuple(round(side * math.sqrt(ratio)) for side in FULL_SIZE) for ratio in PIXEL_RATIOS]
    # Sequentially: interleaved sizes would exceed the number of compiled networks that are kept.
    times = [time_interleaved({"total": partial(pipeline, example_frame(*size), OUTPUTS)}, runs)["total"] for size in sizes]
    return _report([width * height for width, height in sizes], times)


def _over_classes(config: Config, runs: int) -> dict[str, Any]:
    frame = example_frame(*SMALL_SIZE)
    with tempfile.TemporaryDirectory() as folder:
        pipelines = {count: _pipeline_with_classes(config, count, Path(folder)) for count in CLASSES}
    stages = {str(count): partial(pipeline, frame, OUTPUTS) for count, pipeline in pipelines.items()}
    return _report(list(CLASSES), list(time_interleaved(stages, runs).values()))


def _over_cameras(config: Config, runs: int) -> dict[str, Any]:
    """Measure one call with the images of all cameras: sequential on a CPU, a batch on a GPU."""
    pipeline = Pipeline(config=replace(config, warm_up=False), reuse_outputs=True)
    calls = {str(count): partial(pipeline.batch, [example_frame(*SMALL_SIZE)] * count, [OUTPUTS] * count) for count in CAMERAS}
    return _report(list(CAMERAS), list(time_interleaved(calls, runs).values()))


def _pipeline_with_classes(config: Config, count: int, folder: Path) -> Pipeline:
    """Return a pipeline whose network repeats its own classes up to a number."""
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


def _report(x: Sequence[int], times: Sequence[list[float]]) -> dict[str, Any]:
    rows = [summarize(milliseconds) for milliseconds in times]
    medians = [row["median_ms"] for row in rows]
    exponent = float(np.polyfit(np.log(x), np.log(medians), 1)[0])
    return {
        "x": list(x),
        "median_ms": medians,
        "iqr_ms": [row["iqr_ms"] for row in rows],
        "exponent": round(exponent, 3),
        "linear_or_slower": exponent <= MAX_LINEAR_EXPONENT,
    }
