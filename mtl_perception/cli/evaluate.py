"""`eval`: weights over data sets with truth: figures, tables and pictures of the worst frames."""

from __future__ import annotations

import argparse
import json
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import torch

from mtl_perception.cli.options import add_parameters, config_from
from mtl_perception.errors import ConfigError, SourceError
from mtl_perception.inference.machine import device_name
from mtl_perception.progress import progress_bar
from mtl_perception.visualization.error_sheet import DepthErrors, LabelErrors, error_sheet
from mtl_perception.visualization.files import replacing
from mtl_perception.weights.registry import SHIPPED_SUFFIX

if TYPE_CHECKING:
    from mtl_perception.pipeline import Pipeline
    from mtl_perception.training.data.open import Dataset
    from mtl_perception.training.evaluation.evaluate import Evaluation, Record, Rules

PARAMETERS = ("classes", "device", "precision", "cpu_threads", "input_scale", "upsampling")
"""The other parameters would change what is evaluated, not how fast it is found."""

CROPS = ("garg", "eigen", "none")
JPEG_QUALITY = 92


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's own arguments."""
    # Not as `weights`: that is the name of a parameter, which holds one.
    parser.add_argument(
        "--weights",
        dest="networks",
        nargs="+",
        default=["street"],
        metavar="W",
        help="names or files, compared side by side; default street",
    )
    parser.add_argument(
        "--data", action="append", required=True, type=Path, metavar="D", help="data set, see docs/data.md; may be repeated"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="write metrics.json, table.md and the worst frames there")
    parser.add_argument("--worst", type=int, default=6, metavar="N", help="pictures of so many frames a set; default 6")
    parser.add_argument("--limit", type=int, default=0, metavar="N", help="only N frames a set, evenly spread; 0: all")
    parser.add_argument("--crop", choices=CROPS, default="garg", help="which part of a picture counts for depth; default garg")
    parser.add_argument("--cap", type=float, default=80.0, metavar="X", help="farther depth does not count, meters; default 80")
    parser.add_argument(
        "--median-scaling",
        action="store_true",
        help="scale each frame's depth by the truth's median first: only to compare with networks without a scale",
    )
    add_parameters(parser, PARAMETERS)


def run(args: argparse.Namespace) -> None:
    """Evaluate, print the tables, write the files; what was finished is written when the run is broken off, too."""
    for option, value in (("--worst", args.worst), ("--limit", args.limit)):
        if value < 0:
            raise ConfigError(f"{option} must not be negative, but is {value}")
    from mtl_perception.training.data.open import open_datasets
    from mtl_perception.training.evaluation.evaluate import DEFINITIONS, Rules
    from mtl_perception.training.evaluation.tables import tables

    rules = Rules(args.crop, args.cap, args.median_scaling)
    rules.metrics()  # Says now what is wrong with them.
    sets = [dataset for path in args.data for dataset in open_datasets(path)]
    _check_names(sets)
    report: dict[str, Any] = {
        "complete": False,
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "depth": {"crop": rules.crop, "cap_m": rules.cap, "median_scaling": rules.median_scaling},
        "definitions": DEFINITIONS,
        "limit": args.limit,
        "runs": [],
    }
    try:
        for name, weights in _labels(args.networks).items():
            _evaluate(name, weights, sets, rules, args, report)
        report["complete"] = True
    finally:
        if args.out and any(part["frames"] for entry in report["runs"] for part in entry["datasets"]):
            _write_report(args.out, report, tables(report))
    print(tables(report), end="")
    if args.out:
        print(f"written to {args.out}", file=sys.stderr)


def _evaluate(
    name: str, weights: str, sets: list[Dataset], rules: Rules, args: argparse.Namespace, report: dict[str, Any]
) -> None:
    """One network over all data sets; `report` gets its entry, brought up to date at whatever point this ends."""
    from mtl_perception.pipeline import Pipeline
    from mtl_perception.training.evaluation.evaluate import PIPELINE, Evaluation, overall

    config = config_from(args, weights=weights, warm_up=False, **PIPELINE)
    pipeline = Pipeline(config=config, reuse_outputs=True)
    entry = {"weights": name, "file": weights, **_description(pipeline), "datasets": [], "overall": None}
    report["runs"].append(entry)
    evaluations: list[Evaluation] = []
    try:
        for dataset in sets:
            evaluations.append(Evaluation(pipeline, dataset, rules))
            evaluations[-1].run(args.limit, partial(progress_bar, desc=f"{name} on {dataset.name}", unit="frame"))
            if args.out and args.worst:
                _write_worst(evaluations[-1], args.out / "worst" / name / dataset.name, name, args.worst)
    finally:
        entry["datasets"] = [evaluation.report() for evaluation in evaluations]
        entry["overall"] = overall(evaluations) if evaluations else None
        # What ran, which can be another than what was begun with.
        entry["backend"] = pipeline.backend


