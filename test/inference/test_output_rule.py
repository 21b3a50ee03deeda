"""The rule for labels, confidence, depth, normals and depth edges."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mtl_perception.inference.host.postprocess import Postprocessor
from mtl_perception.inference.outputs import depth_edges, depth_from_raw, labels_from_scores, log_jump, normals_from_raw
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


@pytest.mark.parametrize("transform", ["abs", "exp"])
@pytest.mark.parametrize("factor", [1.0, 1.7])
def test_depth_on_the_cpu_follows_the_rule(transform, factor):
    generator = torch.Generator().manual_seed(1)
    raw = 6 * torch.randn(1, 60, 700, generator=generator)
    raw[0, ::7, ::5], raw[0, ::5, ::7], raw[0, ::9, ::9], raw[0, ::8, ::8] = NAN, INF, -INF, 100.0
    resize_spec = ResizeSpec(raw.shape[1:], raw.shape[1:], "bilinear")
    found = Postprocessor(transform, (0, 12)).depth(raw, resize_spec, 0.5, 80.0, factor)
    expected = depth_from_raw(raw[0].clone(), transform, factor, 0.5, 80.0)
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-6, atol=0, equal_nan=True)


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
    assert (labels != expected[0].numpy()).mean() < (1e-3 if min_confidence == 0 else 5e-3)
    assert (confidence is not None) == with_confidence
    if confidence is not None:
        assert np.abs(confidence - levels[0].numpy()).max() <= 1


class TestDepthEdges:
    """Maps of log depth, as of a network with the transform "exp"."""

    def test_a_step_between_two_surfaces_is_an_edge_on_both_sides(self):
        raw = torch.zeros(5, 8)
        raw[:, 4:] = 0.5
        edges = depth_edges(raw, "exp", 0.4)
        assert edges.nonzero()[:, 1].unique().tolist() == [3, 4] and edges[:, 3:5].all()
        assert not depth_edges(raw, "exp", 0.6).any()
        assert torch.equal(depth_edges(raw.T, "exp", 0.4), edges.T)
        assert torch.equal(depth_edges(-raw, "exp", 0.4), edges)

    def test_all_of_a_smooth_transition_between_two_surfaces_is_an_edge(self):
        raw = torch.tensor([[0.0, 0.0, 0.0, 0.2, 0.6, 1.0, 1.2, 1.2, 1.2]])
        assert depth_edges(raw, "exp", 0.15)[0].tolist() == [False, False, True, True, True, True, True, False, False]

    @pytest.mark.parametrize("height", [0.3, 1.65])
    def test_ground_is_kept_up_to_five_cells_below_the_horizon(self, height):
        """Its depth in the uppermost row is a fifth more than in the next one."""
        cells = torch.arange(4.0, 40.0)
        raw = (180 * height / cells).log()[:, None].expand(-1, 6)
        assert raw[1:].diff(dim=0).abs().max() > 0.18
        # The first pair touches the border.
        assert not depth_edges(raw, "exp", log_jump(0.12))[2:].any()
        # Not because of its slope: an object on it is an edge.
        raw = raw.clone()
        raw[8:14, 2:4] = raw[14, 0]
        assert depth_edges(raw, "exp", log_jump(0.12))[8, 2:4].all()

    def test_the_limit_is_relative_to_the_nearer_depth(self):
        raw = torch.tensor([[1.0, 1.0, 1.25, 1.25]])
        for sign in (1, -1):
            assert depth_edges(sign * raw, "abs", log_jump(0.24))[0].tolist() == [False, True, True, False]
            assert not depth_edges(sign * raw, "abs", log_jump(0.26)).any()
        assert torch.equal(depth_edges(raw.log(), "exp", log_jump(0.24)), depth_edges(raw, "abs", log_jump(0.24)))

    def test_nonfinite_cells_do_not_hide_edges_beside_them(self):
        raw = torch.tensor([[NAN, 0.0, 1.0, 1.0], [0.0, 0.0, NAN, 1.0], [0.0, 1.0, INF, INF]])
        edges = depth_edges(raw[:, None], "exp", 0.5)[:, 0]
        assert edges.tolist() == [[False, True, True, False], [False] * 4, [True, True, True, False]]

    def test_limits_may_differ_between_images(self):
        raw = torch.tensor([[0.0, 0.0, 0.5, 0.5]]).expand(2, 1, 4)
        edges = depth_edges(raw, "exp", torch.tensor([0.4, 0.6])[:, None, None])
        assert edges[0].any() and not edges[1].any()

    @pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 1), (3, 2)], ids=str)
    def test_small_maps(self, size):
        raw = torch.arange(size[0] * size[1], dtype=torch.float32).reshape(size)
        assert depth_edges(raw, "exp", 0.5).shape == size
