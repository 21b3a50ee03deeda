"""Takes part of a data set: by runs of numbers, by a list of names, or by what is known of the samples."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from mtl_perception.errors import ConfigError, SourceError
from mtl_perception.training.data.dataset import Dataset, Selected
from mtl_perception.training.data.fields import Fields

KEYS = ("block", "every", "offset", "list", "invert", "need")
NEEDS = ("labels", "depth", "both")


def select(dataset: Dataset, values: object, base: Path, where: str) -> Selected:
    """The samples that all of the given rules take.

    Args:
        dataset: The whole.
        values: `block`, `every`, `offset`: take a sample when number // block % every == offset, its number being the digits
            that its name begins with; whole blocks stay together, because neighbors show the same street.
            `list`: a file with a name a line. `invert`: take the samples that these leave. `need`: only samples that have
            labels, depth or both.
        base: The folder that a relative `list` begins at.
        where: What begins every error message.

    Raises:
        ConfigError: A key is wrong, or nothing is left.
        SourceError: The list cannot be read, or names a sample that is not there.
    """
    fields = Fields(values, where)
    fields.only(KEYS)
    invert = fields.flag("invert", False)
    indices = list(range(len(dataset)))
    takes = [rule for rule in (_by_number(fields), _by_list(fields, dataset, base)) if rule is not None]
    if takes:
        indices = [i for i in indices if all(take(dataset.keys[i]) for take in takes) != invert]
    elif invert:
        raise ConfigError(f"{where}: invert: there is no rule to invert: give block, every and offset, or list")
    if "need" in fields:
        need = fields.choice("need", NEEDS)
        indices = [
            i for i in indices if (need == "depth" or dataset.has_labels(i)) and (need == "labels" or dataset.has_depth(i))
        ]
    if not indices:
        raise ConfigError(f"{where}: none of the {len(dataset)} samples of {dataset.name} is left")
    return Selected(dataset, indices)


def _by_number(fields: Fields) -> Callable[[str], bool] | None:
    if not any(key in fields for key in ("block", "every", "offset")):
        return None
    block, every, offset = fields.integer("block", 1, low=1), fields.integer("every", low=1), fields.integer("offset", 0)
    if offset >= every:
        raise ConfigError(f"{fields.where}: offset: {offset} is not below every ({every})")

    def take(key: str) -> bool:
        match = re.match(r"\d+", key.rpartition("/")[2])
        if match is None:
            raise ConfigError(f"{fields.where}: the name {key!r} does not begin with a number: select by list")
        return int(match[0]) // block % every == offset

    return take


def _by_list(fields: Fields, dataset: Dataset, base: Path) -> Callable[[str], bool] | None:
    if "list" not in fields:
        return None
    path = base / fields.text("list")
    try:
        lines = [line.strip() for line in path.read_text("utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"{fields.where}: list: {path} cannot be read: {error}") from None
    known = set(dataset.keys)
    names = [line for line in lines if line and not line.startswith("#")]
    missing = next((name for name in names if name not in known), None)
    if missing is not None:
        raise SourceError(f"{fields.where}: list: {path} names {missing!r}, which is not in {dataset.name}")
    wanted = set(names)
    return lambda key: key in wanted
