"""Chained residual pooling whose convolutions are factors by channel, as at level 1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from openvino import opset13 as ops

from mtl_perception.inference.openvino.operators import constant, max_pool_5x5
from mtl_perception.network.quantization import LEVELS

RELU6 = 6.0
LAST_LEVEL = LEVELS - 1


def chained_pooling(x: Any, factors: Sequence[np.ndarray]) -> Any:
    """Return a map plus the output of each stage: a 5x5 maximum of the previous stage's output times its factors.

    Args:
        x: The map after ReLU6, 1 x C x H x W.
        factors: For each stage C factors.
    """
    top = total = x
    for factor in factors:
        top = ops.multiply(max_pool_5x5(top), _per_channel(factor))
        total = ops.add(total, top)
    return total


def rounded_chained_pooling(x: Any, factors: Sequence[np.ndarray]) -> Any:
    """Return about the same from maps of bytes, which are pooled faster: only `x` is rounded, to the levels 0 to 255.

    Stages pool levels, and factors are applied in the sum. A maximum after a negative factor is a minimum before it, so in
    channels with a negative factor the levels are mirrored, 255 - level.

    Args:
        x: As for `chained_pooling`.
        factors: As for `chained_pooling`.
    """
    step = RELU6 / LAST_LEVEL
    levels = _round(x, RELU6)
    total = ops.multiply(levels, constant(step))
    # The output of a stage is scale * levels + shift.
    scale, shift, shifts = np.array(step), np.array(0.0), np.array(0.0)
    for factor in factors:
        if (scale < 0).any():
            first = np.where(scale < 0, LAST_LEVEL, 0)
            mirrored = ops.add(ops.multiply(levels, _per_channel(np.sign(scale))), _per_channel(first))
            levels = _round(mirrored, LAST_LEVEL)
            shift = shift + scale * first
            scale = np.abs(scale)
        levels = max_pool_5x5(levels)
        factor = np.asarray(factor, np.float64)
        scale, shift = scale * factor, shift * factor
        total, shifts = ops.add(total, ops.multiply(levels, _per_channel(scale))), shifts + shift
    return ops.add(total, _per_channel(shifts))


def _round(x: Any, highest: float) -> Any:
    """Return the levels of a map with values from 0 to `highest`; OpenVINO stores them as bytes."""
    return ops.fake_quantize(x, constant(0), constant(highest), constant(0), constant(LAST_LEVEL), LEVELS)


def _per_channel(values: np.ndarray) -> Any:
    return constant(values.reshape(1, -1, 1, 1))
