"""`eval`: evaluate weights on data sets with ground truth; write tables and images of the worst frames."""

from __future__ import annotations

import argparse
import json
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mtl_perception.cli.options import add_parameters, config_from
from mtl_perception.config import by_name
from mtl_perception.errors import ConfigError, SourceError
from mtl_perception.inference.machine import device_name
from mtl_perception.network.certificate import REFERENCE
from mtl_perception.progress import progress_bar
from mtl_perception.training.evaluation.depth import CROPS
from mtl_perception.visualization.error_sheet import DepthErrors, LabelErrors, error_sheet
from mtl_perception.visualization.files import replacing
from mtl_perception.visualization.image_files import write_image
from mtl_perception.weights.registry import SHIPPED_SUFFIX, resolve

if TYPE_CHECKING:
    from mtl_perception.pipeline import Pipeline
    from mtl_perception.training.data.dataset import Dataset
    from mtl_perception.training.evaluation.agreement import LabelAgreement
    from mtl_perception.training.evaluation.evaluate import DepthProtocol, Evaluation, FrameScore

PARAMETERS = ("classes", "device", "cpu_threads", "input_scale", "upsampling")
"""Parameters that change the speed or input of the network; others would change the outputs that are evaluated."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    # `weights` is the name of a parameter, which takes a single value.
    parser.add_argument(
        "--weights",
        dest="networks",
        nargs="+",
        default=["street"],
        metavar="W",
        help="names or files to compare (default: street)",
    )
    parser.add_argument(
        "--data", action="append", required=True, type=Path, metavar="D", help="data set, see docs/data.md; repeatable"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for metrics.json, table.md and the worst frames")
    parser.add_argument("--worst", type=int, default=6, metavar="N", help="draw the N worst frames per data set (default: 6)")
    parser.add_argument("--limit", type=int, default=0, metavar="N", help="evenly spaced frames per data set; 0 uses all")
    parser.add_argument("--crop", choices=tuple(CROPS), default="garg", help="image region for depth metrics (default: garg)")
    parser.add_argument("--cap", type=float, default=80.0, metavar="X", help="largest evaluated true depth, m (default: 80)")
    parser.add_argument(
        "--median-scaling",
        action="store_true",
        help="scale depth by the ratio of medians first; only to compare with networks without metric scale",
    )
    parser.add_argument("--card", action="store_true", help="print the tables of a model card in Markdown instead")
    parser.add_argument(
        "--precision",
        # `precision` is the name of a parameter, which takes a single value.
        dest="precisions",
        nargs="+",
        choices=by_name("precision").choices,
        default=["auto"],
        metavar="P",
        help=f"precisions to compare, of {', '.join(by_name('precision').choices)} (default: auto)",
    )
    parser.add_argument(
        "--certify",
        type=Path,
        metavar="FILE",
        help="write the weights to FILE, which may be the weights file, with the accuracy of these precisions, from which "
        "precision auto chooses on a CPU; needs fp32 among them",
    )
    add_parameters(parser, PARAMETERS)


def run(args: argparse.Namespace) -> None:
    """Evaluate, print the tables, and write the files; an interrupted evaluation writes what is complete."""
    for option, value in (("--worst", args.worst), ("--limit", args.limit)):
        if value < 0:
            raise ConfigError(f"{option} {value} is negative; give 0 or more")
    from mtl_perception.training.data.open import open_datasets
    from mtl_perception.training.evaluation.evaluate import DEFINITIONS, DepthProtocol
    from mtl_perception.training.evaluation.tables import card_tables, tables

    protocol = DepthProtocol(args.crop, args.cap, args.median_scaling)
    protocol.metrics()  # Refuses invalid options before anything is loaded.
    if args.certify:
        _check_certify(args, protocol)
    sets = [dataset for path in args.data for dataset in open_datasets(path)]
    _check_names(sets)
    report: dict[str, Any] = {
        "complete": False,
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "depth": {"crop": protocol.crop, "cap_m": protocol.cap, "median_scaling": protocol.median_scaling},
        "definitions": DEFINITIONS,
        "limit": args.limit,
        "runs": [],
    }
    try:
        for name, weights in _short_names(args.networks).items():
            _evaluate_precisions(name, weights, sets, protocol, args, report)
        report["complete"] = True
    finally:
        if args.out and any(part["frames"] for entry in report["runs"] for part in entry["datasets"]):
            _write_report(args.out, report, tables(report))
    print(card_tables(report) if args.card else tables(report), end="")
    if args.out:
        print(f"written to {args.out}", file=sys.stderr)
    if args.certify:
        from mtl_perception.training.evaluation.certify import certify

        for precision, loss in certify(resolve(args.networks[0]), args.certify, report["runs"]).items():
            print(f"{args.certify}: {precision}, {loss}", file=sys.stderr)


def _evaluate_precisions(
    name: str, weights: str, sets: list[Dataset], protocol: DepthProtocol, args: argparse.Namespace, report: dict[str, Any]
) -> None:
    """Evaluate one network in all precisions; labels are compared with those of fp32, if that is among them."""
    from mtl_perception.pipeline import Pipeline
    from mtl_perception.training.evaluation.agreement import LabelAgreement
    from mtl_perception.training.evaluation.evaluate import PIPELINE, Evaluation

    several = len(args.precisions) > 1
    reference: dict[str, LabelAgreement] = {}
    # The reference first, whose labels the others are compared with.
    for precision in sorted(dict.fromkeys(args.precisions), key=lambda one: one != REFERENCE):
        config = config_from(args, weights=weights, precision=precision, warm_up=False, **PIPELINE)
        pipeline = Pipeline(config=config, reuse_outputs=True)
        if args.certify and precision != REFERENCE and pipeline.precision == REFERENCE:
            why = "; ".join(pipeline.notes) or "it runs as fp32"
            raise ConfigError(f"{precision} cannot be certified on this machine: {why}")
        keep = several and precision == REFERENCE
        agreements = {dataset.name: LabelAgreement(reference.get(dataset.name), keep) for dataset in sets}
        evaluations = [Evaluation(pipeline, dataset, protocol, agreements[dataset.name]) for dataset in sets]
        entry = {"weights": f"{name}-{precision}" if several else name, "file": weights, **_description(pipeline)}
        report["runs"].append(entry)
        _evaluate(evaluations, entry, args)
        if keep:
            reference = agreements


def _evaluate(evaluations: list[Evaluation], entry: dict[str, Any], args: argparse.Namespace) -> None:
    """Evaluate one pipeline on all data sets, and complete its entry of the report even if interrupted."""
    from mtl_perception.training.evaluation.evaluate import overall

    name = entry["weights"]
    try:
        for evaluation in evaluations:
            data = evaluation.dataset.name
            evaluation.run(args.limit, partial(progress_bar, desc=f"{name} on {data}", unit="frame"))
            if args.out and args.worst:
                _write_worst(evaluation, args.out / "worst" / name / data, name, args.worst)
    finally:
        begun = [evaluation for evaluation in evaluations if evaluation.scores]
        entry["datasets"] = [evaluation.report() for evaluation in begun]
        entry["overall"] = overall(begun) if begun else None
        # The backend may have changed during the evaluation.
        entry["backend"] = evaluations[0].pipeline.backend


def _check_certify(args: argparse.Namespace, protocol: DepthProtocol) -> None:
    """Refuse what would not measure the pipeline of the node on a CPU."""
    from mtl_perception.training.evaluation.evaluate import DepthProtocol

    weights = resolve(args.networks[0])
    if len(args.networks) > 1 or REFERENCE not in args.precisions:
        raise ConfigError("--certify: give one network, and fp32 among the values of --precision")
    if (args.device or "cpu") != "cpu" or (args.input_scale or 1) != 1 or protocol != DepthProtocol():
        raise ConfigError("--certify: measure on device cpu, with input_scale 1 and the default options of depth metrics")
    if args.certify.exists() and not args.certify.samefile(weights):
        raise ConfigError(f"--certify {args.certify} exists already and is not the weights file; choose another name")
    args.device = "cpu"


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


def _short_names(networks: list[str]) -> dict[str, str]:
    """Return the weights by short, unique names that are usable as folder names."""
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
            raise ConfigError(f"two data sets are named {name!r}; give them different names, or evaluate them separately")
    for dataset in sets:
        if not len(dataset):
            raise SourceError(f"data set {dataset.name} has no frames")


def _write_report(out: Path, report: dict[str, Any], text: str) -> None:
    with replacing(out / "metrics.json") as part:
        part.write_text(json.dumps(report, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    depth = report["depth"]
    notes = [f"- {name}: {definition}" for name, definition in report["definitions"].items()]
    notes.append(f"- options: crop {depth['crop']}, cap {depth['cap_m']:g} m{', median scaling' * depth['median_scaling']}")
    notes += [
        f"- {run['weights']}: {run['device']}, {run['precision']}, input_scale {run['input_scale']:g}" for run in report["runs"]
    ]
    head = "" if report["complete"] else "**Interrupted: these metrics cover only some of the frames.**\n\n"
    with replacing(out / "table.md") as part:
        part.write_text(head + text + "\n" + "\n".join(notes) + "\n", encoding="utf-8")


def _write_worst(evaluation: Evaluation, folder: Path, weights: str, count: int) -> None:
    for place, score in enumerate(evaluation.worst(count), 1):
        name = "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in score.name)
        write_image(folder / f"{place:02d}_{name}.jpg", _sheet(evaluation, score, weights))


def _sheet(evaluation: Evaluation, score: FrameScore, weights: str) -> np.ndarray:
    """Draw the errors of a frame; it is predicted again, because keeping all predictions would take too much memory."""
    sample = evaluation.dataset[score.index]
    prediction = evaluation.predict(sample)
    labels = errors = None
    if score.pixel_accuracy is not None and sample.labels is not None:
        comparison = evaluation.comparisons[0]
        note = f"{100 * score.pixel_accuracy:.1f} % correct, mIoU {100 * (score.miou or 0):.1f} %"
        labels = LabelErrors(comparison.classes, comparison.truth[sample.labels], prediction.labels[0], note)
    if score.abs_rel is not None and sample.depth is not None:
        note = f"AbsRel {score.abs_rel:.3f}, RMSE {score.rmse:.2f} m"
        evaluated = evaluation.metrics.depth.evaluated(sample.depth)
        errors = DepthErrors(sample.depth, prediction.depth, evaluated, evaluation.protocol.cap, note)
    title = (score.name, f"weights {weights}, data set {evaluation.dataset.name}")
    return error_sheet(sample.frame.image, title, labels, errors)
