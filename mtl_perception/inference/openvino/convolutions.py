"""Inputs and weights of the graph's convolutions: in floating point, observed for a quantization, or in int8."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import openvino as ov
import torch
from openvino import opset13 as ops

from mtl_perception.inference.openvino.operators import constant, max_pool_5x5
from mtl_perception.inference.openvino.pooling import chained_pooling, rounded_chained_pooling
from mtl_perception.network.quantization import LEVELS, Quantization, quantize_weight

ALL = slice(None)


class FloatConvolutions:
    """Leave inputs and weights as they are.

    Attributes:
        channel_groups: Channel groups at level 1: of 4, 8 and 16 the fastest at 1242 x 375, where a group's map has 3.7 MB.
    """

    channel_groups = 8

    def source(self, name: str, x: Any) -> Any:
        """Return the input of a convolution.

        Args:
            name: Name of the convolution in the network.
            x: The map that it reads.
        """
        return x

    def pooled_source(self, name: str, x: Any) -> Any:
        """Return the input of a convolution that reads a map after a 5x5 maximum.

        Args:
            name: Name of the convolution in the network.
            x: The map before the maximum.
        """
        return self.source(name, max_pool_5x5(x))

    def shared_source(self, name: str, x: Any) -> Any:
        """Return what an addition reads of a map that is also the `pooled_source` of a convolution.

        Args:
            name: Name of the convolution in the network; empty if there is none.
            x: The map.
        """
        return x

    def chained_pooling(self, x: Any, factors: Sequence[np.ndarray]) -> Any:
        """Apply chained residual pooling whose convolutions are factors by channel; see `pooling.py`."""
        return chained_pooling(x, factors)

    def weight(self, name: str, weight: torch.Tensor, outputs: slice = ALL, inputs: slice = ALL) -> Any:
        """Return an operator with a part of the weights of a convolution.

        Args:
            name: Name of the convolution in the network.
            weight: All of its weights, O x I x h x w; G x 1 x I x h x w for G groups of channels.
            outputs: Output channels, or groups, to return.
            inputs: Input channels to return.
        """
        return constant(_part(weight, outputs, inputs))


class ObservedConvolutions(FloatConvolutions):
    """Remember the inputs of all convolutions.

    Attributes:
        sources: The maps that a convolution reads, by its name; several where it is computed in parts.
    """

    def __init__(self) -> None:
        self.sources: dict[str, list[Any]] = {}

    def source(self, name: str, x: Any) -> Any:
        """Return the input unchanged."""
        self.sources.setdefault(name, []).append(x)
        return x


class Int8Convolutions(FloatConvolutions):
    """Round inputs to 256 levels and weights to int8, where the quantization has a range for the convolution.

    OpenVINO recognizes the pattern, and computes these convolutions in int8.

    Args:
        quantization: Ranges of the inputs.
    """

    # Per byte, OpenVINO pools maps of 256 channels in half the time of maps of 64.
    channel_groups = 1

    def __init__(self, quantization: Quantization) -> None:
        self._ranges: Mapping[str, tuple[float, float]] = quantization.ranges
        self._rounded: dict[tuple[str, int, tuple[float, float]], Any] = {}
        self._weights: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def source(self, name: str, x: Any) -> Any:
        """Return the input rounded to the levels of the convolution's range; once for all convolutions that share both."""
        if name not in self._ranges:
            return x
        output = x if isinstance(x, ov.Output) else x.output(0)
        key = output.get_node().get_name(), output.get_index(), self._ranges[name]
        if key not in self._rounded:
            low, high = map(constant, self._ranges[name])
            rounded = ops.fake_quantize(output, low, high, low, high, LEVELS)
            # Rounding twice changes nothing.
            self._rounded[key] = self._rounded[rounded.get_name(), 0, self._ranges[name]] = rounded
        return self._rounded[key]

    def pooled_source(self, name: str, x: Any) -> Any:
        """Return the input rounded before the maximum, which is the same as after it; bytes are pooled faster."""
        return max_pool_5x5(self.source(name, x))

    def shared_source(self, name: str, x: Any) -> Any:
        """Return the rounded map, so that the convolution before writes bytes only."""
        return self.source(name, x)

    def chained_pooling(self, x: Any, factors: Sequence[np.ndarray]) -> Any:
        """Apply chained residual pooling to bytes."""
        return rounded_chained_pooling(x, factors)

    def weight(self, name: str, weight: torch.Tensor, outputs: slice = ALL, inputs: slice = ALL) -> Any:
        """Return int8 weights multiplied by their scale, one an output channel, which parts of a convolution share."""
        if name not in self._ranges:
            return super().weight(name, weight, outputs, inputs)
        if name not in self._weights:
            self._weights[name] = quantize_weight(weight.numpy())
        values, scale = self._weights[name]
        integers = ops.constant(np.ascontiguousarray(_part(values, outputs, inputs)))
        return ops.multiply(ops.convert(integers, np.float32), constant(_part(scale, outputs, ALL)))


def _part(weight: Any, outputs: slice, inputs: slice) -> Any:
    # The input channels of a group are never divided.
    return weight[outputs, inputs] if weight.ndim == 4 else weight[outputs]
