"""The table for int8: levels, rounded weights, and tables that are refused."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mtl_perception import load_network
from mtl_perception.errors import WeightsError
from mtl_perception.network.description import published_description
from mtl_perception.network.model import MultiTaskRefineNet
from mtl_perception.network.quantization import (
    LEVELS,
    VERSION,
    Quantization,
    align_range,
    quantize_weight,
    quantized_convolutions,
)
from mtl_perception.weights.files import save_weights


@pytest.mark.parametrize(("low", "high"), [(-1.0, 3.0), (-10.4, 5.9), (-0.001, 6.0), (-6.0, 0.001), (0.0, 6.0), (0.5, 2.0)])
def test_zero_is_a_level_of_a_range_and_the_ends_change_by_at_most_one_level(low, high):
    found = align_range(low, high)
    step = (found[1] - found[0]) / (LEVELS - 1)
    assert found[0] == pytest.approx(min(low, 0), abs=1.01 * step)
    assert found[1] == pytest.approx(high, abs=1.01 * step)
    assert -found[0] / step == pytest.approx(round(-found[0] / step), abs=1e-6)


def test_a_range_without_values_still_has_levels():
    assert align_range(0.0, 0.0) == (0.0, 1.0)


def test_weights_are_rounded_to_the_nearest_of_255_values_of_their_channel():
    weight = (
        np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32)
        * np.float32([1e-3, 1, 50, 0])[:, None, None, None]
    )
    values, scale = quantize_weight(weight)
    assert (values.dtype, values.shape, scale.shape) == (np.int8, weight.shape, (4, 1, 1, 1))
    assert np.abs(values[:3]).max(axis=(1, 2, 3)).tolist() == [127] * 3
    assert (np.abs(values * scale - weight) <= scale * 0.5001).all()
    assert not values[3].any()


def test_rounding_preserves_the_sums_of_depthwise_weights():
    """Weights that cancel, as in layer2: rounded one by one, their sums would be off by up to 2 steps and more."""
    weight = np.random.default_rng(0).normal(size=(500, 1, 1, 3, 3)).astype(np.float32)
    weight -= weight.mean(axis=(3, 4), keepdims=True)
    values, scale = quantize_weight(weight)
    off = np.abs((values * scale - weight).sum(axis=(1, 2, 3, 4)) / scale.ravel())
    single = np.abs((np.rint(weight / scale) * scale - weight).sum(axis=(1, 2, 3, 4)) / scale.ravel())
    assert single.max() > 2
    assert off.max() < 0.01
    assert (np.abs(values * scale - weight) < scale).all()
    assert np.array_equal(quantize_weight(weight[:, 0])[0], values[:, 0])


def with_table(network: MultiTaskRefineNet) -> MultiTaskRefineNet:
    ranges = dict.fromkeys(quantized_convolutions(network), (-1.0, 2.0))
    table = Quantization(ranges).describe(network, ["one", "two"], 3)
    network.description = replace(network.description, quantization=table)
    return network


@pytest.fixture
def network(weights_file: Path) -> MultiTaskRefineNet:
    return with_table(load_network(weights_file))


@pytest.mark.parametrize("half", [False, True])
def test_a_table_is_the_same_after_writing_and_reading_the_weights(network, tmp_path, half):
    if half:
        # As in files with float16: the table is made for what they hold.
        network.load_state_dict({name: value.half().to(value.dtype) for name, value in network.state_dict().items()})
        with_table(network)
    save_weights(tmp_path / "w.safetensors", network.state_dict(), network.description, half=half)
    found = load_network(tmp_path / "w.safetensors")
    assert Quantization.of(found) == Quantization.of(network)
    assert (found.description.quantization["data"], found.description.quantization["images"]) == (["one", "two"], 3)


def test_the_first_layers_and_the_depth_head_stay_in_floating_point(network):
    names = quantized_convolutions(network)
    assert len(names) == 62
    assert not [name for name in names if name.startswith(("layer1.", "layer2.", "layer3.", "conv3", "depth", "pre_", "crp1."))]
    assert {"layer4.0.output.0.0", "layer8.0.output.1.0", "conv8"} <= set(names)
    assert {"crp4.0.1_outvar_dimred", "conv_adapt2", "segm"} <= set(names)


def test_a_published_network_with_normals_has_a_table():
    network = with_table(MultiTaskRefineNet(published_description(40, 3)).eval())
    assert set(Quantization.of(network).ranges) == set(quantized_convolutions(network))


class TestRefused:
    def refusal(self, network: MultiTaskRefineNet) -> str:
        with pytest.raises(WeightsError) as caught:
            Quantization.of(network)
        text = str(caught.value)
        assert text.startswith("int8 quantization of weights 'random' cannot be used: ")
        assert text.endswith("; make a table with `mtl_perception quantize`")
        return text

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            (lambda table: table.clear(), "the weights have no table"),
            (lambda table: table.update(version=VERSION + 1), f"the table has version {VERSION + 1}, and this software uses"),
            (lambda table: table.pop("version"), "the table has version None"),
            (lambda table: table.update(network="0" * 64), "the table was made for other weights"),
            (lambda table: table.pop("ranges"), "damaged table: ranges is a NoneType"),
            (lambda table: table["ranges"].pop("conv_adapt3"), "incomplete table: the range of conv_adapt3 is missing"),
            (lambda table: table["ranges"].update(conv4=[1.0]), r"damaged table: the range of conv4 is [1.0]"),
            (lambda table: table["ranges"].update(conv4=[2.0, 1.0]), "damaged table: the range of conv4"),
            (lambda table: table["ranges"].update(conv4=[0.5, 1.0]), "damaged table: the range of conv4"),
            (lambda table: table["ranges"].update(conv4=[0.0, float("inf")]), "damaged table: the range of conv4"),
            (lambda table: table["ranges"].update(conv4=["0", "1"]), "damaged table: the range of conv4"),
            (lambda table: table["ranges"].update(conv4=None), "damaged table: the range of conv4 is None"),
            (lambda table: table["ranges"].update(depth=[0.0, 1.0]), "damaged table: unknown convolution 'depth'"),
        ],
    )
    def test_a_damaged_or_incomplete_table(self, network, change, reason):
        table = copy.deepcopy(network.description.quantization)
        change(table)
        network.description = replace(network.description, quantization=table)
        assert reason in self.refusal(network)

    def test_a_table_of_other_values_or_another_normalization(self, network):
        network.description = replace(network.description, mean=(0.5, 0.5, 0.5))
        assert "the table was made for other weights" in self.refusal(network)
        network.description = replace(network.description, mean=(0.485, 0.456, 0.406))
        Quantization.of(network)
        with torch.no_grad():
            network.get_parameter("segm.bias")[0] += 1e-4
        assert "the table was made for other weights" in self.refusal(network)

    def test_a_table_of_a_network_with_other_shapes(self, network):
        other = MultiTaskRefineNet(replace(published_description(6, 2), name="random")).eval()
        other.description = replace(other.description, quantization=network.description.quantization)
        assert "the table was made for other weights" in self.refusal(other)
