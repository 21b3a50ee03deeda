"""The shipped weights: what their card says, and that they see."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from mtl_perception import Frame, Pipeline
from mtl_perception.labels import STREET, load_mapping

# Held out of the training: KITTI 2015 frames whose number // 10 % 5 is 2.
HELD_OUT = ("000020", "000024", "000072", "000076", "000121", "000125")


@pytest.fixture(scope="module")
def street() -> Pipeline:
    return Pipeline("street", device="cpu", warm_up=False)


def test_the_card_says_what_the_weights_are_and_may_be_used_for(street: Pipeline) -> None:
    description = street.description
    assert description.classes == STREET.names
    assert "research" in description.license and "KITTI" in description.license
    assert any("KITTI" in entry and "CC BY-NC-SA" in entry for entry in description.card["data"])
    assert description.depth_focal_length == pytest.approx(721.5, abs=0.1)
    figures = description.card["metrics"]["kitti2015-heldout"]
    assert figures["segmentation"]["kitti6"]["mIoU"] > 0.87
    assert figures["segmentation"]["street"]["mIoU"] > 0.6
    assert figures["depth"]["abs_rel"] < 0.1
    assert description.depth_range == (1.0, 80.0)


def test_the_file_is_small() -> None:
    from mtl_perception.weights.registry import resolve

    assert resolve("street").stat().st_size <= 7_000_000


def _iou(truth: np.ndarray, guess: np.ndarray, classes: int) -> float:
    known = truth != 255
    truth, guess = truth[known], guess[known]
    values = []
    for index in range(classes):
        union = ((truth == index) | (guess == index)).sum()
        if union:
            values.append(((truth == index) & (guess == index)).sum() / union)
    return float(np.mean(values))


def test_held_out_streets_are_labeled_and_measured(street: Pipeline, shared_data: Path) -> None:
    six = load_mapping("kitti6").table()
    cityscapes = load_mapping("cityscapes").table()
    truths, guesses, errors = [], [], []
    for stem in HELD_OUT:
        image = cv2.imread(str(shared_data / f"kitti2015/image/{stem}_10.jpg"))
        result = street(Frame(image[..., ::-1]), {"labels", "depth"})
        assert result.labels is not None and result.depth is not None
        label = cv2.imread(str(shared_data / f"kitti2015/label/{stem}_10.png"), cv2.IMREAD_UNCHANGED)
        truths.append(six[cityscapes[label]].ravel())
        guesses.append(six[result.labels].ravel())
        depth = cv2.imread(str(shared_data / f"kitti2015/depth/{stem}_10.png"), cv2.IMREAD_UNCHANGED)
        meters = depth.astype(np.float32) / 256
        known = (meters > 0) & (meters < 80) & np.isfinite(result.depth)
        errors.append(np.abs(result.depth[known] - meters[known]) / meters[known])
    assert _iou(np.concatenate(truths), np.concatenate(guesses), 6) > 0.65
    assert np.concatenate(errors).mean() < 0.25
