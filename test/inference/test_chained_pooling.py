"""Chained residual pooling of bytes, with factors of both signs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

pytest.importorskip("openvino", reason="needs openvino: pip install 'mtl_perception[openvino]'")

import openvino as ov
from openvino import opset13 as ops

from mtl_perception.inference.openvino.pooling import chained_pooling, rounded_chained_pooling
from mtl_perception.inference.openvino.runtime import shared_core

CHANNELS, HEIGHT, WIDTH = 32, 21, 34
STEP = 6 / 255


def expected(x: np.ndarray, factors: list[np.ndarray]) -> np.ndarray:
    top = total = torch.from_numpy(x).double()
    for factor in factors:
        top = F.max_pool2d(top, 5, 1, 2) * torch.from_numpy(factor).view(1, -1, 1, 1)
        total = total + top
    return total.numpy()


def run(function, x: np.ndarray, factors: list[np.ndarray], precision: str = "f32") -> tuple[np.ndarray, list[str]]:
    """Return the output, and the types of what the pooling operators write."""
    source = ops.parameter(x.shape, np.float32)
    # An identity, so that the pooling does not read the model's input.
    identity = ops.constant(np.eye(CHANNELS, dtype=np.float32)[:, :, None, None])
    copied = ops.convolution(source, identity, [1, 1], [0, 0], [0, 0], [1, 1])
    model = ov.Model([ops.result(function(ops.clamp(copied, 0.0, 6.0), factors))], [source], "pooling")
    compiled = shared_core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": precision})
    request = compiled.create_infer_request()
    request.infer({0: x})
    nodes = [node.get_rt_info() for node in compiled.get_runtime_model().get_ops()]
    pools = [str(info["outputPrecisions"].astype(str)) for info in nodes if info["layerType"].astype(str) == "Pooling"]
    return request.output_tensors[0].data.copy(), pools


@pytest.fixture
def factors() -> list[np.ndarray]:
    random = np.random.default_rng(3)
    found = [random.normal(0, 0.4, CHANNELS) for _ in range(4)]
    assert len({tuple(signs) for signs in np.sign(found).T}) > 8, "many combinations of signs"
    # Factors of 0 must not divide.
    found[1][0] = 0
    return found


@pytest.fixture
def image() -> np.ndarray:
    # Multiples of a quarter are exact in bfloat16.
    return (np.random.default_rng(4).integers(-8, 30, (1, CHANNELS, HEIGHT, WIDTH)) / 4).astype(np.float32)


def test_float_agrees_with_pytorch(image, factors):
    found, _ = run(chained_pooling, image, factors)
    assert np.abs(found - expected(image.clip(0, 6), factors)).max() < 1e-5


def test_bytes_give_what_pytorch_computes_from_the_rounded_map(image, factors):
    """Only the first map is rounded: later stages, mirrored or not, add nothing."""
    found, pools = run(rounded_chained_pooling, image, factors)
    rounded = np.rint(image.clip(0, 6) / STEP) * STEP
    assert np.abs(found - expected(rounded, factors)).max() < 1e-5
    assert 0 < np.abs(found - expected(image.clip(0, 6), factors)).max() < 5 * STEP / 2
    assert {pool.lower() for pool in pools} == {"u8"}


def test_the_levels_of_a_network_in_bfloat16_are_exact_too(image, factors):
    found, pools = run(rounded_chained_pooling, image, factors, "bf16")
    exact = expected(np.rint(image.clip(0, 6) / STEP) * STEP, factors)
    # Factors and sums are rounded to 8 bits, each value at most six times.
    assert np.abs(found - exact).max() < 6 * 2**-8 * np.abs(exact).max()
    assert {pool.lower() for pool in pools} == {"u8"}
