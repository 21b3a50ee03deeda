"""Training losses.

Losses are returned as a weighted sum and the sum of the weights, so that several processes can add theirs. They never index by
a mask: the CPU would wait for the GPU to count the selected pixels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mtl_perception.training.config import DepthTarget
from mtl_perception.types import UNLABELED

BERHU_SHARE = 0.2
"""Change from L1 to L2, as a share of the largest error in the batch (Laina et al.)."""
MIN_KNOWN_SHARE = 0.01
"""Share of an image's pixels from which its depth has the weight of a whole image."""
SILOG_VARIANCE = 0.85
"""Share of the squared mean that is subtracted, as in Lee et al. (BTS, 2019); Eigen et al. used 0.5."""


def segmentation_loss(logits: Tensor, labels: Tensor, weight: Tensor, class_weights: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the weighted cross-entropy.

    Args:
        logits: N x C x H x W float32.
        labels: N x H x W int64, 255 = ignored.
        weight: N x H x W float32, weight of each pixel.
        class_weights: C float32, weight of each class.

    Returns:
        The sum, and the sum of the weights: their ratio is the mean.
    """
    known = labels != UNLABELED
    loss = F.cross_entropy(logits, labels, ignore_index=UNLABELED, reduction="none")
    pixel = weight * class_weights[labels.clamp(max=len(class_weights) - 1)] * known
    return (loss * pixel).sum(), pixel.sum()


def overlap_sums(logits: Tensor, labels: Tensor, weight: Tensor) -> Tensor:
    """Compute soft intersection and union of prediction and ground truth per class, from probabilities.

    Args:
        logits: N x C x H x W float32.
        labels: N x H x W int64, 255 = ignored.
        weight: N x H x W float32, weight of each pixel.

    Returns:
        3 x C float32: intersection, union, and ground truth; those of several processes add up.
    """
    probability = logits.softmax(dim=1)
    truth = labels[:, None] == torch.arange(logits.shape[1], device=labels.device)[:, None, None]
    pixel = (weight * (labels != UNLABELED))[:, None]
    intersection, predicted, true = ((part * pixel).sum(dim=(0, 2, 3)) for part in (probability * truth, probability, truth))
    return torch.stack([intersection, predicted + true - intersection, true])


def overlap_loss(sums: Tensor, totals: Tensor, parts: int) -> Tensor:
    """Compute one minus the soft Jaccard index, averaged over the classes in the batch (Rahman and Wang, ISVC 2016).

    This is what mIoU measures: unlike in cross-entropy, a small class has the same weight as the road.

    Args:
        sums: `overlap_sums` of this process.
        totals: Their sum over all processes; no gradient flows through it.
        parts: Number of processes.

    Returns:
        Share of this process: the shares of all processes add up to the loss of the whole batch, and so do their gradients.
    """
    intersection, union, true = totals.detach()
    present = true > 0
    count = present.sum().clamp(min=1)
    union = union.where(present, 1.0)
    # The differential of intersection over union; its factors are those of the whole batch.
    change = ((sums[0] * union - intersection * sums[1]) / union.square()).where(present, 0.0).sum() / count
    index = (intersection / union).where(present, 0.0).sum() / count
    loss: Tensor = (present.any().to(index.dtype) - index) / parts - (change - change.detach())
    return loss


def normalize_per_image(weight: Tensor, known: Tensor, pseudo: Tensor | None = None) -> Tensor:
    """Scale weights so that every image contributes equally, however few of its pixels are known.

    Rendered depth covers all pixels, stereo a fifth, a LiDAR sweep a twenty-fifth: a mean over all pixels of a batch would
    hardly use the sparse ones.

    Args:
        weight: N x H x W float32, weight of each pixel.
        known: N x H x W bool, pixels with depth.
        pseudo: N x H x W bool, those of them that are not ground truth; None: none. They are normalized on their own, so that
            dense pseudo-depth does not outweigh sparse LiDAR, but none has more weight than one with ground truth.

    Returns:
        N x H x W float32, zero where nothing is known. The pixels with ground truth of an image of weight 1 sum to 1, or to
        less if they are fewer than MIN_KNOWN_SHARE of its pixels; so do those with pseudo-depth.
    """
    pseudo = torch.zeros_like(known) if pseudo is None else pseudo
    pixels = (known & ~pseudo).sum(dim=(1, 2), keepdim=True).clamp(min=MIN_KNOWN_SHARE * known[0].numel())
    pseudo_pixels = (known & pseudo).sum(dim=(1, 2), keepdim=True).maximum(pixels)
    return weight * known / torch.where(pseudo, pseudo_pixels, pixels)


def depth_loss(
    log_depth: Tensor, depth: Tensor, weight: Tensor, target: DepthTarget, pseudo: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Compute the loss `target.loss` on log depth, where depth is known and in the range of the target.

    log_l1: mean |e|, with e the difference of the logarithms. berhu (Laina et al., 3DV 2016): |e| up to c, (e² + c²) / 2c
    beyond. silog (Eigen et al., NIPS 2014): sqrt(mean e² - 0.85 (mean e)²), times the sum of the weights.

    Args:
        log_depth: N x H x W float32, prediction.
        depth: N x H x W float32, m, NaN = unknown, +Inf = the sky.
        weight: N x H x W float32; normalized per image (`normalize_per_image`).
        target: Loss and range.
        pseudo: N x H x W bool, pixels whose depth is not ground truth; None: none.

    Returns:
        The sum, and the sum of the weights.
    """
    known = (depth >= target.range[0] * 0.5) & (depth <= target.range[1] * 2.0)
    error = (log_depth - depth.where(known, 1.0).log()).where(known, 0.0)
    pixel = normalize_per_image(weight, known, pseudo)
    if target.loss == "berhu":
        size = error.abs()
        limit = (BERHU_SHARE * size.max()).detach().clamp(min=1e-6)
        error = torch.where(size <= limit, size, (size.square() + limit.square()) / (2 * limit))
    elif target.loss == "silog":
        total = pixel.sum()
        mean, square = ((pixel * value).sum() / total.clamp(min=1e-9) for value in (error, error.square()))
        return (square - SILOG_VARIANCE * mean.square()).clamp(min=1e-8).sqrt() * total, total
    return (error.abs() * pixel).sum(), pixel.sum()


def sky_loss(log_depth: Tensor, sky: Tensor, min_depth: float) -> tuple[Tensor, Tensor]:
    """Compute by how much the sky is closer than `min_depth` (m), on log depth: the sum, and the number of sky pixels."""
    return F.relu(math.log(min_depth) - log_depth).where(sky, 0.0).sum(), sky.sum().to(log_depth.dtype)


class TaskBalance(nn.Module):
    """Weighted sum of the losses of the tasks.

    Args:
        kind: fixed, or uncertainty (Kendall et al., CVPR 2018: exp(-s) loss + s, with a learned s per task).
        weights: Weight of each task, for `fixed`.
    """

    def __init__(self, kind: str, weights: tuple[float, ...]) -> None:
        super().__init__()
        self._weights = weights
        self.log_variance = nn.Parameter(torch.zeros(len(weights))) if kind == "uncertainty" else None

    def forward(self, losses: list[Tensor]) -> Tensor:
        """Return the weighted sum of the losses, in the order of the weights."""
        total = losses[0] * 0
        for number, loss in enumerate(losses):
            if self.log_variance is None:
                total = total + self._weights[number] * loss
            else:
                total = total + torch.exp(-self.log_variance[number]) * loss + self.log_variance[number]
        return total
