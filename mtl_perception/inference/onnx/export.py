"""Export of a network, with pre- and postprocessing, as one self-describing ONNX file."""

from __future__ import annotations

import json
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mtl_perception.errors import ConfigError, PerceptionError, one_line, require
from mtl_perception.inference.onnx.graph import ExportGraph, ExportOptions
from mtl_perception.inference.onnx.quantize import quantize_model
from mtl_perception.network.model import MultiTaskRefineNet
from mtl_perception.network.quantization import Quantization
from mtl_perception.version import __version__
from mtl_perception.weights.metadata import METADATA_KEY

OPSETS = range(13, 21)
"""Operator sets that PyTorch's tracing exporter supports and that contain all operators used."""
TRACED_SIZE = (37, 52)
"""Height and width of the traced image. The graph is valid for any size; no multiples of 32, so nothing relies on those."""
DIMENSIONS = ("N", "H", "W")


def write_onnx(network: MultiTaskRefineNet, options: ExportOptions, path: Path) -> None:
    """Write one ONNX file.

    Its inputs are `image`, N x H x W x 3 uint8 RGB, and, where the description has a `depth_focal_length`, `focal_length`, a
    float32 scalar in pixels. Its outputs are `options.outputs`; see `ExportGraph.forward`. The network's own outputs keep the
    names of `ExportGraph.raw_outputs` inside the graph. Its metadata are what `metadata` returns.

    Args:
        network: What `load_network` returns.
        options: Outputs, limits and image size.
        path: The file; it is removed on failure.

    Raises:
        PerceptionError: The package onnx is missing, or the exporter failed.
        ConfigError: An opset out of range, or an output that the network does not have.
        WeightsError: The precision is int8, and the weights have no valid quantization table.
    """
    require("onnx", extra="export", purpose="export")
    import onnx

    if options.opset not in OPSETS:
        raise ConfigError(f"opset {options.opset}: choose one from {OPSETS[0]} to {OPSETS[-1]}")
    quantization = Quantization.of(network) if options.precision == "int8" else None
    graph = ExportGraph(network, options).eval()
    try:
        _trace(graph, path)
        model = onnx.load(str(path))
        if quantization is not None:
            quantize_model(model, quantization, prefix="network.")
        _finish(model, graph, network)
        onnx.checker.check_model(model, full_check=True)
        onnx.save(model, str(path))
    except (RuntimeError, ValueError, TypeError, onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        path.unlink(missing_ok=True)
        raise PerceptionError(
            f"{path}: PyTorch {torch.__version__} with onnx {onnx.__version__} could not export: {one_line(error)}; "
            "requirements/ lists versions that can"
        ) from error


def metadata(network: MultiTaskRefineNet, options: ExportOptions) -> dict[str, str]:
    """Return the metadata of an exported file, as texts by name.

    `mtl_perception` is the model's description as JSON, as in a weights file; `classes` are the names of the labels as a JSON
    list; `export` the options as JSON; `license`; `version`; and `depth_focal_length`, pixels, where depth depends on it.
    """
    description = network.description
    first, count = options.classes
    texts = {
        METADATA_KEY: description.to_json(),
        "classes": json.dumps(description.classes[first : first + count], ensure_ascii=False),
        "export": json.dumps(asdict(options)),
        "license": description.license,
        "version": __version__,
    }
    if description.depth_focal_length:
        texts["depth_focal_length"] = repr(description.depth_focal_length)
    return texts


def _trace(graph: ExportGraph, path: Path) -> None:
    """Trace the graph to ONNX operators.

    The newer exporter of PyTorch needs onnxscript as well, and takes many times as long for this network
    (docs/dependencies.md).
    """
    inputs: list[Tensor] = [torch.zeros(2, *TRACED_SIZE, 3, dtype=torch.uint8)]
    if "focal_length" in graph.inputs:
        inputs.append(torch.tensor(700.0))
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            graph,
            tuple(inputs),
            str(path),
            input_names=list(graph.inputs),
            output_names=[*graph.outputs, *graph.raw_outputs],
            dynamic_axes={name: dict(enumerate(DIMENSIONS)) for name in ("image", *graph.outputs)},
            opset_version=graph.options.opset,
            dynamo=False,
        )


def _finish(model: Any, graph: ExportGraph, network: MultiTaskRefineNet) -> None:
    """Hide the raw outputs, fix the sizes if requested, and add the metadata."""
    options, description = graph.options, network.description
    while len(model.graph.output) > len(graph.outputs):
        model.graph.output.pop()
    sizes = dict(zip(DIMENSIONS[1:], options.size, strict=True)) if options.size else {}
    for value in (*model.graph.input, *model.graph.output):
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.dim_param in sizes:
                dimension.dim_value = sizes[dimension.dim_param]
        value.doc_string = _documentation(value.name, graph, description.depth_focal_length)
    model.producer_name = "mtl_perception"
    model.producer_version = __version__
    model.doc_string = f"{description.name}: semantic segmentation and depth of RGB images. License: {description.license}"
    for name, text in metadata(network, options).items():
        entry = model.metadata_props.add()
        entry.key, entry.value = name, text


def _documentation(name: str, graph: ExportGraph, trained: float) -> str:
    options = graph.options
    return {
        "image": "N x H x W x 3 uint8, RGB",
        "focal_length": f"focal length of the images in pixels; the network was trained at {trained:g}",
        "labels": "N x H x W uint8 class ids, 255 = unlabeled; metadata `classes` names them",
        "confidence": "N x H x W uint8, softmax maximum x 255",
        "depth": f"N x H x W float32 meters along the optical axis; NaN invalid, +Inf beyond {options.max_depth:g} m",
        "normals": "N x H x W x 3 float32 unit vectors",
    }[name]
