"""Speed and accuracy of the presets in config/, on data with ground truth.

    DATA=<data folder> python -m tools.benchmarks.presets --limit 20 --out build/presets

Reports mIoU and depth errors of each preset as `eval` does, at full output size; the agreement of labels and depth with the
full-size network at the preset's output size; and the time of labels, depth and cloud of a frame, the presets in turn.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import yaml

from mtl_perception.benchmark.timing import time_interleaved
from mtl_perception.config import Config, by_name
from mtl_perception.errors import PerceptionError
from mtl_perception.pipeline import Pipeline
from mtl_perception.training.data.dataset import Dataset
from mtl_perception.training.data.open import open_datasets
from mtl_perception.training.data.select import spread_evenly
from mtl_perception.training.evaluation.evaluate import PIPELINE, Evaluation, overall
from mtl_perception.types import Frame

CONFIGS = Path(__file__).resolve().parents[2] / "config"
PRESETS = ("cpu", "cpu-realtime", "cpu-small")
SETS = ("street-heldout", "street-drive")
RUNS = 15


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--presets", nargs="+", default=list(PRESETS), metavar="NAME", help="names in config/, or files")
    parser.add_argument("--data", type=Path, action="append", metavar="D", help=f"data sets (default: {', '.join(SETS)})")
    parser.add_argument("--limit", type=int, default=0, metavar="N", help="evenly spaced frames per set; 0 uses all")
    parser.add_argument("--weights", default="street")
    parser.add_argument("--device", default="", help="device that replaces that of the presets")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for presets.json and presets.md")
    args = parser.parse_args()
    try:
        paths = args.data or [CONFIGS / "data" / f"{name}.yaml" for name in SETS]
        sets = [dataset for path in paths for dataset in open_datasets(path)]
        configs = {}
        for name in args.presets:
            path = Path(name) if name.endswith(".yaml") else CONFIGS / f"{name}.yaml"
            configs[path.stem] = read_preset(path, args.weights, args.device)
        rows = speed(configs, sets[0][0].frame)
        for name, config in configs.items():
            rows[name] |= {**accuracy(config, sets, args.limit), **agreement(config, sets, args.limit)}
    except PerceptionError as error:
        print(f"presets: {error}", file=sys.stderr)
        return 1
    text = as_markdown(rows)
    print(text, end="")
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "presets.json").write_text(json.dumps({"limit": args.limit, "presets": rows}, indent=1) + "\n")
        (args.out / "presets.md").write_text(text)
    return 0


def read_preset(path: Path, weights: str = "street", device: str = "") -> Config:
    """Return the pipeline's parameters from a ROS parameters file, without those specific to the node."""
    values = yaml.safe_load(path.read_text(encoding="utf-8"))["/**"]["ros__parameters"]
    own = {name: value for name, value in values.items() if not by_name(name).node_only}
    return Config.from_mapping({**own, "weights": weights, "warm_up": False, **({"device": device} if device else {})})


def speed(configs: dict[str, Config], frame: Frame, runs: int = RUNS) -> dict[str, dict[str, Any]]:
    """Time labels, depth and cloud of a frame, the presets in turn; report the median and that of the ratios to the first."""
    pipelines = {name: Pipeline(config=config, reuse_outputs=True) for name, config in configs.items()}
    calls = {name: partial(pipeline, frame, ("labels", "depth", "cloud")) for name, pipeline in pipelines.items()}
    times = time_interleaved(calls, runs)
    first = next(iter(times.values()))
    return {
        name: {
            "arithmetic": pipelines[name].precision,
            "latency_ms": median(found),
            "ratio": median(a / b for a, b in zip(found, first, strict=True)),
        }
        for name, found in times.items()
    }


def accuracy(config: Config, sets: list[Dataset], limit: int) -> dict[str, Any]:
    """Evaluate against the ground truth as `eval` does."""
    pipeline = Pipeline(config=replace(config, **PIPELINE), reuse_outputs=True)
    evaluations = [Evaluation(pipeline, dataset) for dataset in sets]
    for evaluation in evaluations:
        evaluation.run(limit)
    found = overall(evaluations)
    depth = found["depth"] or {}
    return {
        "frames": found["frames"],
        "mIoU": {name: scores["mIoU"] for name, scores in found["segmentation"].items()},
        "abs_rel": depth.get("abs_rel"),
        "rmse_m": depth.get("rmse"),
    }


def agreement(config: Config, sets: list[Dataset], limit: int) -> dict[str, Any]:
    """Compare with the full-size network in float32: fraction of equal labels, median relative difference of valid depth."""
    preset = Pipeline(config=config)
    full = Pipeline(config=replace(config, input_scale=1.0, upsampling="bicubic", precision="fp32"))
    labels, depths = [], []
    for dataset in sets:
        for index in spread_evenly(len(dataset), limit):
            frame = dataset[index].frame
            found, expected = (pipeline(frame, ("labels", "depth")) for pipeline in (preset, full))
            labels.append(np.mean(found.labels == expected.labels))
            valid = np.isfinite(found.depth) & np.isfinite(expected.depth)
            if valid.any():
                depths.append(np.median(np.abs(found.depth[valid] / expected.depth[valid] - 1)))
    return {
        "labels_agree": float(np.mean(labels)),
        "depth_difference": float(np.median(depths)) if depths else None,
        "input_scale": config.input_scale,
        "output_scale": config.output_scale,
    }


def as_markdown(rows: dict[str, dict[str, Any]]) -> str:
    """Return a Markdown table with a row per preset."""
    sets = list(dict.fromkeys(name for row in rows.values() for name in row["mIoU"]))
    heads = ["preset", "input", "output", "arithmetic", "ms", "ratio", "frames"]
    heads += [f"mIoU {name}" for name in sets]
    heads += ["AbsRel", "RMSE, m", "labels equal to full size", "depth difference (median)"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for name, row in rows.items():
        cells = [name, f"{row['input_scale']:g}", f"{row['output_scale']:g}", row["arithmetic"]]
        cells += [f"{row['latency_ms']:.1f}", f"{row['ratio']:.2f}", str(row["frames"])]
        cells += [format_or_dash(row["mIoU"].get(classes), "{:.1%}") for classes in sets]
        cells += [format_or_dash(row["abs_rel"], "{:.3f}"), format_or_dash(row["rmse_m"], "{:.2f}")]
        cells += [format_or_dash(row["labels_agree"], "{:.1%}"), format_or_dash(row["depth_difference"], "{:.1%}")]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def format_or_dash(value: float | None, template: str) -> str:
    return "-" if value is None else template.format(value)


if __name__ == "__main__":
    sys.exit(main())
