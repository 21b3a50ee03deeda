"""Parameters given to a node on the command line and in parameter files, with the places where they are given.

rclpy gives a node one merged set, which does not tell whether a parameter was given to this node or to all nodes.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mtl_perception.errors import ConfigError, one_line

PARAMETERS_KEY = "ros__parameters"
# libyaml, which rcl uses as well: PyYAML's own parser refuses tabs that rcl accepts.
LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class Override:
    """A parameter given at startup.

    Attributes:
        name: Name of the parameter, with dots for nested keys of a file.
        place: The argument, or file, line and section.
        names_node: Whether it is given under the name of this node, not to all nodes.
    """

    name: str
    place: str
    names_node: bool


def find_overrides(arguments: Sequence[str], node: str, warn: Callable[[str], object]) -> Iterator[Override]:
    """Find the parameters that `--ros-args` give to a node, in the order of the arguments.

    Args:
        arguments: Command line as given to rclpy.
        node: Full name of the node, after remapping.
        warn: Called with a message about a file that rcl can read but PyYAML cannot, or that has no section for the node.

    Raises:
        ConfigError: A parameter of the node is a list of mappings.
    """
    in_ros_args = False
    for flag, value in zip(arguments, [*arguments[1:], ""], strict=True):
        if flag in ("--ros-args", "--"):
            in_ros_args = flag == "--ros-args"
        elif in_ros_args and flag in ("-p", "--param"):
            target, _, name = value.partition(":=")[0].rpartition(":")
            if not target or _matches(target, node):
                yield Override(name, f"{flag} {one_line(value)}", _is_name(target))
        elif in_ros_args and flag == "--params-file":
            try:
                yield from _find_in_file(Path(value), node, warn)
            except (OSError, ValueError, yaml.YAMLError) as error:
                warn(f"cannot check the parameter names in {one_line(value)}: {one_line(error)}")


def find_file_fault(arguments: Sequence[str]) -> str:
    """Return why a parameter file cannot be read, more precisely than rcl's parser does; empty if each can."""
    for flag, value in itertools.pairwise(arguments):
        if flag != "--params-file":
            continue
        try:
            with Path(value).open("rb") as file:
                event: Any
                for event in yaml.parse(file, Loader=LOADER):
                    if getattr(event, "value", "") == PARAMETERS_KEY.replace("__", "_"):
                        line = event.start_mark.line + 1
                        return f"{value}, line {line}: {event.value} has one underscore; write {PARAMETERS_KEY}, with two"
        except OSError as error:
            hint = "; give the whole path, because ROS does not expand ~" if value.startswith("~") else ""
            return f"{value}: {error.strerror}{hint}"
        except yaml.YAMLError as error:
            return one_line(error)
    return ""


def _find_in_file(path: Path, node: str, warn: Callable[[str], object]) -> list[Override]:
    found, others = [], []
    for keys, line, has_mappings in _values(path.read_bytes()):
        if PARAMETERS_KEY in keys:
            split = keys.index(PARAMETERS_KEY)
            section, name = "/".join(keys[:split]), ".".join(keys[split + 1 :])
            if _matches(section, node):
                if has_mappings:
                    # rcl takes the keys of the mappings for names of other parameters, and the list is lost.
                    raise ConfigError(
                        f"{path}, line {line}: parameter {name} has mappings in a list; put each entry in quotes, as in "
                        '- "name: value"'
                    )
                found.append(Override(name, f"{path}, line {line}, section {one_line(section)}", _is_name(section)))
            else:
                others.append(section)
    if others and not found:
        # rcl skips sections of other nodes silently, so that a wrong name leaves every parameter at its default.
        sections = one_line(", ".join(dict.fromkeys(others)), 200)
        warn(f"no section of {path} applies to {node}: it has sections for {sections}; name it {node.lstrip('/')} or /**")
    return found


def _values(content: bytes) -> Iterator[tuple[list[str], int, bool]]:
    """Iterate over the values of a YAML file.

    Yields the keys that lead to each, the line of the last key, counted from 1, and whether it is a list with mappings.

    This parses events instead of loading values, because rcl allows lists of any depth and converts scalars differently.

    Raises:
        ValueError: A key is not a scalar.
        yaml.YAMLError: The content is not YAML.
    """
    keys: list[str | None] = []  # Of the open mappings; None if the next event is a key.
    lists = line = 0
    has_mappings = False
    event: Any
    for event in yaml.parse(content, Loader=LOADER):
        lists += isinstance(event, yaml.SequenceStartEvent) - isinstance(event, yaml.SequenceEndEvent)
        if lists:
            has_mappings |= isinstance(event, yaml.MappingStartEvent)
            continue
        if isinstance(event, yaml.MappingEndEvent):
            keys = [*keys[:-2], None] if len(keys) > 1 else []
        elif keys and keys[-1] is None:
            line = event.start_mark.line + 1
            if not isinstance(event, yaml.ScalarEvent):
                raise ValueError(f"line {line}: key is not a scalar")
            keys[-1] = event.value
        elif isinstance(event, yaml.MappingStartEvent):
            keys.append(None)
        elif keys:
            yield [str(key) for key in keys], line, has_mappings
            keys[-1], has_mappings = None, False


def _is_name(section: str) -> bool:
    """Return whether the last part is a node name: `/**/mtl_perception` is this node in any namespace."""
    last = section.rpartition("/")[2]
    return bool(last) and "*" not in last


def _matches(section: str, node: str) -> bool:
    """Return whether a section applies to a node, as rcl does: `*` matches one part of the name, `**` any number of parts."""
    pattern = re.escape("/" + section.removeprefix("/"))
    pattern = pattern.replace(re.escape("/**"), r"(/\w+)*").replace(re.escape("/*"), r"(/\w+)")
    return re.fullmatch(pattern, node) is not None
