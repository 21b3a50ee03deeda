"""Temperature of the confidence: fit, effect on labels and calibration error, runs and command."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.training import datasets_fixture, train, write_config

from mtl_perception import Pipeline
from mtl_perception.__main__ import main
from mtl_perception.training.data.open import open_datasets
from mtl_perception.training.temperature import calibrate_confidence, fit_temperature, spread
from mtl_perception.weights.files import load_network, read_weights, save_weights

data = datasets_fixture()


def calibrated_logits(count: int = 40_000, classes: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    """Return logits, and classes sampled from their softmax."""
    generator = torch.Generator().manual_seed(2)
    logits = 2 * torch.randn((count, classes), generator=generator)
    return logits, torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]


@pytest.mark.parametrize("factor", [0.4, 1.0, 3.0])
def test_the_factor_of_scaled_logits_is_recovered(factor: float) -> None:
    logits, truth = calibrated_logits()
    assert fit_temperature(factor * logits, truth) == pytest.approx(factor, rel=0.03)


def test_logits_that_are_always_right_or_always_wrong_stay_within_the_range() -> None:
    logits = torch.eye(3)
    assert fit_temperature(logits, torch.arange(3)) == pytest.approx(0.05, rel=0.01)
    assert fit_temperature(logits, torch.tensor([1, 2, 0])) == pytest.approx(20, rel=0.01)


@pytest.fixture(scope="module")
def overconfident(weights_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of random values with logits far too large."""
    network = load_network(weights_file)
    for name in ("segm.weight", "segm.bias"):
        network.get_parameter(name).mul_(8)
    path = tmp_path_factory.mktemp("weights") / "overconfident.safetensors"
    save_weights(path, network.state_dict(), network.description, half=False)
    return path


def test_calibration_lowers_the_error_and_keeps_the_labels(data: Path, tmp_path: Path, overconfident: Path) -> None:
    sets = open_datasets(data / "both")
    network, before = load_network(overconfident), Pipeline(str(overconfident), "cpu", precision="fp32", warm_up=False)
    found = calibrate_confidence(network, before, spread(sets, 0))
    assert found is not None
    assert found.temperature > 2 and found.ece_after < found.ece_before / 2
    assert (found.images, found.data) == (4, ("both",))
    out = tmp_path / "out.safetensors"
    save_weights(out, network.state_dict(), network.description, half=False)
    after = Pipeline(str(out), "cpu", precision="fp32", warm_up=False)
    frame = sets[0][0].frame
    results = [pipe(frame, ("labels", "scores", "depth", "confidence")) for pipe in (before, after)]
    np.testing.assert_allclose(results[1].scores * found.temperature, results[0].scores, rtol=1e-4, atol=1e-4)
    # Only scores that are equal but for rounding may change their order.
    assert (results[0].labels == results[1].labels).mean() > 0.9999
    np.testing.assert_array_equal(results[0].depth, results[1].depth)
    assert results[1].confidence.mean() < results[0].confidence.mean()


def test_samples_without_labels_change_nothing(data: Path, overconfident: Path) -> None:
    network = load_network(overconfident)
    bias = network.get_parameter("segm.bias").clone()
    [dataset] = open_datasets(data / "depth")
    pipeline = Pipeline(str(overconfident), "cpu", warm_up=False)
    assert calibrate_confidence(network, pipeline, [(dataset, 0), (dataset, 1)]) is None
    assert torch.equal(network.get_parameter("segm.bias"), bias)


def test_the_command_writes_weights_with_the_calibration_in_the_card(
    data: Path, tmp_path: Path, overconfident: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.safetensors"
    command = ["weights", "calibrate", str(overconfident), str(out), "--device", "cpu", "--data"]
    assert main([*command, str(data / "depth")]) == 1
    assert "no image of the data has labels" in capsys.readouterr().err and not out.exists()
    assert main([*command, str(data / "both"), "--limit", "2"]) == 0
    assert "on 2 images of both" in capsys.readouterr().out
    card = load_network(out).description.card["confidence_calibration"]
    assert card["data"] == ["both"] and card["images"] == 2
    assert card["temperature"] > 2 and card["ece_after"] < card["ece_before"]
    assert out.stat().st_size > 10e6, "float32 as the given file"
    assert main([*command, str(data / "both")]) == 1
    assert "already exists" in capsys.readouterr().err
    assert main([*command, str(data / "both"), "--limit", "-1"]) == 2
    assert "--limit -1 is negative; give 0 or more" in capsys.readouterr().err


def test_a_calibrated_half_file_stays_half_but_for_its_head(data: Path, tmp_path: Path, overconfident: Path) -> None:
    half, out, again = (tmp_path / f"{name}.safetensors" for name in ("half", "out", "again"))
    network = load_network(overconfident)
    save_weights(half, network.state_dict(), network.description)
    for source, target in ((half, out), (out, again)):
        assert main(["weights", "calibrate", str(source), str(target), "--device", "cpu", "--data", str(data / "both")]) == 0
        types = {name: tensor.dtype for name, tensor in read_weights(target)[0].items() if tensor.is_floating_point()}
        assert {name for name, dtype in types.items() if dtype == torch.float32} == {"segm.weight", "segm.bias"}
        assert set(types.values()) == {torch.float16, torch.float32}
    cards = [load_network(path).description.card["confidence_calibration"] for path in (out, again)]
    assert cards[1]["ece_before"] == pytest.approx(cards[0]["ece_after"], abs=1e-3)
    frame = open_datasets(data / "both")[0][0].frame
    results = [Pipeline(str(path), "cpu", precision="fp32", warm_up=False)(frame, ("labels", "depth")) for path in (half, out)]
    np.testing.assert_array_equal(results[0].labels, results[1].labels)
    np.testing.assert_array_equal(results[0].depth, results[1].depth)


def test_calibration_refuses_data_that_the_card_names_as_held_out(
    data: Path, tmp_path: Path, overconfident: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = load_network(overconfident)
    description = replace(network.description, card={"held_out": ["both: 4 images", "other: 2 images"]})
    source, out = tmp_path / "weights.safetensors", tmp_path / "out.safetensors"
    save_weights(source, network.state_dict(), description)
    assert main(["weights", "calibrate", str(source), str(out), "--data", str(data / "both")]) == 2
    assert "cannot be calibrated on both: its card names it as held out" in capsys.readouterr().err
    assert not out.exists()


def test_a_run_calibrates_on_validation_data_and_evaluates_there_in_between(data: Path, tmp_path: Path) -> None:
    sets = {name: [{"path": "unseen", "format": "folder", "name": name}] for name in ("validation", "held_out")}
    train(write_config(data, "calibrated", steps=2, evaluate=1, **sets), tmp_path)
    card = load_network(tmp_path / "tiny.safetensors").description.card
    assert card["confidence_calibration"]["data"] == ["validation"]
    assert 0.05 <= card["confidence_calibration"]["temperature"] <= 20
    assert list(card["metrics"]) == ["held_out"]
    curve = [json.loads(line) for line in (tmp_path / "curve.jsonl").read_text().splitlines()]
    assert set(curve[0]) == {"step", "validation"}
