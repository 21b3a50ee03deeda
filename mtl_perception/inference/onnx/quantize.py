"""Quantization of an exported graph to int8, as QuantizeLinear and DequantizeLinear (QDQ) operators."""

from __future__ import annotations

from typing import Any

import numpy as np

from mtl_perception.network.quantization import LARGEST_WEIGHT, Quantization, quantize_weight

FLOAT = ("conv8",)
"""Names of further convolutions that stay in floating point here.

The range of conv8 is that of another input, because the CPU's graph merges it with the convolution before.
"""


def quantize_model(model: Any, quantization: Quantization, prefix: str) -> int:
    """Round inputs and weights of the convolutions that the table has a range for, in place.

    Inputs get one scale, weights one for each output channel; all zero points are 0, as TensorRT requires.

    Args:
        model: An onnx.ModelProto whose batch norms are folded.
        quantization: Ranges of the inputs by the name of the convolution.
        prefix: What precedes the name of a convolution in the names of its weights.

    Returns:
        Number of convolutions in int8.
    """
    from onnx import helper, numpy_helper

    graph = model.graph
    values = {tensor.name: tensor for tensor in graph.initializer}
    nodes: list[Any] = []
    rounded: dict[tuple[str, float], str] = {}
    zero = numpy_helper.from_array(np.int8(0), "zero_point")
    found = 0

    def scalar(name: str, value: float) -> str:
        graph.initializer.append(numpy_helper.from_array(np.float32(value), name))
        return name

    for node in graph.node:
        name = node.input[1].removeprefix(prefix).removesuffix(".weight") if node.op_type == "Conv" else ""
        if name in quantization.ranges and name not in FLOAT:
            found += 1
            source, scale = node.input[0], max(map(abs, quantization.ranges[name])) / LARGEST_WEIGHT
            if (source, scale) not in rounded:
                own = f"{name}.input"
                operands = [scalar(f"{own}_scale", scale), zero.name]
                nodes.append(helper.make_node("QuantizeLinear", [source, *operands], [f"{own}_int8"], f"{own}_quantize"))
                nodes.append(
                    helper.make_node("DequantizeLinear", [f"{own}_int8", *operands], [f"{own}_float"], f"{own}_dequantize")
                )
                rounded[source, scale] = f"{own}_float"
            node.input[0] = rounded[source, scale]
            integers, scales = quantize_weight(numpy_helper.to_array(values[node.input[1]]))
            operands = [f"{name}.weight_int8", f"{name}.weight_scale", f"{name}.weight_zero_point"]
            arrays = (integers, scales.reshape(-1), np.zeros(len(integers), np.int8))
            graph.initializer.extend(numpy_helper.from_array(array, one) for array, one in zip(arrays, operands, strict=True))
            output = f"{name}.weight_float"
            nodes.append(helper.make_node("DequantizeLinear", operands, [output], f"{name}.weight_dequantize", axis=0))
            graph.initializer.remove(values.pop(node.input[1]))
            node.input[1] = output
        nodes.append(node)
    graph.initializer.append(zero)
    copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)
    return found
