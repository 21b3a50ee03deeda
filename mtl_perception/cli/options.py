"""Command-line options generated from the parameter table, and messages that commands share."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from mtl_perception.config import Config, parameters
from mtl_perception.errors import ConfigError, WeightsError
from mtl_perception.visualization.rerun import RerunOptions, require_rerun

if TYPE_CHECKING:
    from mtl_perception.network.description import Description
    from mtl_perception.pipeline import Pipeline


def add_parameters(parser: argparse.ArgumentParser, only: Collection[str] = ()) -> None:
    """Add an option for each parameter that is not specific to the node, such as `--max-depth` for max_depth.

    Args:
        parser: Receives the options.
        only: Names of the parameters to add; all if empty.
    """
    group = parser.add_argument_group("parameters")
    for row in parameters():
        if row.node_only or (only and row.name not in only):
            continue
        bounds = "" if row.choices else row.range_text()
        default = "" if row.default in ("", ()) else f" (default: {row.default})"
        text = f"{row.doc}{f' [{bounds}]' if bounds else ''}{default}".replace("%", "%%")
        option = f"--{row.name.replace('_', '-')}"
        if row.type is bool:
            group.add_argument(option, action=argparse.BooleanOptionalAction, default=None, help=text)
        elif row.type is tuple:
            group.add_argument(option, nargs="+", default=None, metavar="TEXT", help=text)
        else:
            metavar = None if row.choices else {str: "NAME", int: "N", float: "X"}[row.type]
            group.add_argument(option, type=row.type, default=None, choices=row.choices or None, metavar=metavar, help=text)


def config_from(args: argparse.Namespace, **defaults: object) -> Config:
    """Return the configuration given on the command line.

    Args:
        args: Parsed arguments.
        defaults: Values that replace the defaults of the parameter table.

    Raises:
        ConfigError: A value is out of range.
    """
    given = {row.name: getattr(args, row.name, None) for row in parameters()}
    return Config.from_mapping({**defaults, **{name: value for name, value in given.items() if value is not None}})


def add_rerun_options(parser: argparse.ArgumentParser, metavar: str = "FILE.rrd", help_text: str = "") -> None:
    """Add --rerun and what belongs to it; without a `help_text` for --rerun, only the latter."""
    group = parser.add_argument_group("Rerun")
    if help_text:
        group.add_argument("--rerun", type=Path, metavar=metavar, help=help_text)
    defaults = RerunOptions()
    group.add_argument(
        "--rerun-points",
        type=int,
        default=defaults.points,
        metavar="N",
        help="maximum number of points of a frame, 0 for no points (default: %(default)s)",
    )
    group.add_argument(
        "--rerun-jpeg",
        type=int,
        default=defaults.jpeg,
        metavar="Q",
        help="JPEG quality of the images, 1 to 100, 0 for no compression (default: %(default)s)",
    )


def rerun_options(args: argparse.Namespace) -> RerunOptions:
    """Return the values of the options of `add_rerun_options`.

    Raises:
        ConfigError: A value is out of range.
        DependencyError: --rerun is given, and rerun-sdk is not installed.
    """
    if args.rerun_points < 0:
        raise ConfigError(f"--rerun-points {args.rerun_points}: give 0 or more")
    if not 0 <= args.rerun_jpeg <= 100:
        raise ConfigError(f"--rerun-jpeg {args.rerun_jpeg}: give 0 to 100")
    if getattr(args, "rerun", None) is not None:
        require_rerun("--rerun")
    return RerunOptions(args.rerun_points, args.rerun_jpeg)


def parse_size(text: str) -> tuple[int, int]:
    """Return width and height of the value of --size.

    Raises:
        ConfigError: The value is not WIDTHxHEIGHT.
    """
    match = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", text, re.ASCII)
    if not match:
        raise ConfigError(f"--size {text!r} is not WIDTHxHEIGHT")
    return int(match[1]), int(match[2])


def output_file(path: Path, force: bool) -> Path:
    """Return the path of a weights file to write.

    Raises:
        WeightsError: It is a directory, or exists and may not be replaced.
    """
    if path.is_dir():
        raise WeightsError(f"cannot write {path}: it is a directory; give a file name")
    if path.exists() and not force:
        raise WeightsError(f"output {path} already exists; choose another name, or replace it with --force")
    return path


def refuse_held_out(description: Description, data: Iterable[str], failed: str) -> None:
    """Refuse data sets that the weights' card names as held out.

    Args:
        description: Description of the weights.
        data: Names of the data sets.
        failed: What cannot be done, for the message.

    Raises:
        ConfigError: One of them is held out.
    """
    held_out = {str(entry).partition(":")[0] for entry in description.card.get("held_out", ())}
    for name in data:
        if name in held_out:
            raise ConfigError(
                f"{failed} on {name}: its card names it as held out, so its error there would no longer be that of unseen "
                "images; give other data"
            )


def print_license(description: Description) -> None:
    """Print name and license of the weights on stderr."""
    print(f"weights {description.name!r}; license: {description.license}", file=sys.stderr)


def print_notes(pipeline: Pipeline) -> None:
    """Print the notes of a pipeline on stderr."""
    for note in pipeline.notes:
        print(note, file=sys.stderr)
