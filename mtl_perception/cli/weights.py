"""`mtl_perception weights list | fetch | info | convert | average | calibrate`."""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from mtl_perception.cli.options import output_file, refuse_held_out
from mtl_perception.errors import ConfigError, SourceError, WeightsError
from mtl_perception.inference.device import plain_precision
from mtl_perception.network.certificate import REFERENCE
from mtl_perception.network.description import Description
from mtl_perception.network.digest import certified_losses
from mtl_perception.network.model import MultiTaskRefineNet
from mtl_perception.weights.average import average_weights
from mtl_perception.weights.download import URL_VARIABLE, fetch
from mtl_perception.weights.files import build_network, load_network, read_weights, save_weights
from mtl_perception.weights.metadata import read_description
from mtl_perception.weights.registry import (
    AUTHORS_FOLDER,
    CACHE_VARIABLE,
    PUBLISHED,
    TORCHVISION_FOLDER,
    Published,
    resolve,
    shipped_weights,
)

WIDTH = 100
LABEL_WIDTH = 22
MAX_NUMBERS = 6
"""Longest list of numbers that `info` prints: tables, such as confusion matrices, are for programs."""
LICENSE_WIDTH = 60


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the actions and their arguments."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, (_, add, text) in ACTIONS.items():
        action = actions.add_parser(
            name, help=text, description=text[0].upper() + text[1:] + ".", epilog=EPILOG if name == "fetch" else None
        )
        action.add_argument(
            "--debug", action="store_true", default=argparse.SUPPRESS, help="on an error, show the traceback too"
        )
        add(action)


def run(args: argparse.Namespace) -> int | None:
    """Run the action and return the exit code."""
    ACTIONS[args.action][0](args)
    return 0


def list_weights(args: argparse.Namespace) -> None:
    """Print a table of shipped and published weights."""
    rows = [("NAME", "CLASSES", "TASKS", "WHERE", "LICENSE")]
    for name, path in shipped_weights().items():
        try:
            description = read_description(path)
            rows.append(_row(name, description, "shipped", description.license))
        except WeightsError as error:
            rows.append((name, "?", "?", "shipped, damaged", str(error)))
    rows += [_row(entry.name, entry.description, _where(entry), entry.license) for entry in PUBLISHED.values()]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def fetch_weights(args: argparse.Namespace) -> None:
    """Fetch weights; print their paths to stdout and everything else to stderr."""
    shipped = shipped_weights()
    for name in args.names:
        if name in shipped:
            print(f"{name}: shipped with the package, nothing to fetch", file=sys.stderr)
            print(shipped[name])
        else:
            print(fetch(name, announce=lambda line: print(line, file=sys.stderr, flush=True)))


def show_info(args: argparse.Namespace) -> None:
    """Load a file as the node does and print its description."""
    path = resolve(args.weights)
    network = load_network(path)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    size = path.stat().st_size
    if args.json:
        facts = {"file": str(path), "bytes": size, "parameters": parameters, **asdict(network.description)}
        print(json.dumps(facts, ensure_ascii=False, indent=2))
        return
    _show("name", network.description.name)
    _show("file", f"{path} ({size / 1e6:.1f} MB, {parameters / 1e6:.2f} M parameters)")
    _show_description(network.description)
    _show_certificates(network)


def convert_weights(args: argparse.Namespace) -> None:
    """Write a safetensors file with its description and verify it by loading it."""
    source = resolve(args.weights)
    out = output_file(Path(args.out), args.force)
    state, description = read_weights(source)
    before = build_network(description, state, where=str(source)).state_dict()
    save_weights(out, before, description, half=args.half)
    after = load_network(out)
    for name, tensor in after.state_dict().items():
        kept = before[name].half() if args.half and before[name].is_floating_point() else before[name]
        if not torch.equal(tensor, kept.to(tensor.dtype)):
            raise WeightsError(f"verification of {out} failed: entry {name!r} differs from what was written; check the disk")
    print(f"{out}: {description.name}, {out.stat().st_size / 1e6:.1f} MB, {'float16' if args.half else 'float32'}, verified")


