"""Normalization of images: one rule for all backends."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from support.images import noise_image

from mtl_perception import load_network
from mtl_perception.inference.cuda.network import AtenNetwork
from mtl_perception.inference.host.preprocess import Preprocessor
from mtl_perception.inference.onnx.graph import ExportGraph, ExportOptions

IMAGE = noise_image(24, 40)
MEAN, STD = (0.5, 0.25, 0.125), (0.25, 0.2, 0.3)


def on_the_host(network) -> torch.Tensor:
    return Preprocessor(network.description, torch.float32)(IMAGE)


def on_a_device(network) -> torch.Tensor:
    aten, seen = AtenNetwork(network, torch.device("cpu"), torch.float32), []
    shared = aten.module.shared
    aten.module.shared = lambda pixels: seen.append(pixels) or shared(pixels)
    heads = frozenset({"segm"})
    aten(torch.from_numpy(IMAGE)[None], heads, aten.allocate(1, IMAGE.shape[:2], heads))
    return seen[0]


def in_an_exported_file(network) -> torch.Tensor:
    graph, seen = ExportGraph(network, ExportOptions(("labels",), (0, 12), 80.0)), []
    graph.network.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    graph(torch.from_numpy(IMAGE)[None])
    return seen[0]


@pytest.mark.parametrize("normalize", [on_the_host, on_a_device, in_an_exported_file])
def test_every_backend_normalizes_by_the_description(weights_file, normalize) -> None:
    network = load_network(weights_file)
    network.description = replace(network.description, mean=MEAN, std=STD)
    with torch.inference_mode():
        found = normalize(network)[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(found, (IMAGE / 255 - MEAN) / STD, rtol=0, atol=2e-6)
    scale, offset = network.description.normalization()
    np.testing.assert_array_equal(found, IMAGE.astype(np.float32) * scale + offset)
