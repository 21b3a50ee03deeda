"""The rule that turns network outputs into labels, confidence, depth, normals and depth edges.

Every backend applies it: to depth edges before upsampling, to the others after it. Nothing here waits for a value on the
device, so the functions can be captured in a CUDA graph, and they use only operators that every ONNX runtime has.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mtl_perception.types import UNLABELED

MAX_FLOAT = torch.finfo(torch.float32).max
CONFIDENCE_LEVELS = 255


def labels_from_scores(
    scores: Tensor, min_confidence: float | Tensor, *, with_confidence: bool = False, max_skips_nan: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Choose the class with the highest score, without a label where no probability can be computed.

    Args:
        scores: N x C x H x W float32 logits; overwritten if confidence is computed.
        min_confidence: Labels whose softmax maximum (0 to 1) is below this become `UNLABELED`; a number, or a tensor that
            broadcasts to N x H x W. Ignored without confidence.
        with_confidence: Compute the softmax maximum.
        max_skips_nan: Set it where the runtime's maximum may skip NaN, as in ONNX.

    Returns:
        Labels N x H x W uint8, and confidence N x H x W float32 in whole levels of 0 to 255, or None. Non-finite scores give
        label 255 and confidence 0.
    """
    best, index = scores.max(dim=1)
    confidence = None
    if with_confidence:
        # The largest term of the softmax is exp(0), so the softmax maximum is one over the sum. It is NaN for NaN and Inf.
        probability = 1 / scores.sub_(best[:, None]).exp_().sum(dim=1)
        valid = probability >= min_confidence
        levels = (probability * CONFIDENCE_LEVELS).round_()
        confidence = torch.where(probability >= 0, levels, 0.0)
    else:
        valid = _is_finite(scores.sum(dim=1) if max_skips_nan else best)
    # By way of float32: TensorRT casts uint8 from and to floating point only.
    return torch.where(valid, index.float(), float(UNLABELED)).to(torch.uint8), confidence


def apply_min_confidence(labels: np.ndarray, probability: np.ndarray, min_confidence: float) -> None:
    """Apply the last step of `labels_from_scores` in place in NumPy, for finite scores.

    Args:
        labels: H x W uint8, the classes with the highest score; those below the limit become `UNLABELED`.
        probability: H x W float32, the softmax maximum, 0 to 1; overwritten with whole levels of 0 to 255.
        min_confidence: The limit, 0 to 1.
    """
    if min_confidence > 0:
        labels[probability < min_confidence] = UNLABELED
    np.multiply(probability, CONFIDENCE_LEVELS, out=probability)
    np.rint(probability, out=probability)


def depth_from_raw(
    raw: Tensor, transform: str, factor: float | Tensor, min_depth: float | Tensor, max_depth: float | Tensor
) -> Tensor:
    """Convert the depth head's output to meters and apply the limits.

    Args:
        raw: H x W or N x H x W float32; overwritten.
        transform: The description's `depth_transform`: "abs" or "exp".
        factor: Meters per unit of transformed depth.
        min_depth: Meters; nearer is invalid.
        max_depth: Meters; farther is beyond the range.

    Returns:
        `raw`'s memory: meters, NaN = invalid, +Inf = beyond `max_depth` (REP 117).
    """
    valid = _is_finite(raw)
    depth = raw.exp_() if transform == "exp" else raw.abs_()
    if isinstance(factor, Tensor) or factor != 1.0:
        depth.mul_(factor)
    valid = valid & (depth > 0) & (depth >= min_depth)
    depth.masked_fill_(depth > max_depth, torch.inf)
    return depth.masked_fill_(~valid, torch.nan)


def convert_to_depth(raw: np.ndarray, transform: str, factor: float, min_depth: float, max_depth: float) -> None:
    """Apply `depth_from_raw` in place in NumPy.

    On a CPU this takes a third of the time. PyTorch's operators also wait for its threads, and its exponential for those of
    MKL: on cores that are busy with other processes, milliseconds each.

    Args:
        raw: H x W float32, the depth head's output; overwritten.
        transform: The description's `depth_transform`: "abs" or "exp".
        factor: Meters per unit of transformed depth.
        min_depth: Meters; nearer is invalid.
        max_depth: Meters; farther is beyond the range.
    """
    valid = np.isfinite(raw)
    # The exponential of a finite value may be Inf, which is beyond `max_depth`.
    with np.errstate(over="ignore"):
        depth = np.exp(raw, out=raw) if transform == "exp" else np.abs(raw, out=raw)
        np.multiply(depth, np.float32(factor), out=depth)
    valid &= depth > 0
    valid &= depth >= min_depth
    np.copyto(depth, np.inf, where=depth > max_depth)
    np.copyto(depth, np.nan, where=~valid)


def depth_edges(raw: Tensor, transform: str, max_jump: float | Tensor) -> Tensor:
    """Find the cells at depth discontinuities, where interpolated depth lies between two surfaces.

    A pair of neighboring cells of a row or column is broken if their depths differ by a ratio above the limit, and by more than
    the limit beyond the jump of the next pair, on at least one side, in the same direction. Both cells of the pair are edges.
    In logarithms: |j| > m and (|j| - j_before > m or |j| - j_after > m), where j is the pair's difference and the other two
    count as positive in its direction. The first part is the jump test of range images, as for the borders of Steder et al.,
    Point Feature Extraction on 3D Range Scans Taking into Account Object Boundaries, ICRA 2011. The second part keeps inclined
    planes: in log depth, the jumps of a ground plane k cells below the horizon differ by 1 / k^2 only, but are 1 / k large.

    Cells beyond the border replicate the border. Comparisons with NaN are false. With the transform "exp" all engines get
    the same edges from the same values: there are only subtractions and comparisons.

    Args:
        raw: ... x h x w float32, the depth head's output.
        transform: The description's `depth_transform`: "abs" or "exp".
        max_jump: Largest difference of log depth within a surface, as of `log_jump`; a number, or a tensor that broadcasts to
            ... x h x w.

    Returns:
        ... x h x w bool.
    """
    log_depth = raw if transform == "exp" else raw.abs().log()
    edges = torch.zeros_like(log_depth, dtype=torch.bool)
    for dim in (-2, -1):
        size = log_depth.shape[dim]
        if size > 1:
            jumps = log_depth.diff(dim=dim)
            zero = torch.zeros_like(jumps.narrow(dim, 0, 1))
            before = torch.cat([zero, jumps.narrow(dim, 0, size - 2)], dim)
            after = torch.cat([jumps.narrow(dim, 1, size - 2), zero], dim)
            jump, sign = jumps.abs(), jumps.sign()
            broken = (jump > max_jump) & ((jump - before * sign > max_jump) | (jump - after * sign > max_jump))
            edges.narrow(dim, 0, size - 1).logical_or_(broken)
            edges.narrow(dim, 1, size - 1).logical_or_(broken)
    return edges


def log_jump(relative: float) -> float:
    """Return the difference of log depth of a relative depth jump, (far - near) / near, rounded to float32."""
    return float(np.float32(math.log1p(relative)))


def normals_from_raw(raw: Tensor) -> Tensor:
    """Normalize N x 3 x H x W outputs to N x H x W x 3 unit vectors."""
    return F.normalize(raw, dim=1).permute(0, 2, 3, 1)


def _is_finite(values: Tensor) -> Tensor:
    """Test by a comparison, which is false for NaN: not every ONNX runtime has IsNaN and IsInf."""
    return values.abs() <= MAX_FLOAT