def average(args: argparse.Namespace) -> None:
    """Write the mean of the parameters of several files, in the widest of their types."""
    sources, out = [resolve(name) for name in args.weights], output_file(Path(args.out), args.force)
    if len(sources) < 2:
        raise ConfigError("an average needs two or more weights files")
    state, description = average_weights(sources, args.shares)
    save_weights(out, state, description, half=False)
    print(f"{out}: average of {len(sources)} files, without metrics, int8 table and certificates")


def calibrate_weights(args: argparse.Namespace) -> None:
    """Write weights whose confidence is calibrated on validation data.

    The file has the precision of the given one, except for a float32 segmentation head: rounding the divided weights to
    float16 would change labels.
    """
    if args.limit < 0:
        raise ConfigError(f"--limit {args.limit} is negative; give 0 or more")
    source, out = resolve(args.weights), output_file(Path(args.out), args.force)
    from mtl_perception.pipeline import Pipeline
    from mtl_perception.progress import progress_bar
    from mtl_perception.training.data.open import open_datasets
    from mtl_perception.training.temperature import HEAD, calibrate_confidence, spread

    sets = [dataset for path in args.data for dataset in open_datasets(path)]
    state, description = read_weights(source)
    refuse_held_out(description, [dataset.name for dataset in sets], f"{args.weights} cannot be calibrated")
    network = build_network(description, state, where=str(source))
    samples = progress_bar(spread(sets, args.limit), desc="confidence", unit="image")
    pipeline = Pipeline(str(source), args.device, precision=plain_precision(args.device), warm_up=False)
    found = calibrate_confidence(network, pipeline, samples)
    if found is None:
        raise SourceError(f"confidence of {args.weights} cannot be calibrated: no image of the data has labels")
    description = replace(description, card={**description.card, "confidence_calibration": found.card()})
    half = any(tensor.dtype == torch.float16 for tensor in state.values())
    save_weights(out, network.state_dict(), description, half, exact=HEAD)
    print(
        f"{out}: temperature {found.temperature:.3f}, ECE {100 * found.ece_before:.1f} % before and "
        f"{100 * found.ece_after:.1f} % after, on {found.images} images of {', '.join(found.data)}"
    )


def _add_nothing(parser: argparse.ArgumentParser) -> None:
    """Add nothing: `list` has no arguments."""


def _add_names(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="+", metavar="NAME", help=f"one of {', '.join(PUBLISHED)}")


