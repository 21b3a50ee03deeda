"""YAML files and checked access to their values. Every error names the file, the key and what to give instead."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from string import Template
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import yaml

from mtl_perception.errors import ConfigError, did_you_mean, one_line, truncated_repr

T = TypeVar("T")
PATH = {"path": True}
"""Metadata of a dataclass field that names a file or folder, in which `~` and `${NAME}` are expanded."""
LOCAL_PATH = {"path": True, "local": True}
"""The same for one that is relative to the folder of the YAML file."""
KINDS: dict[object, tuple[str, str]] = {
    str: ("text", "texts"),
    int: ("an integer", "integers"),
    float: ("a number", "numbers"),
    bool: ("true or false", "values true or false"),
    dict: ("a mapping of `key: value` lines", "mappings"),
}
"""Names of a type in messages: singular and plural."""


def read_yaml(path: Path, where: str = "") -> object:
    """Return the content of a YAML file.

    Args:
        path: The file.
        where: Start of the message; empty: the path.

    Raises:
        ConfigError: The file cannot be read, or is not YAML.
    """
    where = where or str(path)
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise ConfigError(f"{where} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{where} is not YAML: it is not UTF-8 text") from None
    return parse_yaml(text, where)


def parse_yaml(text: str, where: str) -> object:
    """Return the content of a YAML text; `where` is the start of the message.

    Raises:
        ConfigError: The text is not YAML.
    """
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        # ValueError: an invalid date, or a number with too many digits.
        raise ConfigError(f"{where} is not YAML: {one_line(error)}") from None


class YamlFields:
    """A YAML mapping whose values are checked on access.

    A value without a default is required.

    Args:
        values: What YAML returned.
        where: Start of every message: the file, and the entry in it.
        base: Folder that relative paths start from.
        parents: Keys that lead to this mapping, such as "optimizer.", which precede its keys in messages.

    Raises:
        ConfigError: The value is not a mapping.
    """

    def __init__(self, values: object, where: str, base: Path = Path(), parents: str = "") -> None:
        if not isinstance(values, dict):
            raise ConfigError(f"{where}: not {KINDS[dict][0]}")
        self.values: dict[Any, object] = dict(values)
        self.where = where
        self.base = base
        self._parents = parents

    def only(self, known: Iterable[str]) -> None:
        """Refuse every key that is not in `known`, and suggest the closest one.

        Raises:
            ConfigError: A key is unknown.
        """
        known = list(known)
        for key in self.values:
            if key not in known:
                name = truncated_repr(f"{self._parents}{key}" if isinstance(key, str) else key)
                hint = did_you_mean(key, known) or f" (known: {', '.join(known)})"
                raise ConfigError(f"{self.where}: unknown key {name}{hint}")

    def __contains__(self, key: str) -> bool:
        return key in self.values

    def place(self, key: str) -> str:
        """Return the start of messages about a key."""
        return f"{self.where}: {self._parents}{key}"

    def raw(self, key: str) -> object:
        """Return the unchecked value; None for a missing key."""
        return self.values.get(key)

    def get(self, key: str, kind: Any, default: Any = None) -> Any:
        """Return a value converted to an annotated type: one of `KINDS`, a tuple or dict of them, or a dataclass.

        Numbers are finite. A dataclass is built by `build`.

        Raises:
            ConfigError: The value is missing, or of another type.
        """
        if key not in self.values and default is not None:
            return default
        nested = isinstance(kind, type) and is_dataclass(kind)
        expected = _describe(dict if nested else kind)
        if key not in self.values:
            raise ConfigError(f"{self.place(key)} is missing; give {expected}")
        value = self.values[key]
        if value is None:
            raise ConfigError(f"{self.place(key)} has no value; give {expected}, or remove the key")
        return build(kind, self.inner(key)) if nested else _convert(value, kind, self.place(key))

    def inner(self, key: str) -> YamlFields:
        """Return the mapping that a required key contains."""
        return YamlFields(self.get(key, dict), self.where, self.base, f"{self._parents}{key}.")

    def text(self, key: str, default: str | None = None) -> str:
        """Return a non-empty string."""
        value: str = self.get(key, str, default)
        if not value:
            raise ConfigError(f"{self.place(key)} is empty; give text")
        return value

    def name(self, key: str, default: str) -> str:
        """Return a string that is usable as a file name."""
        value = self.text(key) if key in self else default
        if "/" in value or "\\" in value or value.startswith("."):
            raise ConfigError(f"{self.place(key)}: {value!r} is not a name; use no slashes and no dot at the start")
        return value

    def flag(self, key: str, default: bool) -> bool:
        """Return a boolean."""
        return bool(self.get(key, bool, default))

    def integer(self, key: str, default: int | None = None, *, low: int = 0) -> int:
        """Return an integer of at least `low`."""
        value: int = self.get(key, int, default)
        if value < low:
            raise ConfigError(f"{self.place(key)}: {truncated_repr(value)} is below {low}; give {low} or more")
        return value

    def number(self, key: str, default: float | None = None, *, low: float = -math.inf, positive: bool = False) -> float:
        """Return a finite number of at least `low`, or above 0 if `positive`."""
        value: float = self.get(key, float, default)
        if value < low:
            raise ConfigError(f"{self.place(key)}: {value:g} is below {low:g}; give {low:g} or more")
        if positive and value <= 0:
            raise ConfigError(f"{self.place(key)}: {value:g} is not above 0; give more")
        return value

    def path(self, key: str) -> Path:
        """Return the path of a required key, with `~` and `${NAME}` expanded."""
        return self.base / expand_path(self.text(key), self.place(key))

    def choice(self, key: str, choices: Iterable[str], default: str | None = None) -> str:
        """Return one of several strings."""
        value, choices = self.values.get(key, default), list(choices)
        known = ", ".join(choices)
        if value is None:
            raise ConfigError(f"{self.place(key)} is missing; give one of {known}")
        if not isinstance(value, str) or value not in choices:
            hint = did_you_mean(value, choices)
            raise ConfigError(f"{self.place(key)}: {truncated_repr(value)} is not one of {known}{hint}")
        return value


def build(cls: type[T], given: YamlFields) -> T:
    """Build a dataclass from a mapping.

    Values have the annotated types, and those with the metadata `PATH` or `LOCAL_PATH` are expanded.

    Raises:
        ConfigError: A key is unknown or missing, or a value is invalid; also one that the dataclass refuses.
    """
    hints = get_type_hints(cls)
    known = fields(cls)  # type: ignore[arg-type]
    given.only(entry.name for entry in known)
    values = {}
    for entry in known:
        name = entry.name
        if name in given or (entry.default is MISSING and entry.default_factory is MISSING):
            values[name] = given.get(name, hints[name])
            if "path" in entry.metadata:
                values[name] = expand_path(values[name], given.place(name))
            if "local" in entry.metadata and values[name]:
                values[name] = str(given.base / values[name])
    try:
        return cls(**values)
    except ConfigError as error:
        raise ConfigError(f"{given.where}: {error}") from None


def _convert(value: object, kind: Any, where: str) -> Any:
    """Convert a YAML value to an annotated type; `where` is the start of the message."""
    origin, arguments = get_origin(kind) or kind, get_args(kind)
    if kind is Any or (origin in (str, bool) and isinstance(value, origin)) or (origin is int and type(value) is int):
        return value
    if origin is float and (number := _number(value)) is not None:
        return number
    if origin is tuple and isinstance(value, list | tuple):
        kinds = arguments[:1] * len(value) if arguments[-1] is Ellipsis else arguments
        if len(kinds) == len(value):
            pairs = zip(value, kinds, strict=True)
            return tuple(_convert(item, each, f"{where}: entry {i}") for i, (item, each) in enumerate(pairs, 1))
    if origin is dict and isinstance(value, dict):
        if not arguments or arguments[1] is Any:
            return dict(value)
        keys = [_convert(key, str, f"{where}: key") for key in value]
        return {key: _convert(value[key], arguments[1], f"{where}.{key}") for key in keys}
    hint = "; quote it" if kind is str and not isinstance(value, list | dict) else ""
    raise ConfigError(f"{where}: {truncated_repr(value)} is not {_describe(kind)}{hint}")


def _number(value: object) -> float | None:
    """Return a finite number; None for another value."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    # YAML 1.1 reads 1e-4 as text because it has no decimal point.
    if isinstance(value, str) and not re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", value):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _describe(kind: Any, plural: bool = False) -> str:
    """Return an annotated type in words."""
    origin, arguments = get_origin(kind) or kind, get_args(kind)
    if origin is tuple:
        count = "" if arguments[-1] is Ellipsis else f"{len(arguments)} "
        return f"a list of {count}{_describe(arguments[0], plural=True)}"
    return KINDS[origin][plural]


def expand_path(text: str, where: str) -> str:
    """Return a path with `~` and the environment variables `${NAME}` expanded.

    Args:
        text: The path, or a name, which stays as it is.
        where: Start of the message: the file and the key.

    Raises:
        ConfigError: A variable is not set, or `$` is not part of `${NAME}`.
    """
    try:
        return os.path.expanduser(Template(text).substitute(os.environ))
    except KeyError as error:
        raise ConfigError(f"{where}: {text!r} needs the environment variable {error.args[0]}; set it to a folder") from None
    except ValueError:
        raise ConfigError(f"{where}: {text!r}: invalid variable; write ${{NAME}}") from None


def escape_variables(path: Path) -> str:
    """Return the absolute path as text that `YamlFields.path` expands to the same path."""
    return str(path.absolute()).replace("$", "$$")
