"""OpenVINO operators from which the network's graph is built."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from openvino import opset13 as ops


def constant(values: Any) -> Any:
    """Return a float32 constant."""
    return ops.constant(np.ascontiguousarray(np.asarray(values, np.float32)))


def convolve(x: Any, weight: Any, stride: int, padding: int) -> Any:
    """Convolve a map with an operator whose value is O x I x h x w, or G x O x I x h x w for G groups of channels."""
    steps, border = [stride, stride], [padding, padding]
    grouped = len(weight.get_output_shape(0)) == 5
    return (ops.group_convolution if grouped else ops.convolution)(x, weight, steps, border, border, [1, 1])


def max_pool_5x5(x: Any) -> Any:
    """Pool rows, then columns: the same maximum with 10 instead of 25 reads."""
    rows = ops.max_pool(x, [1, 1], [1, 1], [0, 2], [0, 2], [1, 5], "floor", "explicit").output(0)
    return ops.max_pool(rows, [1, 1], [1, 1], [2, 0], [2, 0], [5, 1], "floor", "explicit").output(0)


def slice_rows(x: Any, first: int, stop: int) -> Any:
    """Return some rows of a map; the map itself if these are all."""
    if (first, stop) == (0, x.get_output_shape(0)[2]):
        return x
    return slice_axis(x, first, stop, 2)


def slice_axis(x: Any, first: int, stop: int, axis: int) -> Any:
    """Return the part of a map from `first` to before `stop` along an axis."""
    return ops.slice(x, *(ops.constant(np.array([value], np.int64)) for value in (first, stop, 1, axis)))


def resize(x: Any, size: Sequence[int]) -> Any:
    """Resize bilinearly to a height and width; pixel centers as with PyTorch's align_corners=False."""
    target = ops.constant(np.array(size, np.int64))
    axes = ops.constant(np.array([2, 3], np.int64))
    return ops.interpolate(x, target, "linear_onnx", "sizes", [0, 0], [0, 0], "half_pixel", axes=axes)
