"""`parameters`: prints the table of parameters, for people, for the documentation and as a ROS parameters file."""

from __future__ import annotations

import argparse
import textwrap

import yaml

from mtl_perception.config import Parameter, parameters


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's own arguments."""
    parser.add_argument(
        "--format",
        choices=tuple(FORMATS),
        default="text",
        help="text, a markdown table, or a ROS parameters file (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Print the table."""
    print(FORMATS[args.format](), end="")
    return 0


def as_text() -> str:
    """Two lines a parameter: name, default, range; what it does, when it can change."""
    return "".join(
        f"{p.name} = {_scalar(p)}{_bracketed(p.range_text())}\n    {p.doc}. Changeable {p.when}.\n" for p in parameters()
    )


def as_markdown() -> str:
    """A markdown table with a row for each parameter."""
    rows = ["| parameter | default | range | changeable | what it does |", "|---|---|---|---|---|"]
    rows += [f"| `{p.name}` | `{_scalar(p)}` | {p.range_text()} | {p.when} | {_escape(p.doc)} |" for p in parameters()]
    return "\n".join(rows) + "\n"


def as_yaml() -> str:
    """A ROS parameters file with every default, the documentation as comments."""
    lines = [
        "# All parameters of the node, with their defaults. Made by: mtl_perception parameters --format yaml",
        "/**:",
        "  ros__parameters:",
    ]
    for p in parameters():
        lines += textwrap.wrap(
            f"{p.doc}{_bracketed(p.range_text())}. Changeable {p.when}.",
            width=110,
            initial_indent="    # ",
            subsequent_indent="    # ",
        )
        lines += [f"    {p.name}: {_scalar(p)}"]
    return "\n".join(lines) + "\n"


def _scalar(parameter: Parameter) -> str:
    """The default as YAML writes it."""
    if parameter.type is tuple:
        # An empty list has no type in ROS.
        return str(yaml.safe_dump(list(parameter.default) or [""], default_flow_style=True, default_style='"')).strip()
    return str(yaml.safe_dump(parameter.default, default_style='"' if parameter.type is str else None)).splitlines()[0]


def _bracketed(text: str) -> str:
    return f" [{text}]" if text else ""


def _escape(text: str) -> str:
    return text.replace("|", "\\|")


FORMATS = {"text": as_text, "markdown": as_markdown, "yaml": as_yaml}
