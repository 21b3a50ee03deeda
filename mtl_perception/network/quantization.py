"""Quantization of a network to int8: which convolutions, and the ranges of their inputs.

The weights need no table: the int8 values follow from the parameters. docs/models.md describes the entry of a weights file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from mtl_perception.errors import WeightsError, truncated_repr
from mtl_perception.network.digest import network_digest
from mtl_perception.network.model import MultiTaskRefineNet
from mtl_perception.version import __version__

VERSION = 2
"""Increase it with each change of which convolutions are quantized or how: tables made for others are refused."""
LEVELS = 256
"""Number of values of a rounded input."""
LARGEST_WEIGHT = 127
FLOAT = ("layer1.", "layer2.", "layer3.", "layer8.0.output.2.", "conv3", "crp1.", "pre_", "depth", "normal")
"""Beginnings of the names of convolutions that stay in floating point.

The encoder's first layers and the head for depth lose accuracy in int8. conv3 has few inputs; in floating point, OpenVINO
computes the addition after it in the same step. crp1 and pre_* are factors by channel. layer8's last convolution is merged with
conv8.
"""


@dataclass(frozen=True)
class Quantization:
    """Table for int8 inference.

    Attributes:
        ranges: Lowest and highest value of the input of a convolution, by its name. `LEVELS` values with equal distances
            represent it, 0 among them; others are clamped.
    """

    ranges: Mapping[str, tuple[float, float]]

    @classmethod
    def of(cls, network: MultiTaskRefineNet) -> Quantization:
        """Return the table in the description of a network.

        Raises:
            WeightsError: There is none, it is damaged or incomplete, or it was made for other weights or by another version.
        """
        name, table = network.description.name, network.description.quantization
        problem = _find_problem(table, network)
        if problem:
            raise WeightsError(
                f"int8 quantization of weights {name!r} cannot be used: {problem}; make a table with `mtl_perception quantize`"
            )
        return cls({name: (float(low), float(high)) for name, (low, high) in table["ranges"].items()})

    def describe(self, network: MultiTaskRefineNet, data: Sequence[str], images: int) -> dict[str, Any]:
        """Return the entry of the description.

        Args:
            network: The network that the ranges were observed in.
            data: Names of the data sets.
            images: Number of images.
        """
        return {
            "version": VERSION,
            "network": network_digest(network),
            "data": list(data),
            "images": images,
            "mtl_perception": __version__,
            "ranges": {name: list(bounds) for name, bounds in self.ranges.items()},
        }


def quantized_convolutions(network: MultiTaskRefineNet) -> list[str]:
    """Return the names of the convolutions that are computed in int8."""
    modules = network.named_modules()
    return [name for name, module in modules if isinstance(module, nn.Conv2d) and not name.startswith(FLOAT)]


def align_range(low: float, high: float) -> tuple[float, float]:
    """Return the smallest range around a range in which 0, the value of padding, is one of the levels."""
    low, high = min(low, 0.0), max(high, 0.0)
    if high - low < 1e-6:
        return 0.0, 1.0
    steps = LEVELS - 1
    below = min(round(-low / (high - low) * steps), steps)
    # The step with which neither end is clamped.
    step = max(-low / below if below else high / steps, high / (steps - below) if below < steps else 0.0)
    return -below * step, (steps - below) * step


def quantize_weight(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Round weights to int8, symmetrically, each output channel with its own scale.

    Args:
        weight: O x I x h x w float32, with batch norm folded; C x 1 x h x w or C x 1 x 1 x h x w of a depthwise convolution.

    Returns:
        int8 of the same shape, from -127 to 127, and the scale, O x 1 …, by which to multiply.
    """
    largest = np.abs(weight).max(axis=tuple(range(1, weight.ndim)), keepdims=True)
    scale = np.where(largest > 0, largest, 1).astype(np.float32) / np.float32(LARGEST_WEIGHT)
    exact = weight / scale
    rounded = np.rint(exact)
    if weight[0].size == math.prod(weight.shape[-2:]) > 1:
        _preserve_sums(rounded.reshape(len(weight), -1), exact.reshape(len(weight), -1))
    return rounded.clip(-LARGEST_WEIGHT, LARGEST_WEIGHT).astype(np.int8), scale


def _preserve_sums(rounded: np.ndarray, exact: np.ndarray) -> None:
    """Round some values the other way, so that the sum of each row differs by at most a half, those near a half first.

    The weights of a depthwise convolution are few, and where they nearly cancel, the sum of the rounding errors, multiplied by
    the mean of the input, which is not negative, could exceed the output.
    """
    missing = np.rint((exact - rounded).sum(axis=1)).astype(int)
    for row in np.flatnonzero(missing):
        sign = np.sign(missing[row])
        order = np.argsort(sign * (rounded[row] - exact[row]), kind="stable")
        rounded[row, order[: abs(missing[row])]] += sign


def _find_problem(table: Mapping[str, Any], network: MultiTaskRefineNet) -> str:
    """Return why a table cannot be used; empty if it can."""
    if not table:
        return "the weights have no table"
    if table.get("version") != VERSION:
        return f"the table has version {truncated_repr(table.get('version'))}, and this software uses version {VERSION}"
    if table.get("network") != network_digest(network):
        return "the table was made for other weights"
    ranges = table.get("ranges")
    if not isinstance(ranges, dict):
        return f"damaged table: ranges is a {type(ranges).__name__}, not a mapping"
    expected = quantized_convolutions(network)
    for name in expected:
        if name not in ranges:
            return f"incomplete table: the range of {name} is missing"
        if not _is_range(ranges[name]):
            return f"damaged table: the range of {name} is {truncated_repr(ranges[name])}"
    unknown = sorted(set(ranges) - set(expected))
    return f"damaged table: unknown convolution {truncated_repr(unknown[0])}" if unknown else ""


def _is_range(bounds: Any) -> bool:
    return (
        isinstance(bounds, list)
        and len(bounds) == 2
        and all(type(bound) in (int, float) and math.isfinite(bound) for bound in bounds)
        and bounds[0] <= 0 <= bounds[1]
        and bounds[0] < bounds[1]
    )