def _description(pipeline: Pipeline) -> dict[str, Any]:
    return {
        "name": pipeline.description.name,
        "license": pipeline.description.license,
        "classes": pipeline.class_set.name,
        "device": device_name(pipeline.device),
        "backend": pipeline.backend,
        "precision": pipeline.precision,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "input_scale": pipeline.config.input_scale,
        "upsampling": pipeline.config.upsampling,
    }


def _labels(networks: list[str]) -> dict[str, str]:
    """Short names, unique and fit for folders, and the weights that they stand for."""
    names: dict[str, str] = {}
    for weights in networks:
        stem = Path(weights).name.removesuffix(SHIPPED_SUFFIX)
        name, number = stem, 2
        while name in names:
            name, number = f"{stem}-{number}", number + 1
        names[name] = weights
    return names


def _check_names(sets: list[Dataset]) -> None:
    names = [dataset.name for dataset in sets]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"two data sets are named {name!r}: give them different names, or evaluate them apart")
    for dataset in sets:
        if not len(dataset):
            raise SourceError(f"data set {dataset.name}: it has no frames")


def _write_report(out: Path, report: dict[str, Any], text: str) -> None:
    with replacing(out / "metrics.json") as part:
        part.write_text(json.dumps(report, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    depth = report["depth"]
    notes = [f"- {name}: {definition}" for name, definition in report["definitions"].items()]
    notes.append(f"- here: crop {depth['crop']}, cap {depth['cap_m']:g} m{', median scaling' * depth['median_scaling']}")
    notes += [
        f"- {run['weights']}: {run['device']}, {run['precision']}, input_scale {run['input_scale']:g}" for run in report["runs"]
    ]
    head = "" if report["complete"] else "**Broken off: only a part of the frames is in these figures.**\n\n"
    with replacing(out / "table.md") as part:
        part.write_text(head + text + "\n" + "\n".join(notes) + "\n", encoding="utf-8")


def _write_worst(evaluation: Evaluation, folder: Path, weights: str, count: int) -> None:
    for place, record in enumerate(evaluation.worst(count), 1):
        name = "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in record.name)
        ok, data = cv2.imencode(
            ".jpg",
            cv2.cvtColor(_sheet(evaluation, record, weights), cv2.COLOR_RGB2BGR),
            [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY],
        )
        if not ok:
            raise SourceError(f"{folder}: the picture of {record.name} could not be encoded")
        with replacing(folder / f"{place:02d}_{name}.jpg") as part:
            part.write_bytes(data.tobytes())


def _sheet(evaluation: Evaluation, record: Record, weights: str) -> Any:
    """The frame once more: keeping what was predicted of every frame would take a drive's worth of memory."""
    sample = evaluation.dataset[record.index]
    answers, depth, _ = evaluation.predict(sample)
    labels = errors = None
    if record.pixel_accuracy is not None and sample.labels is not None:
        scoring = evaluation.scorings[0]
        note = f"{100 * record.pixel_accuracy:.1f} % right, mIoU {100 * (record.miou or 0):.1f} %"
        labels = LabelErrors(scoring.classes, scoring.truth[sample.labels], answers[0], note)
    if record.abs_rel is not None and sample.depth is not None:
        note = f"AbsRel {record.abs_rel:.3f}, RMSE {record.rmse:.2f} m"
        counted = evaluation.depth.counted(sample.depth)
        errors = DepthErrors(sample.depth, depth, counted, evaluation.rules.cap, note)
    title = (record.name, f"weights {weights}, data set {evaluation.dataset.name}")
    return error_sheet(sample.frame.image, title, labels, errors)
