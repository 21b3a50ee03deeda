"""The rule for labels, confidence, depth and normals."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mtl_perception.inference.host.postprocess import Postprocessor
from mtl_perception.inference.outputs import depth_from_raw, labels_from_scores, normals_from_raw
from mtl_perception.network.grid import ResizeSpec, resize

NAN, INF = math.nan, math.inf


def labels_of(*scores: float, min_confidence: float = 0.0, **options: bool) -> tuple[int, int | None]:
    """Label and confidence of one pixel."""
    planes = torch.tensor(scores)[None, :, None, None]
    labels, confidence = labels_from_scores(planes, min_confidence, **{"with_confidence": True, **options})
    return int(labels), None if confidence is None else int(confidence)


def test_the_highest_score_is_the_label_and_its_softmax_the_confidence():
    assert labels_of(1.0, 3.0, 2.0) == (1, round(255 / (1 + math.exp(-1) + math.exp(-2))))
    assert labels_of(1.0, 3.0, 2.0, with_confidence=False) == (1, None)
    assert labels_of(2.0, 2.0) == (0, 128), "the first of equal scores"


def test_labels_below_the_minimum_confidence_are_unlabeled_and_keep_their_confidence():
    assert labels_of(0.0, 0.0, min_confidence=0.5)[0] == 0
    assert labels_of(0.0, 0.0, min_confidence=0.51) == (255, 128)


@pytest.mark.parametrize("scores", [(NAN, 1.0), (1.0, NAN), (INF, 1.0), (-INF, -INF)])
@pytest.mark.parametrize("max_skips_nan", [False, True])
def test_nonfinite_scores_give_no_label(scores, max_skips_nan):
    assert labels_of(*scores, max_skips_nan=max_skips_nan) == (255, 0)
    assert labels_of(*scores, with_confidence=False, max_skips_nan=max_skips_nan) == (255, None)


@pytest.mark.parametrize(
    ("raw", "expected"),
    [(3.0, 6.0), (-3.0, 6.0), (0.0, NAN), (0.4, NAN), (0.5, 1.0), (40.0, 80.0), (40.1, INF), (NAN, NAN), (INF, NAN)],
)
def test_depth_is_meters_within_the_limits(raw, expected):
    limits = {"factor": 2.0, "min_depth": 1.0, "max_depth": 80.0}
    for values in (limits, {name: torch.full((1, 1, 1), value) for name, value in limits.items()}):
        found = depth_from_raw(torch.full((1, 2, 3), raw), "abs", **values)
        np.testing.assert_array_equal(found.numpy(), np.full((1, 2, 3), expected, np.float32))


def test_exponential_depth():
    raw = torch.tensor([[0.0, -200.0, 200.0, NAN]])
    np.testing.assert_array_equal(depth_from_raw(raw, "exp", 1.0, 0.0, 80.0), np.array([[1, NAN, INF, NAN]], np.float32))


def test_normals_are_unit_vectors_with_the_components_last():
    found = normals_from_raw(torch.tensor([0.0, 3.0, -4.0]).reshape(1, 3, 1, 1))
    torch.testing.assert_close(found, torch.tensor([0.0, 0.6, -0.8]).reshape(1, 1, 1, 3))


@pytest.mark.parametrize("mode", ["bicubic", "bilinear"])
@pytest.mark.parametrize("min_confidence", [0.0, 0.3])
@pytest.mark.parametrize("with_confidence", [False, True])
def test_row_tiles_on_the_cpu_follow_the_rule(mode, min_confidence, with_confidence):
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(12, 23, 31, generator=generator)
    resize_spec = ResizeSpec((90, 121), (92, 124), mode)
    postprocess = Postprocessor("abs", (0, 12))
    labels, confidence = postprocess.segmentation(logits, resize_spec, min_confidence, with_confidence)
    expected, levels = labels_from_scores(resize(logits[None], resize_spec), min_confidence, with_confidence=True)
    assert (labels != expected[0]).float().mean() < (1e-3 if min_confidence == 0 else 5e-3)
    assert (confidence is not None) == with_confidence
    if confidence is not None:
        assert (confidence.int() - levels[0]).abs().max() <= 1
