"""Averages of weights that were trained from one another (Wortsman et al., Model soups, ICML 2022)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields, replace
from functools import reduce
from pathlib import Path

import torch
from torch import Tensor

from mtl_perception.errors import ConfigError, WeightsError
from mtl_perception.network.description import Description
from mtl_perception.weights.files import read_weights

OWN = ("name", "license", "card", "depth_range", "quantization", "certified")
"""Entries of a description in which weights to average may differ."""


def average_weights(files: Sequence[Path], shares: Sequence[float] = ()) -> tuple[dict[str, Tensor], Description]:
    """Return the weighted mean of the parameters, in the widest of their types, with a description.

    The description is that of the last file without metrics, int8 table and certificates; the license joins those of all files,
    and the data that any of them names as held out stay held out.

    Args:
        files: Two or more weights files of one architecture.
        shares: Share of each, above 0; divided by their sum. Empty: equal shares.

    Raises:
        ConfigError: A share is invalid.
        WeightsError: A file cannot be read, or differs from the first in its classes, normalization or parameters.
    """
    shares = shares or [1.0] * len(files)
    if len(shares) != len(files) or not all(math.isfinite(share) and share > 0 for share in shares):
        raise ConfigError(f"shares {' '.join(f'{share:g}' for share in shares)}: give {len(files)} numbers above 0")
    shares = [share / sum(shares) for share in shares]
    states, descriptions = zip(*(read_weights(path) for path in files), strict=True)
    first, shapes = descriptions[0], {name: value.shape for name, value in states[0].items()}
    for path, state, description in zip(files, states, descriptions, strict=True):
        for entry in fields(Description):
            if entry.name not in OWN and getattr(description, entry.name) != getattr(first, entry.name):
                raise WeightsError(f"{path} cannot be averaged with {files[0]}: {entry.name} differs")
        if {name: value.shape for name, value in state.items()} != shapes:
            raise WeightsError(f"{path} cannot be averaged with {files[0]}: other names or shapes of parameters")
    mean = dict(states[-1])
    for name, value in mean.items():
        if value.is_floating_point():
            total = sum(share * state[name].float() for share, state in zip(shares, states, strict=True))
            mean[name] = total.to(reduce(torch.promote_types, (state[name].dtype for state in states)))
    parts = [
        {"name": description.name, "share": round(share, 4), "card": description.card}
        for share, description in zip(shares, descriptions, strict=True)
    ]
    held_out = [text for description in descriptions for text in description.card.get("held_out", ())]
    license = "; ".join(dict.fromkeys(description.license for description in descriptions))
    ranges = [description.depth_range for description in descriptions]
    return mean, replace(
        descriptions[-1],
        license=license,
        card={"average_of": parts, "held_out": list(dict.fromkeys(held_out))},
        depth_range=(min(low for low, _ in ranges), max(high for _, high in ranges)),
        quantization={},
        certified={},
    )
