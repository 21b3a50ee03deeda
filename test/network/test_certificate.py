"""Certificates of accuracy: losses, what makes them invalid, and their form in a file."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from mtl_perception.errors import WeightsError
from mtl_perception.network.certificate import Certificate, Loss, Score, loss
from mtl_perception.network.description import Description
from mtl_perception.network.digest import certificate_digest, certified_losses
from mtl_perception.network.model import MultiTaskRefineNet
from mtl_perception.weights.files import load_network, replace_description, save_weights


def score(miou: float = 0.6, abs_rel: float | None = 0.1, frames: int = 32, name: str = "street") -> Score:
    return Score(frames, {name: miou}, abs_rel, 4.0, 0.99)


def certificate(**data: Score) -> Certificate:
    return Certificate("0", "a processor", data)


@pytest.fixture
def network(weights_file) -> MultiTaskRefineNet:
    """Network whose bf16 is certified with a loss of 0.2 points and 1 %, and whose int8-bf16 loses 0.5 points."""
    network = load_network(weights_file)
    entries = {"fp32": score(), "bf16": score(0.598, 0.101), "int8-bf16": score(0.595, 0.1)}
    quantization = {"ranges": {"layer1": [0, 6]}}
    network.description = replace(network.description, quantization=quantization)
    certified = {
        name: Certificate(certificate_digest(network, name), "a processor", {"tiny": one}) for name, one in entries.items()
    }
    network.description = replace(network.description, certified=certified)
    return network


def test_loss_is_the_largest_of_all_data_sets_and_class_sets():
    reference = certificate(a=score(0.6, 0.1), b=Score(9, {"street": 0.5, "kitti6": 0.8}, None, None, 1.0))
    found = certificate(a=score(0.601, 0.1012), b=Score(9, {"street": 0.5, "kitti6": 0.7977}, None, None, 0.99))
    compared = loss(found, reference)
    assert compared.data == ("a", "b")
    assert (compared.miou, compared.abs_rel) == (pytest.approx(-0.0023), pytest.approx(0.012))
    assert str(compared) == "certified on a and b: mIoU -0.2 points, AbsRel +1.2 % compared with fp32"


@pytest.mark.parametrize(
    ("miou", "abs_rel", "within"), [(-0.0029, 0.0149, True), (-0.0031, 0.0, False), (0.0, 0.0151, False), (0.01, -0.1, True)]
)
def test_limits_are_three_tenths_of_a_point_and_one_and_a_half_percent(miou, abs_rel, within):
    found = Loss(("a", "b", "c"), miou, abs_rel)
    assert found.within_limits == within
    assert str(found).startswith("certified on a, b and c:" if within else "beyond the limits on a, b and c:")


@pytest.mark.parametrize(
    "reference", [{"a": score(frames=31)}, {"b": score()}, {"a": score(name="kitti6")}, {"a": score(), "b": score()}, {}]
)
def test_certificates_of_other_frames_are_not_compared(reference):
    assert loss(certificate(a=score()), certificate(**reference)) is None


def test_losses_are_known_for_the_network_that_was_measured(network):
    losses = certified_losses(network)
    assert losses["bf16"] == Loss(("tiny",), pytest.approx(-0.002), pytest.approx(0.01))
    assert {name: one.within_limits for name, one in losses.items()} == {"fp32": True, "bf16": True, "int8-bf16": False}


def test_a_changed_parameter_invalidates_all_certificates(network):
    with torch.no_grad():
        network.get_parameter("segm.bias")[0] += 1e-3
    assert certified_losses(network) == {}


def test_another_table_invalidates_the_certificates_of_int8_only(network):
    network.description = replace(network.description, quantization={"ranges": {"layer1": [0, 5.9]}})
    assert set(certified_losses(network)) == {"fp32", "bf16"}


def test_without_a_valid_reference_nothing_is_certified(network):
    others = {name: one for name, one in network.description.certified.items() if name != "fp32"}
    network.description = replace(network.description, certified=others)
    assert certified_losses(network) == {}


def test_certificates_stay_valid_in_a_file_but_not_when_it_is_rounded(network, tmp_path):
    path, half, other = (tmp_path / name for name in ("full", "half", "other"))
    save_weights(path, network.state_dict(), network.description, half=False)
    loaded = load_network(path)
    assert loaded.description == network.description
    assert set(certified_losses(loaded)) == {"fp32", "bf16", "int8-bf16"}
    save_weights(half, network.state_dict(), network.description, half=True)
    assert certified_losses(load_network(half)) == {}
    save_weights(other, load_network(half).state_dict(), network.description, half=True)
    replace_description(other, other, replace(load_network(other).description, certified={}))
    assert load_network(other).description.certified == {}
    assert other.stat().st_size < half.stat().st_size


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data.update(certified=3),
        lambda data: data["certified"].update(bf16=None),
        lambda data: data["certified"]["bf16"].pop("digest"),
        lambda data: data["certified"]["bf16"]["data"]["tiny"].pop("frames"),
        lambda data: data["certified"]["bf16"]["data"]["tiny"].update(abs_rel="0.1 m"),
        lambda data: data["certified"]["bf16"]["data"]["tiny"].update(agreement=float("nan")),
        lambda data: data["certified"]["bf16"]["data"]["tiny"]["miou"].update(street=-1),
    ],
)
def test_a_damaged_certificate_is_an_error_of_the_file(network, damage):
    data = json.loads(network.description.to_json())
    damage(data)
    with pytest.raises(WeightsError, match="model description cannot be read"):
        Description.from_json(json.dumps(data))
