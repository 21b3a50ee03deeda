"""Selection of a part of a data set."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from mtl_perception.errors import ConfigError, SourceError
from mtl_perception.training.data.dataset import Dataset, Subset
from mtl_perception.yaml_fields import YamlFields

KEYS = ("block", "every", "offset", "list", "invert", "need")
NEEDS = ("labels", "depth", "both")


def select(dataset: Dataset, values: object, base: Path, where: str) -> Subset:
    """Return the samples that satisfy every given rule.

    Args:
        dataset: The data set.
        values: `block`, `every`, `offset`: select a sample if number // block % every == offset; its number are the digits at
            the start of its name. Whole blocks stay together because neighbors show the same street.
            `list`: a file with one name per line. `invert`: select the samples that these rules leave out. `need`: select only
            samples that have labels, depth or both.
        base: Folder that a relative `list` starts from.
        where: Start of every error message.

    Raises:
        ConfigError: A key is invalid, or no sample is left.
        SourceError: The list cannot be read, or names an unknown sample.
    """
    fields = YamlFields(values, where, base)
    fields.only(KEYS)
    invert = fields.flag("invert", False)
    indices = list(range(len(dataset)))
    rules = [rule for rule in (_number_rule(fields), _list_rule(fields, dataset)) if rule is not None]
    if rules:
        indices = [i for i in indices if all(rule(dataset.keys[i]) for rule in rules) != invert]
    elif invert:
        raise ConfigError(f"{where}: invert: there is no rule to invert; give block, every and offset, or list")
    if "need" in fields:
        need = fields.choice("need", NEEDS)
        indices = [
            i for i in indices if (need == "depth" or dataset.has_labels(i)) and (need == "labels" or dataset.has_depth(i))
        ]
    if not indices:
        raise ConfigError(f"{where}: none of the {len(dataset)} samples of {dataset.name} is left")
    return Subset(dataset, indices)


def _number_rule(fields: YamlFields) -> Callable[[str], bool] | None:
    if not any(key in fields for key in ("block", "every", "offset")):
        return None
    block, every, offset = fields.integer("block", 1, low=1), fields.integer("every", low=1), fields.integer("offset", 0)
    if offset >= every:
        raise ConfigError(f"{fields.where}: offset: {offset} is not below every ({every})")

    def matches(key: str) -> bool:
        match = re.match(r"\d+", key.rpartition("/")[2])
        if match is None:
            raise ConfigError(f"{fields.where}: the name {key!r} does not start with a number; select by list")
        return int(match[0]) // block % every == offset

    return matches


def _list_rule(fields: YamlFields, dataset: Dataset) -> Callable[[str], bool] | None:
    if "list" not in fields:
        return None
    path = fields.path("list")
    try:
        lines = [line.strip() for line in path.read_text("utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"{fields.where}: list: {path} cannot be read: {error}") from None
    known = set(dataset.keys)
    names = [line for line in lines if line and not line.startswith("#")]
    missing = next((name for name in names if name not in known), None)
    if missing is not None:
        raise SourceError(f"{fields.where}: list: {path} names {missing!r}, which is not in {dataset.name}")
    selected = set(names)
    return lambda key: key in selected


def spread_evenly(count: int, limit: int) -> list[int]:
    """Return the indices of at most `limit` (0: all) of `count` samples, evenly spread."""
    limit = min(limit or count, count)
    return [place * count // limit for place in range(limit)]
