"""Reads the YAML file of a training run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mtl_perception.errors import ConfigError
from mtl_perception.training.config import TrainConfig
from mtl_perception.yaml_fields import YamlFields, build, read_yaml


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
    return build(TrainConfig, YamlFields(data, str(path), path.parent))


def _read_with_base(path: Path, seen: tuple[Path, ...]) -> dict[Any, Any]:
    fields = YamlFields(read_yaml(path), str(path), path.parent)
    data = {key: value for key, value in fields.values.items() if key != "base"}
    if "base" not in fields:
        return data
    base = fields.path("base").resolve()
    if base in seen:
        raise ConfigError(f"{path}: base {fields.text('base')} leads back to this file; remove one of the two")
    return _merge(_read_with_base(base, (*seen, path.resolve())), data)


def _merge(lower: dict[Any, Any], upper: dict[Any, Any]) -> dict[Any, Any]:
    """Merge nested mappings; values of `upper` win."""
    merged = dict(lower)
    for key, value in upper.items():
        nested = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if nested else value
    return merged
