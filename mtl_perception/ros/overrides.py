"""Which parameters the arguments of a process give to a node, and where they say so.

rclpy hands a node one merged set, in which a name of a file's `/**` section, which may be meant for another node, looks like
one that was written for this node.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from mtl_perception.errors import ConfigError, said

MARK = "ros__parameters"


@dataclass(frozen=True)
class Override:
    """A parameter that is given at start.

    Attributes:
        name: The parameter's, with points where the file nests.
        place: Where it is given: the argument, or file, line and section.
        is_ours: It is given to this node, not to all that match a wildcard.
    """

    name: str
    place: str
    is_ours: bool


def overrides(arguments: Sequence[str], node: str) -> Iterator[Override]:
    """What `--ros-args` gives to a node, in the order of the arguments.

    Args:
        arguments: Of the command line, as rclpy took them.
        node: The node's full name, after remapping.

    Raises:
        ConfigError: A file of parameters cannot be read.
    """
    inside = False
    for flag, value in zip(arguments, [*arguments[1:], ""], strict=True):
        if flag in ("--ros-args", "--"):
            inside = flag == "--ros-args"
        elif inside and flag in ("-p", "--param"):
            target, _, name = value.partition(":=")[0].rpartition(":")
            if not target or _applies(target, node):
                yield Override(name, f"{flag} {said(value)}", True)
        elif inside and flag == "--params-file":
            yield from _of_file(Path(value), node)


def _of_file(path: Path, node: str) -> Iterator[Override]:
    try:
        # Nodes, not values: rcl takes texts for dates and numbers otherwise than YAML's types do.
        documents = list(yaml.compose_all(path.read_text("utf-8"), Loader=yaml.SafeLoader))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise ConfigError(f"file of parameters {path} cannot be read: {said(error)}") from error
    for document in documents:
        for section, block in _sections(document, ""):
            if _applies(section, node):
                # The last part tells whom it means: /**/mtl_perception is this node, wherever it is.
                is_ours = "*" not in section.rpartition("/")[2]
                for name, line in _names(block, ""):
                    yield Override(name, f"{path}, line {line}, section {said(section)}", is_ours)


def _sections(block: yaml.Node | None, above: str) -> Iterator[tuple[str, yaml.Node]]:
    """Each node's name with what is under its `ros__parameters`; namespaces may be written as levels."""
    for key, value in _entries(block):
        if key.value == MARK:
            yield above, value
        else:
            yield from _sections(value, f"{above}/{key.value}" if above else str(key.value))


def _names(block: yaml.Node | None, above: str) -> Iterator[tuple[str, int]]:
    """Parameters and their lines, counted from 1."""
    for key, value in _entries(block):
        name = f"{above}.{key.value}" if above else str(key.value)
        if isinstance(value, yaml.MappingNode):
            yield from _names(value, name)
        else:
            yield name, key.start_mark.line + 1


def _entries(block: yaml.Node | None) -> list[tuple[yaml.Node, yaml.Node]]:
    return block.value if isinstance(block, yaml.MappingNode) else []


def _applies(section: str, node: str) -> bool:
    """By rcl's rule: `*` is one part of a name, `**` any number of them; the leading slash may be left out."""
    pattern = re.escape("/" + section.removeprefix("/"))
    pattern = pattern.replace(re.escape("/**"), r"(/\w+)*").replace(re.escape("/*"), r"(/\w+)")
    return re.fullmatch(pattern, node) is not None
