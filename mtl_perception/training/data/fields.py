"""Checked access to the values of a YAML mapping."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from pathlib import Path
from string import Template

import yaml

from mtl_perception.errors import ConfigError, did_you_mean


class Fields:
    """A YAML mapping whose values are checked on access. Every error names the place and the key.

    Args:
        values: What YAML returned.
        where: Start of every message: the file, and the entry in it.
        base: Folder that relative paths start from.

    Raises:
        ConfigError: The value is not a mapping with text keys.
    """

    def __init__(self, values: object, where: str, base: Path = Path()) -> None:
        if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
            raise ConfigError(f"{where}: not a mapping of `key: value` lines")
        self.values: dict[str, object] = dict(values)
        self.where = where
        self.base = base

    def only(self, known: Iterable[str]) -> None:
        """Refuse every key that is not in `known`, and suggest the closest one.

        Raises:
            ConfigError: A key is unknown.
        """
        known = list(known)
        for key in self.values:
            if key not in known:
                hint = did_you_mean(key, known) or f" (known: {', '.join(known)})"
                raise ConfigError(f"{self.where}: unknown key {key!r}{hint}")

    def __contains__(self, key: str) -> bool:
        return key in self.values

    def raw(self, key: str) -> object:
        """Return the unchecked value; None for a missing key."""
        return self.values.get(key)

    def text(self, key: str, default: str | None = None) -> str:
        """Return a non-empty string; without a default the key is required."""
        value = self._value(key, default)
        if not isinstance(value, str) or not value:
            raise ConfigError(f"{self.where}: {key}: {value!r} is not a text")
        return value

    def name(self, key: str, default: str) -> str:
        """Return a string that is usable as a file name."""
        value = self.text(key, default) if key in self else default
        if "/" in value or "\\" in value or value.startswith("."):
            raise ConfigError(f"{self.where}: {key}: {value!r} is not a name; use no slashes and no dot at the start")
        return value

    def flag(self, key: str, default: bool) -> bool:
        """Return a boolean."""
        value = self.values.get(key, default)
        if not isinstance(value, bool):
            raise ConfigError(f"{self.where}: {key}: {value!r} is not true or false")
        return value

    def integer(self, key: str, default: int | None = None, *, low: int = 0) -> int:
        """Return an integer of at least `low`; without a default the key is required."""
        value = self._value(key, default)
        if type(value) is not int or value < low:
            raise ConfigError(f"{self.where}: {key}: {value!r} is not an integer of at least {low}")
        return value

    def number(self, key: str, default: float | None = None, *, low: float = -math.inf, positive: bool = False) -> float:
        """Return a finite number of at least `low`, or above 0 if `positive`; without a default the key is required."""
        value = self._value(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ConfigError(f"{self.where}: {key}: {value!r} is not a number")
        if value < low:
            raise ConfigError(f"{self.where}: {key}: {value!r} is below {low:g}")
        if positive and value <= 0:
            raise ConfigError(f"{self.where}: {key}: {value!r} is not above 0")
        return float(value)

    def path(self, key: str) -> Path:
        """Return the path of a required key, with `~` and `${NAME}` expanded."""
        return self.base / expand_path(self.text(key), f"{self.where}: {key}")

    def choice(self, key: str, choices: Iterable[str], default: str | None = None) -> str:
        """Return one of several strings."""
        value, choices = self.text(key, default), list(choices)
        if value not in choices:
            hint = did_you_mean(value, choices)
            raise ConfigError(f"{self.where}: {key}: {value!r} is not one of {', '.join(choices)}{hint}")
        return value

    def _value(self, key: str, default: object) -> object:
        value = self.values.get(key, default)
        if value is None:
            raise ConfigError(f"{self.where}: {key} is missing")
        return value


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
    """Return the absolute path as text that `Fields.path` expands to the same path."""
    return str(path.absolute()).replace("$", "$$")


def read_yaml(path: Path) -> object:
    """Return the content of a YAML file.

    Raises:
        ConfigError: The file cannot be read, or is not YAML.
    """
    try:
        return yaml.safe_load(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
