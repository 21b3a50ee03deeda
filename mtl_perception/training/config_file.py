"""Reads the YAML file of a training run."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from mtl_perception.errors import ConfigError, did_you_mean
from mtl_perception.training.config import PATH, TrainConfig
from mtl_perception.training.data.fields import expand_path, read_yaml

MAY_BE_EMPTY = ("augmentation.late_focal_length",)
"""Keys of a fixed number of values that an empty list switches off."""
KINDS = {str: "text", int: "an integer", float: "a number", bool: "true or false"}


def read_config(path: Path, changes: Mapping[str, Any] | None = None) -> TrainConfig:
    """Read a training configuration.

    Args:
        path: YAML file; its key `base` names another file, relative to it, which provides the values that it does not set.
        changes: Values that override the file, by dotted name (`optimizer.ema`).

    Raises:
        ConfigError: The file cannot be read, a key is unknown (the message suggests the closest one), a value is invalid, or a
            path needs an environment variable that is not set.
    """
    data = _read_with_base(path, ())
    for name, value in (changes or {}).items():
        *parents, last = name.split(".")
        target = data
        for parent in parents:
            target = target.setdefault(parent, {})
            if not isinstance(target, dict):
                raise ConfigError(f"{path}: {name}: {parent} is not a mapping")
        target[last] = value
    try:
        config: TrainConfig = _build(TrainConfig, data, "")
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    return config


def _read_with_base(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    data = read_yaml(path)
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: not a mapping of `key: value` lines")
    base = data.pop("base", None)
    if base is None:
        return data
    other = (path.parent / str(base)).resolve()
    if other in seen:
        raise ConfigError(f"{path}: base {base} leads back to this file; remove one of the two")
    return _merge(_read_with_base(other, (*seen, path.resolve())), data)


def _merge(lower: dict[str, Any], upper: dict[str, Any]) -> dict[str, Any]:
    """Merge nested mappings; values of `upper` win."""
    merged = dict(lower)
    for key, value in upper.items():
        nested = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if nested else value
    return merged


def _build(cls: type, data: Any, where: str) -> Any:
    """Build a dataclass from a mapping, and check the values against the annotations."""
    if not isinstance(data, Mapping):
        raise ConfigError(f"{where or 'the configuration'}: {data!r} is not a mapping")
    hints = get_type_hints(cls)
    known = {entry.name: entry for entry in fields(cls)}
    prefix = f"{where}." if where else ""
    for key in data:
        if key not in known:
            raise ConfigError(f"unknown key {prefix}{key}{did_you_mean(key, known)}")
    for name, entry in known.items():
        if entry.default is MISSING and entry.default_factory is MISSING and name not in data:
            raise ConfigError(f"{prefix}{name} is missing")
    values = {}
    for key, value in data.items():
        is_path = known[key].metadata == PATH and isinstance(value, str)
        values[key] = expand_path(value, prefix + key) if is_path else _convert(hints[key], value, prefix + key)
    return cls(**values)


def _convert(kind: Any, value: Any, where: str) -> Any:
    """Convert a YAML value to an annotated type."""
    if is_dataclass(kind) and isinstance(kind, type):
        return _build(kind, value, where)
    origin, arguments = get_origin(kind) or kind, get_args(kind)
    if origin is float and _is_number(number := _parse_exponent(value)):
        return float(number)
    if origin is tuple and isinstance(value, list | tuple):
        if arguments[-1] is Ellipsis:
            return tuple(_convert(arguments[0], item, where) for item in value)
        if len(arguments) == len(value) or (not value and where in MAY_BE_EMPTY):
            return tuple(_convert(argument, item, where) for argument, item in zip(arguments, value, strict=False))
    if origin is dict and isinstance(value, dict):
        return {
            str(key): item if arguments[1] is Any else _convert(arguments[1], item, f"{where}.{key}")
            for key, item in value.items()
        }
    if origin in (str, bool, int) and isinstance(value, origin) and not (origin is int and isinstance(value, bool)):
        return value
    raise ConfigError(f"{where}: {value!r} is not {KINDS.get(kind, str(kind).replace('typing.', ''))}")


def _parse_exponent(value: Any) -> Any:
    """Convert 1e-4, which YAML 1.1 reads as text because it has no decimal point."""
    return float(value) if isinstance(value, str) and re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", value) else value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
