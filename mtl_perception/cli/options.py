"""Command-line options made from the table of parameters."""

from __future__ import annotations

import argparse
from collections.abc import Collection

from mtl_perception.config import Config, parameters


def add_parameters(parser: argparse.ArgumentParser, only: Collection[str] = ()) -> None:
    """An option for each row that means something without a node: `--max-depth` for max_depth.

    Args:
        parser: Gets the options.
        only: Names of the rows that mean something to this command; empty: all.
    """
    group = parser.add_argument_group("parameters")
    for row in parameters():
        if row.node_only or (only and row.name not in only):
            continue
        bounds = row.range_text()
        text = f"{row.doc}{f' ({bounds})' if bounds else ''}; default {row.default!r}".replace("%", "%%")
        option = f"--{row.name.replace('_', '-')}"
        if row.type is bool:
            group.add_argument(option, action=argparse.BooleanOptionalAction, default=None, help=text)
        else:
            metavar = None if row.choices else {str: "NAME", int: "N", float: "X"}[row.type]
            group.add_argument(option, type=row.type, default=None, choices=row.choices or None, metavar=metavar, help=text)


def config_from(args: argparse.Namespace, **defaults: object) -> Config:
    """The parameters that were given, over `defaults`, over the table's own.

    Raises:
        ConfigError: A value out of bounds.
    """
    given = {row.name: getattr(args, row.name, None) for row in parameters()}
    return Config.from_mapping({**defaults, **{name: value for name, value in given.items() if value is not None}})
