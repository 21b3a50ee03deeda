"""What is made small: sums over pixels with the weights they were summed with, so that processes can add theirs up."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mtl_perception.training.config import DepthTarget
from mtl_perception.types import UNLABELED

BERHU_SHARE = 0.2
"""Laina et al.: the change from L1 to L2 lies at a fifth of the greatest error in the batch."""
FEW = 0.01
"""Share of a picture's pixels from which on its depth counts as that of a whole picture."""
SILOG_VARIANCE = 0.85
"""Share of the mean squared that is taken off, as Lee et al. (BTS, 2019) have it; Eigen et al. took 0.5."""


def segmentation_loss(logits: Tensor, labels: Tensor, weight: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted cross-entropy.

    Args:
        logits: N x C x H x W float32.
        labels: N x H x W int64, 255 = ignored.
        weight: N x H x W float32, how much each pixel counts.
        classes: C float32, how much each class counts.

    Returns:
        The sum, and the sum of the weights: their ratio is the mean.
    """
    known = labels != UNLABELED
    each = F.cross_entropy(logits, labels, ignore_index=UNLABELED, reduction="none")
    pixel = weight * classes[labels.clamp(max=len(classes) - 1)] * known
    return (each * pixel).sum(), pixel.sum()


def overlap_sums(logits: Tensor, labels: Tensor, weight: Tensor) -> Tensor:
    """Intersection and union of what the network says and what is true, for each class, with probabilities instead of labels.

    Args:
        logits: N x C x H x W float32.
        labels: N x H x W int64, 255 = ignored.
        weight: N x H x W float32, how much each pixel counts.

    Returns:
        3 x C float32: intersections, unions, and what is true; those of several processes add up.
    """
    said = logits.softmax(dim=1)
    known = labels != UNLABELED
    true = labels[:, None] == torch.arange(logits.shape[1], device=labels.device)[:, None, None]
    pixel = (weight * known)[:, None]
    intersection, said_sum, true_sum = ((part * pixel).sum(dim=(0, 2, 3)) for part in (said * true, said, true))
    return torch.stack([intersection, said_sum + true_sum - intersection, true_sum])


def overlap_loss(sums: Tensor, totals: Tensor, parts: int) -> Tensor:
    """One minus the soft Jaccard index, its mean over the classes that are there (Rahman and Wang, ISVC 2016).

    It is what mIoU asks for, where cross-entropy asks for each pixel alike: a small class is worth as much as the road.

    Args:
        sums: This process's `overlap_sums`.
        totals: Those of all processes; no gradient goes through them.
        parts: How many processes.

    Returns:
        This process's part: the parts' values add up to the loss of the whole batch, and so do their gradients.
    """
    intersection, union, true = totals.detach()
    present = true > 0
    count = present.sum().clamp(min=1)
    union = union.where(present, 1.0)
    # The differential of intersection over union, whose factors only all processes together know.
    change = ((sums[0] * union - intersection * sums[1]) / union.square()).where(present, 0.0).sum() / count
    index = (intersection / union).where(present, 0.0).sum() / count
    loss: Tensor = (present.any().to(index.dtype) - index) / parts - (change - change.detach())
    return loss


def evened(weight: Tensor, known: Tensor) -> Tensor:
    """Weights that let each picture count alike, however few of its pixels are known.

    Rendered depth is everywhere, that of a stereo pair on a fifth of the pixels, that of a LiDAR sweep on a twenty-fifth: a
    mean over all pixels of a batch would learn nearly nothing but the first.

    Args:
        weight: N x H x W float32, how much each pixel counts beside the others of its picture and of the batch.
        known: N x H x W bool, where there is something to learn.

    Returns:
        N x H x W float32, zero where nothing is known; a picture of weight 1 adds up to 1, or to less where fewer than
        FEW of its pixels are known, whose word a whole picture's must not be.
    """
    pixels = known.sum(dim=(1, 2), keepdim=True).clamp(min=FEW * known[0].numel())
    return weight * known / pixels


def depth_loss(log_depth: Tensor, depth: Tensor, weight: Tensor, target: DepthTarget) -> tuple[Tensor, Tensor]:
    """The loss of `target.loss`, on the logarithm of depth, where it is known and within the target's range.

    log_l1: mean |e|, e the difference of the logarithms. berhu (Laina et al., 3DV 2016): |e| up to c, (e² + c²) / 2c beyond.
    silog (Eigen et al., NIPS 2014): sqrt(mean e² - 0.85 (mean e)²), here times the weights' sum, so that it too is a sum.

    Args:
        log_depth: N x H x W float32, what the network says.
        depth: N x H x W float32 meters, NaN = unknown, +Inf = the sky.
        weight: N x H x W float32; pictures are evened out (`evened`).
        target: Which loss, and what range of meters.

    Returns:
        The sum, and the sum of the weights.
    """
    # Masks instead of indices: selecting pixels would make the CPU wait for the GPU to count them.
    known = (depth >= target.range[0] * 0.5) & (depth <= target.range[1] * 2.0)
    error = (log_depth - depth.where(known, 1.0).log()).where(known, 0.0)
    pixel = evened(weight, known)
    if target.loss == "berhu":
        size = error.abs()
        limit = (BERHU_SHARE * size.max()).detach().clamp(min=1e-6)
        error = torch.where(size <= limit, size, (size.square() + limit.square()) / (2 * limit))
    elif target.loss == "silog":
        total = pixel.sum()
        mean, square = ((pixel * value).sum() / total.clamp(min=1e-9) for value in (error, error.square()))
        return (square - SILOG_VARIANCE * mean.square()).clamp(min=1e-8).sqrt() * total, total
    return (error.abs() * pixel).sum(), pixel.sum()


def sky_loss(log_depth: Tensor, sky: Tensor, meters: float) -> tuple[Tensor, Tensor]:
    """How far the sky comes nearer than `meters`, in logarithms: sum, and number of its pixels."""
    return F.relu(math.log(meters) - log_depth).where(sky, 0.0).sum(), sky.sum().to(log_depth.dtype)


class TaskBalance(nn.Module):
    """The tasks' losses as one.

    Args:
        kind: fixed, or uncertainty (Kendall et al., CVPR 2018: exp(-s) loss + s, with a learned s for each task).
        weights: For `fixed`, of each task.
    """

    def __init__(self, kind: str, weights: tuple[float, ...]) -> None:
        super().__init__()
        self._weights = weights
        self.log_variance = nn.Parameter(torch.zeros(len(weights))) if kind == "uncertainty" else None

    def forward(self, losses: list[Tensor]) -> Tensor:
        """Weighted sum of the tasks' losses, in the order of the weights."""
        total = losses[0] * 0
        for number, loss in enumerate(losses):
            if self.log_variance is None:
                total = total + self._weights[number] * loss
            else:
                total = total + torch.exp(-self.log_variance[number]) * loss + self.log_variance[number]
        return total
