"""Which parameters the arguments of a process give to a node, and where they say so.

rclpy hands a node one merged set, in which a name of a file's `/**` section, which may be meant for another node, looks like
one that was written for this node.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import yaml

from mtl_perception import config
from mtl_perception.errors import one_line

MARK = "ros__parameters"
LAUNCH_FILES = "launch_params_"
"""How names of files begin that launch makes: of a node's dictionaries, and of files with substitutions."""
SLIP = 0.8
"""Likeness to one of our names, of 1, from which a name is that one with a letter wrong, not another node's."""
# rcl reads by libyaml as well; PyYAML's own parser refuses tabs that it takes.
LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Meant(Enum):
    """Whom a parameter is meant for."""

    THIS = "this node: it is named"
    LIKELY = "no node is named: this one, most likely, but launch files give parameters to all nodes in the same way"
    ALL = "all nodes, each of which takes what is its own"


@dataclass(frozen=True)
class Override:
    """A parameter that is given at start.

    Attributes:
        name: The parameter's, with points where the file nests.
        place: Where it is given: the argument, or file, line and section.
        meant: Whom for.
    """

    name: str
    place: str
    meant: Meant


def overrides(arguments: Sequence[str], node: str, warn: Callable[[str], object]) -> Iterator[Override]:
    """What `--ros-args` gives to a node, in the order of the arguments.

    Args:
        arguments: Of the command line, as rclpy took them.
        node: The node's full name, after remapping.
        warn: Is told of a file that cannot be read here, though rcl took it.
    """
    inside = False
    for flag, value in zip(arguments, [*arguments[1:], ""], strict=True):
        if flag in ("--ros-args", "--"):
            inside = flag == "--ros-args"
        elif inside and flag in ("-p", "--param"):
            target, _, name = value.partition(":=")[0].rpartition(":")
            if not target:
                yield Override(name, f"{flag} {one_line(value)}", Meant.LIKELY)
            elif _applies(target, node):
                yield Override(name, f"{flag} {one_line(value)}", Meant.THIS)
        elif inside and flag == "--params-file":
            try:
                yield from _of_file(Path(value), node)
            except (OSError, ValueError, yaml.YAMLError) as error:
                warn(f"file of parameters {one_line(value)}: its names are not checked: {one_line(error)}")


def _of_file(path: Path, node: str) -> list[Override]:
    entries = [
        ("/".join(keys[: keys.index(MARK)]), ".".join(keys[keys.index(MARK) + 1 :]), line)
        for keys, line in _values(path.read_bytes())
        if MARK in keys
    ]
    is_likely = {section for section, *_ in entries} == {"/**"} and (
        path.name.startswith(LAUNCH_FILES) or _are_mostly_ours([name for _, name, _ in entries])
    )
    return [
        Override(name, f"{path}, line {line}, section {one_line(section)}", Meant.LIKELY if is_likely else _meant(section))
        for section, name, line in entries
        if _applies(section, node)
    ]


def _are_mostly_ours(names: list[str]) -> bool:
    """Or misspelt ones of ours, as in a copy of a file that is shipped: a file for many nodes holds more names of others."""
    ours = {row.name for row in config.parameters()}
    return sum(name in ours or bool(config.nearest(name, SLIP)) for name in names) > len(names) / 2


def _values(content: bytes) -> Iterator[tuple[list[str], int]]:
    """The keys above each value, and the line of the last, counted from 1.

    By events, not values: rcl takes texts for dates and numbers otherwise than YAML's types do, and lists of any depth.

    Raises:
        ValueError: A key is not a plain word.
        yaml.YAMLError: It is not YAML.
    """
    keys: list[str | None] = []  # of the open mappings; None where the next event is a key
    lists = line = 0
    event: Any
    for event in yaml.parse(content, Loader=LOADER):
        lists += isinstance(event, yaml.SequenceStartEvent) - isinstance(event, yaml.SequenceEndEvent)
        if lists:
            continue
        if isinstance(event, yaml.MappingEndEvent):
            keys = [*keys[:-2], None] if len(keys) > 1 else []
        elif keys and keys[-1] is None:
            line = event.start_mark.line + 1
            if not isinstance(event, yaml.ScalarEvent):
                raise ValueError(f"line {line}: a key is not a word")
            keys[-1] = event.value
        elif isinstance(event, yaml.MappingStartEvent):
            keys.append(None)
        elif keys:
            yield [str(key) for key in keys], line
            keys[-1] = None


def _meant(section: str) -> Meant:
    """By the last part of whom it is for: /**/mtl_perception is this node, wherever it is."""
    return Meant.ALL if "*" in section.rpartition("/")[2] else Meant.THIS


def _applies(section: str, node: str) -> bool:
    """By rcl's rule: `*` is one part of a name, `**` any number of them; the leading slash may be left out."""
    pattern = re.escape("/" + section.removeprefix("/"))
    pattern = pattern.replace(re.escape("/**"), r"(/\w+)*").replace(re.escape("/*"), r"(/\w+)")
    return re.fullmatch(pattern, node) is not None
