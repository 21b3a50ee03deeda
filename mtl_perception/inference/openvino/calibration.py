"""Ranges of the inputs of convolutions, observed on images, for a quantization to int8."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import openvino as ov
from openvino import opset13 as ops

from mtl_perception.inference.openvino.convolutions import ObservedConvolutions
from mtl_perception.inference.openvino.graph import openvino_model
from mtl_perception.inference.openvino.runtime import shared_core
from mtl_perception.network.model import MultiTaskRefineNet
from mtl_perception.network.quantization import Quantization, align_range, quantized_convolutions

KEPT_SIZES = 8
"""Image sizes whose compiled networks are kept."""
OPTIONS = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}


def calibrate(network: MultiTaskRefineNet, images: Iterable[np.ndarray]) -> Quantization:
    """Return a quantization whose ranges are the mean minimum and the mean maximum over images.

    A mean is less sensitive than the extremes of all images to single values, at whose cost all others would be rounded more.

    Args:
        network: What `load_network` returns; it is not changed.
        images: H x W x 3 uint8 RGB, of any sizes; at least one.
    """
    found: dict[str, list[np.ndarray]] = {name: [] for name in quantized_convolutions(network)}
    compiled: dict[tuple[int, int], tuple[Any, list[str]]] = {}
    for image in images:
        size = (image.shape[0], image.shape[1])
        if size not in compiled:
            if len(compiled) == KEPT_SIZES:
                compiled.clear()
            compiled[size] = _compile(network, *size)
        request, names = compiled[size]
        request.infer({0: np.ascontiguousarray(image)[None]}, share_inputs=True)
        for name, tensor in zip(names, request.output_tensors, strict=True):
            if name in found:
                found[name].append(tensor.data.copy())
    means = {name: np.array(values, np.float64).mean(axis=0).tolist() for name, values in found.items()}
    return Quantization({name: align_range(-lowest, highest) for name, (highest, lowest) in means.items()})


def _compile(network: MultiTaskRefineNet, height: int, width: int) -> tuple[Any, list[str]]:
    """Compile a network whose outputs are, for each convolution, the maxima of its input and of its negated input."""
    observed = ObservedConvolutions()
    model = openvino_model(network, height, width, observed)
    outputs, axes = [], ops.constant(np.array([0, 1, 2, 3], np.int64))
    for parts in observed.sources.values():
        both = []
        for sign in (1, -1):
            maxima = [ops.reduce_max(ops.multiply(part, ops.constant(np.float32(sign))), axes) for part in parts]
            total = maxima[0]
            for maximum in maxima[1:]:
                total = ops.maximum(total, maximum)
            both.append(ops.unsqueeze(total, ops.constant(np.int64(0))))
        outputs.append(ops.result(ops.concat(both, 0)))
    model = ov.Model(outputs, model.get_parameters(), "observed")
    return shared_core().compile_model(model, "CPU", OPTIONS).create_infer_request(), list(observed.sources)