def _add_info(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("weights", metavar="FILE_OR_NAME", help="weights file, or a name listed by `weights list`")
    parser.add_argument("--json", action="store_true", help="print one JSON object, with all tables")


def _add_convert(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "weights", metavar="FILE", help="published checkpoint, safetensors file, or a name listed by `weights list`"
    )
    parser.add_argument("out", metavar="OUT", help="safetensors file to write")
    parser.add_argument("--half", action="store_true", help="store float16: half the size, relative error below 0.1 %%")
    parser.add_argument("--force", action="store_true", help="replace OUT if it exists")


def _add_average(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("weights", nargs="+", metavar="FILE_OR_NAME", help="weights that were trained from one another")
    parser.add_argument("--out", required=True, metavar="OUT", help="safetensors file to write")
    parser.add_argument("--shares", nargs="+", type=float, default=[], metavar="S", help="share of each (default: equal)")
    parser.add_argument("--force", action="store_true", help="replace OUT if it exists")


def _add_calibrate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("weights", metavar="FILE_OR_NAME", help="weights file, or a name listed by `weights list`")
    parser.add_argument("out", metavar="OUT", help="safetensors file to write")
    parser.add_argument(
        "--data",
        action="append",
        required=True,
        type=Path,
        metavar="D",
        help="labeled data, neither trained on nor held out, see docs/data.md; repeatable",
    )
    parser.add_argument("--limit", type=int, default=0, metavar="N", help="evenly spaced images per data set; 0 uses all")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    parser.add_argument("--force", action="store_true", help="replace OUT if it exists")


EPILOG = (
    f"Networks are downloaded from {AUTHORS_FOLDER}, encoders for training from {TORCHVISION_FOLDER}, or both from the mirror "
    f"in {URL_VARIABLE}; they are verified by checksum and stored in {CACHE_VARIABLE} (default: ~/.cache/mtl_perception). "
    "Interrupted downloads are resumed."
)
ACTIONS = {
    "list": (list_weights, _add_nothing, "list shipped and published weights and their status"),
    "fetch": (fetch_weights, _add_names, "download published weights into the cache and verify them"),
    "info": (show_info, _add_info, "show the description and license of a weights file"),
    "convert": (convert_weights, _add_convert, "write weights as a safetensors file with its description"),
    "average": (average, _add_average, "write the mean of the parameters of weights"),
    "calibrate": (calibrate_weights, _add_calibrate, "write weights whose confidence is calibrated on validation data"),
}


def _where(entry: Published) -> str:
    if not entry.path.is_file():
        return "not fetched"
    return "cached" if entry.checksum.matches(entry.path) else "cached, damaged"


def _row(name: str, description: Description | None, where: str, license: str) -> tuple[str, str, str, str, str]:
    license = textwrap.shorten(license, LICENSE_WIDTH, placeholder=" …")
    if description is None:
        return name, "-", "encoder", where, license
    return name, str(len(description.classes)), ", ".join(description.tasks), where, license


def _show_description(description: Description) -> None:
    _show("tasks", ", ".join(description.tasks))
    _show(f"{len(description.classes)} classes", ", ".join(f"{i} {name}" for i, name in enumerate(description.classes)))
    for name, (first, count) in description.groups.items():
        _show(f"group {name}", f"classes {first} to {first + count - 1}")
    nearest, farthest = description.depth_range
    _show("depth", f"meters = {description.depth_transform}(output); trained on {nearest:g} to {farthest:g} m")
    _show("grid", description.grid)
    _show("normalization", f"(RGB / 255 - {_numbers(description.mean)}) / {_numbers(description.std)}")
    camera = ", ".join(f"{name} {value:g}" for name, value in description.camera.items())
    _show("training camera", camera or "unknown")
    _show("license", description.license)
    _show_entries(description.card, indent="")


def _show_certificates(network: MultiTaskRefineNet) -> None:
    losses = certified_losses(network)
    for name, certificate in network.description.certified.items():
        if name == REFERENCE:
            verdict = "reference" if losses else "not valid"
        else:
            verdict = str(losses.get(name, "not valid: measured with other parameters, another table, or no reference"))
        _show(name, verdict)
        for data, score in certificate.data.items():
            miou = [f"mIoU {classes} {100 * value:.1f} %" for classes, value in score.miou.items()]
            depth = [] if score.abs_rel is None else [f"AbsRel {score.abs_rel:.4f}", f"RMSE {score.rmse:.2f} m"]
            labels = f"labels as {REFERENCE} {100 * score.agreement:.2f} %"
            _show(f"  {data}", ", ".join([f"{score.frames} frames", *miou, *depth, labels]))


def _show_entries(entries: Mapping[str, Any], indent: str) -> None:
    for name, value in entries.items():
        label = f"{indent}{name}"
        if isinstance(value, Mapping):
            if value:
                _show(label, "")
                _show_entries(value, indent + "  ")
        elif isinstance(value, list) and value and all(isinstance(entry, str) for entry in value):
            for line, entry in enumerate(value):
                _show("" if line else label, entry)
        elif isinstance(value, list):
            if 0 < len(value) <= MAX_NUMBERS and not any(isinstance(entry, list) for entry in value):
                _show(label, ", ".join(map(_text, value)))
        elif value is not None:
            _show(label, _text(value))


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _show(label: str, text: str) -> None:
    """Print one entry, wrapped; control characters from the file are replaced."""
    printable = "".join(c if c.isprintable() else " " for c in f"{label:<{LABEL_WIDTH}} {text}")
    print(textwrap.fill(printable, WIDTH, subsequent_indent=" " * (LABEL_WIDTH + 1), break_long_words=False).rstrip())


def _numbers(values: tuple[float, ...]) -> str:
    return "(" + ", ".join(f"{value:g}" for value in values) + ")"
