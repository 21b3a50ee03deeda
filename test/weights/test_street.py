"""The shipped weights `street`: their card, and their accuracy on held-out frames."""

from __future__ import annotations

from pathlib import Path

import pytest

from mtl_perception import Pipeline
from mtl_perception.labels import STREET

CONFIG = Path(__file__).parents[2] / "config/data/street-heldout.yaml"


@pytest.fixture(scope="module")
def street() -> Pipeline:
    return Pipeline("street", device="cpu", warm_up=False)


def test_card_states_classes_license_data_and_metrics(street: Pipeline) -> None:
    description = street.description
    assert description.classes == STREET.names
    assert "research" in description.license and "KITTI" in description.license
    data = description.card["data"]
    assert any("KITTI" in entry and "CC BY-NC-SA" in entry for entry in data)
    for name in ("CamVid", "Cityscapes", "Penn-Fudan"):
        assert name in description.license and any(name in entry for entry in data), name
    assert "non-commercial" in description.license and "Monodepth2" in description.license  # of the depth teacher
    assert description.depth_focal_length == pytest.approx(721.5, abs=0.1)
    figures = description.card["metrics"]["kitti2015-heldout"]
    assert figures["segmentation"]["kitti6"]["mIoU"] > 0.88
    assert figures["segmentation"]["street"]["mIoU"] > 0.61
    assert figures["depth"]["abs_rel"] < 0.1
    assert figures["depth"]["rmse"] < 3.9
    assert description.depth_range == (1.0, 80.0)
    calibration = description.card["confidence_calibration"]
    assert calibration["data"] == ["kitti2015-validation"] and calibration["ece_after"] < 0.01 < calibration["ece_before"]
    assert figures["calibration"]["ECE"] < 0.035
    assert description.card["metrics"]["camvid-val"]["calibration"]["ECE"] < 0.005


def test_file_is_below_7_megabytes() -> None:
    from mtl_perception.weights.registry import resolve

    assert resolve("street").stat().st_size <= 7_000_000


@pytest.mark.slow
def test_accuracy_on_the_held_out_set_is_that_of_the_card(
    street: Pipeline, shared_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every metric on the 32 held-out KITTI 2015 frames is at most one point below the card: the measurement of `eval`."""
    pytest.importorskip("torchmetrics")
    from mtl_perception.training.data.open import open_datasets
    from mtl_perception.training.evaluation.evaluate import PIPELINE, Evaluation

    monkeypatch.setenv("DATA", str(shared_data))
    [dataset] = open_datasets(CONFIG)
    pipeline = Pipeline("street", device="cpu", precision="fp32", warm_up=False, **PIPELINE)
    evaluation = Evaluation(pipeline, dataset)
    evaluation.run()
    report, card = evaluation.report(), street.description.card["metrics"]["kitti2015-heldout"]
    assert report["frames"] == card["frames"] == 32
    for classes in ("kitti6", "street"):
        assert report["segmentation"][classes]["mIoU"] > card["segmentation"][classes]["mIoU"] - 0.01, classes
    assert report["depth"]["abs_rel"] < card["depth"]["abs_rel"] + 0.01
    assert report["depth"]["delta1"] > card["depth"]["delta1"] - 0.01
    assert report["depth"]["rmse"] < card["depth"]["rmse"] * 1.01
    assert report["calibration"]["ECE"] < card["calibration"]["ECE"] + 0.005
