"""Losses of training against values computed by hand."""

from __future__ import annotations

import math

import pytest
import torch

from mtl_perception.training.config import DepthTarget
from mtl_perception.training.loop.losses import TaskBalance, depth_loss, overlap_loss, overlap_sums, segmentation_loss, sky_loss


def test_segmentation_loss_is_the_weighted_mean_over_known_pixels() -> None:
    logits = torch.zeros(1, 3, 1, 3)
    logits[0, 0, 0, 0] = math.log(2.0)
    labels = torch.tensor([[[0, 1, 255]]])
    weight = torch.tensor([[[1.0, 0.5, 1.0]]])
    total, count = segmentation_loss(logits, labels, weight, torch.tensor([1.0, 4.0, 1.0]))
    # -log(2/4) with weight 1, -log(1/3) with weight 0.5 x 4; the third is unlabeled.
    assert count == 3.0
    assert float(total) == pytest.approx(math.log(2) + 2 * math.log(3))


def test_overlap_loss_is_one_minus_the_mean_iou_of_the_classes() -> None:
    # Predicted classes are 0, 0, 1, 1 (and 2, where unlabeled), true ones 0, 1, 1, 1: IoU 1/2 and 2/3; class 2 is absent.
    logits = 60.0 * torch.nn.functional.one_hot(torch.tensor([[[0, 0, 1, 1, 2]]]), 3).permute(0, 3, 1, 2).float()
    labels = torch.tensor([[[0, 1, 1, 1, 255]]])
    sums = overlap_sums(logits, labels, torch.ones(1, 1, 5))
    assert torch.allclose(sums, torch.tensor([[1.0, 2, 0], [2, 3, 0], [1, 3, 0]]))
    assert float(overlap_loss(sums, sums, 1)) == pytest.approx(1 - (1 / 2 + 2 / 3) / 2)
    # The second pixel has a weight of 0.5: 1 / 1.5 and 2 / 2.5.
    sums = overlap_sums(logits, labels, torch.tensor([[[1, 0.5, 1, 1, 1]]]))
    assert float(overlap_loss(sums, sums, 1)) == pytest.approx(1 - (2 / 3 + 4 / 5) / 2)
    nothing = overlap_sums(logits, torch.full_like(labels, 255), torch.ones(1, 1, 5))
    assert float(overlap_loss(nothing, nothing, 1)) == 0


def test_overlap_losses_of_parts_add_up_to_that_of_the_batch_with_its_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 4, 6, 5, generator=generator)
    labels = torch.randint(0, 4, (2, 6, 5), generator=generator)
    labels[0, :2] = 255
    weight = torch.rand(2, 6, 5, generator=generator)
    whole = logits.clone().requires_grad_()
    intersection, union, _ = overlap_sums(whole, labels, weight)
    expected = 1 - (intersection / union).mean()
    expected.backward()
    parts = logits.clone().requires_grad_()
    sums = [overlap_sums(parts[i : i + 1], labels[i : i + 1], weight[i : i + 1]) for i in range(2)]
    losses = [overlap_loss(each, sums[0] + sums[1], 2) for each in sums]
    torch.stack(losses).sum().backward()
    assert sum(loss.item() for loss in losses) == pytest.approx(expected.item(), abs=1e-6)
    assert whole.grad is not None
    assert torch.allclose(parts.grad, whole.grad, atol=1e-7)


def test_depth_losses_match_their_formulas() -> None:
    depth = torch.tensor([[[10.0, 10.0, float("nan"), float("inf"), 1000.0]]])
    log_depth = torch.tensor([[[10 * math.e**0.1, 10 * math.e**-1.0, 3.0, 3.0, 3.0]]]).log()
    weight = torch.ones_like(depth)
    total, count = depth_loss(log_depth, depth, weight, DepthTarget("log_l1"))
    assert (float(total / count), float(count)) == (pytest.approx(0.55, abs=1e-5), pytest.approx(1.0))
    # With c = 0.2, 0.1 remains and 1.0 becomes (1 + 0.04) / 0.4.
    total, count = depth_loss(log_depth, depth, weight, DepthTarget("berhu"))
    assert float(total / count) == pytest.approx((0.1 + 1.04 / 0.4) / 2, abs=1e-4)
    # The mean square is 0.505, the mean -0.45.
    total, count = depth_loss(log_depth, depth, weight, DepthTarget("silog"))
    assert float(total / count) == pytest.approx(math.sqrt(0.505 - 0.85 * 0.2025), abs=1e-4)
    nothing, count = depth_loss(log_depth, torch.full_like(depth, float("nan")), weight, DepthTarget())
    assert (float(nothing), float(count)) == (0.0, 0.0)
    total, count = sky_loss(log_depth, torch.isinf(depth), 30.0)
    assert (float(total), float(count)) == (pytest.approx(math.log(10), abs=1e-5), 1.0)


def test_images_with_sparse_and_dense_depth_have_the_same_weight() -> None:
    depth = torch.full((3, 20, 50), 10.0)
    depth[1, 1:] = math.nan
    depth[2].fill_(math.nan)
    depth[2, 0, 0] = 10.0
    log_depth = torch.full_like(depth, 10.0).log()
    log_depth[1] += 0.6
    log_depth[2] += 100.0
    weight = torch.tensor([1.0, 0.5, 1.0])[:, None, None].expand_as(depth)
    total, count = depth_loss(log_depth, depth, weight, DepthTarget("log_l1"))
    # 1000 pixels without error, 50 with 0.6 at half weight, and one pixel: full weight needs ten, so it has a tenth.
    assert float(count) == pytest.approx(1 + 0.5 + 0.1)
    assert float(total) == pytest.approx(0.5 * 0.6 + 0.1 * 100)


def test_dense_pseudo_depth_does_not_outweigh_sparse_ground_truth() -> None:
    depth = torch.full((2, 20, 50), 10.0)
    pseudo = torch.ones_like(depth, dtype=torch.bool)
    pseudo[0, 0, :40] = False  # 40 pixels of ground truth, 960 of pseudo-depth
    depth[1, 1:] = math.nan
    pseudo[1, :, 5:] = False  # 45 pixels of ground truth, 5 of pseudo-depth
    log_depth = torch.full_like(depth, 10.0).log()
    log_depth[pseudo] += 0.2
    log_depth[~pseudo] += 0.1
    weight = torch.where(pseudo, 0.5, 1.0)
    total, count = depth_loss(log_depth, depth, weight, DepthTarget("log_l1"), pseudo)
    # Five pixels have half the weight of as many with ground truth, not of all of them.
    assert float(count) == pytest.approx((1 + 0.5) + (1 + 0.5 * 5 / 45))
    assert float(total) == pytest.approx((0.1 + 0.5 * 0.2) + (0.1 + 0.5 * 0.2 * 5 / 45), rel=1e-5)


def test_task_balance_is_fixed_or_learned_from_uncertainty() -> None:
    losses = [torch.tensor(2.0), torch.tensor(3.0)]
    assert float(TaskBalance("fixed", (1.0, 0.5))(losses)) == 3.5
    learned = TaskBalance("uncertainty", (1.0, 1.0))
    learned.log_variance.data[:] = torch.tensor([0.0, math.log(3.0)])
    assert float(learned(losses).detach()) == pytest.approx(2.0 + 1.0 + math.log(3.0))
