"""A YAML mapping that is read key by key, each checked, and whose unknown keys are refused."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from string import Template

import yaml

from mtl_perception.errors import ConfigError


class Fields:
    """The keys of one mapping. Every error names the place and the key.

    Args:
        values: What YAML gave.
        where: The place, which begins every message: the file, and the entry in it.

    Raises:
        ConfigError: It is not a mapping with texts for keys.
    """

    def __init__(self, values: object, where: str) -> None:
        if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
            raise ConfigError(f"{where}: not a mapping of `key: value` lines")
        self.values: dict[str, object] = dict(values)
        self.where = where

    def only(self, known: Iterable[str]) -> None:
        """Refuse every key that is not `known`, suggesting the nearest one that is."""
        known = list(known)
        for key in self.values:
            if key not in known:
                close = difflib.get_close_matches(key, known, n=1)
                hint = f"; did you mean {close[0]!r}?" if close else f" (known: {', '.join(known)})"
                raise ConfigError(f"{self.where}: unknown key {key!r}{hint}")

    def __contains__(self, key: str) -> bool:
        return key in self.values

    def raw(self, key: str) -> object:
        """The value as YAML gave it; None where the key is not there."""
        return self.values.get(key)

    def text(self, key: str, default: str | None = None) -> str:
        """A text that is not empty; without a default the key must be there."""
        value = self.values.get(key, default)
        if value is None:
            raise ConfigError(f"{self.where}: {key} is missing")
        if not isinstance(value, str) or not value:
            raise ConfigError(f"{self.where}: {key}: {value!r} is not a text")
        return value

    def name(self, key: str, default: str) -> str:
        """A text that can also name a file: without slashes."""
        value = self.text(key, default) if key in self else default
        if "/" in value or "\\" in value or value.startswith("."):
            raise ConfigError(f"{self.where}: {key}: {value!r} is not a name: no slashes, no dot at the start")
        return value

    def flag(self, key: str, default: bool) -> bool:
        """True or false."""
        value = self.values.get(key, default)
        if not isinstance(value, bool):
            raise ConfigError(f"{self.where}: {key}: {value!r} is neither true nor false")
        return value

    def integer(self, key: str, default: int | None = None, *, low: int = 0) -> int:
        """A whole number of at least `low`; without a default the key must be there."""
        value = self.values.get(key, default)
        if value is None:
            raise ConfigError(f"{self.where}: {key} is missing")
        if type(value) is not int or value < low:
            raise ConfigError(f"{self.where}: {key}: {value!r} is not a whole number of at least {low}")
        return value

    def number(self, key: str, default: float | None = None, *, positive: bool = True) -> float:
        """A finite number, above 0 if it must be `positive`; without a default the key must be there."""
        value = self.values.get(key, default)
        if value is None:
            raise ConfigError(f"{self.where}: {key} is missing")
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise ConfigError(f"{self.where}: {key}: {value!r} is not a number")
        if positive and value <= 0:
            raise ConfigError(f"{self.where}: {key}: {value!r} is not above 0")
        return float(value)

    def path(self, key: str, base: Path, variables: Mapping[str, str]) -> Path:
        """A path, which begins at `base` if it is relative; `~` and `${NAME}` in it are replaced."""
        text = self.text(key)
        try:
            return base / Path(Template(text).substitute(variables)).expanduser()
        except KeyError as error:
            name = error.args[0]
            raise ConfigError(
                f"{self.where}: {key}: {text!r} needs the environment variable {name}: set it to the folder that it stands for"
            ) from None
        except (ValueError, RuntimeError):
            raise ConfigError(f"{self.where}: {key}: {text!r}: write variables as ${{NAME}}") from None

    def choice(self, key: str, choices: Iterable[str], default: str | None = None) -> str:
        """One of several words."""
        value, choices = self.text(key, default), list(choices)
        if value not in choices:
            close = difflib.get_close_matches(value, choices, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise ConfigError(f"{self.where}: {key}: {value!r} is not one of {', '.join(choices)}{hint}")
        return value


def literal(path: Path) -> str:
    """The path as `Fields.path` gives it back."""
    return str(path.absolute()).replace("$", "$$")


def read_yaml(path: Path) -> object:
    """What a YAML file holds.

    Raises:
        ConfigError: It cannot be read, or is not YAML.
    """
    try:
        return yaml.safe_load(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
