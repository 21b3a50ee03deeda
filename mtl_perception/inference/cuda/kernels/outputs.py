"""From the heads' maps to labels, confidence, depth and points in one kernel: the rules of `inference.outputs`."""

# Triton reads the annotations of a kernel: they must not become strings, so there is no `from __future__ import annotations`.
from collections.abc import Mapping

import torch
import triton
import triton.language as tl
from torch import Tensor

from mtl_perception.inference.cuda.kernels.launch import OUTPUTS_TILE
from mtl_perception.types import UNLABELED

_UNLABELED = tl.constexpr(UNLABELED)


@triton.jit
def _tap_weight(distance, CUBIC: tl.constexpr):
    """Return the weight of a tap: the triangle of linear interpolation, or cubic convolution.

    Formula: Keys, Cubic Convolution Interpolation, IEEE ASSP 29, 1981, with a = -0.75, as in PyTorch and OpenCV.
    """
    if CUBIC:
        near = (1.25 * distance - 2.25) * distance * distance + 1.0
        far = ((-0.75 * distance + 3.75) * distance - 6.0) * distance + 3.0
        return tl.where(distance <= 1.0, near, far)
    else:
        return tl.maximum(1.0 - distance, 0.0)


@triton.jit
def _is_finite(x):
    return tl.abs(x) < float("inf")


@triton.jit
def _log_depth(raw, EXP: tl.constexpr):
    return raw if EXP else tl.log(tl.abs(raw))


@triton.jit
def _is_broken(before, first, second, after, limit):
    """Compare the jump between the middle two of four cells in a line with the limit; see `depth_edges`."""
    jump = second - first
    sign = tl.where(jump < 0.0, -1.0, 1.0)
    jump = jump * sign
    return (jump > limit) & ((jump - (first - before) * sign > limit) | (jump - (after - second) * sign > limit))


@triton.jit(do_not_specialize=["h", "w", "H", "W", "uncropped_h", "uncropped_w"])
def outputs_kernel(
    maps,
    image,
    rays,
    limits,
    labels,
    confidence,
    depth,
    cloud,
    h,
    w,
    H,
    W,
    uncropped_h,
    uncropped_w,
    step,
    stride,
    P: tl.constexpr,
    FIRST: tl.constexpr,
    CLASSES: tl.constexpr,
    CLASS_BLOCK: tl.constexpr,
    DEPTH_COLUMN: tl.constexpr,
    CUBIC: tl.constexpr,
    EXP: tl.constexpr,
    NEEDS_LABELS: tl.constexpr,
    NEEDS_DEPTH: tl.constexpr,
    NEEDS_PROBABILITY: tl.constexpr,
    HAS_LABELS: tl.constexpr,
    HAS_CONFIDENCE: tl.constexpr,
    HAS_DEPTH: tl.constexpr,
    HAS_CLOUD: tl.constexpr,
    FILTERS_EDGES: tl.constexpr,
    LIMITS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Compute blocks of pixels of one output row; see `write_outputs`."""
    x = (tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)) * step
    y = tl.program_id(1) * step
    n = tl.program_id(2)
    inside = x < W
    # Half-pixel centers, as align_corners=False.
    sy = (y.to(tl.float32) + 0.5) * (h.to(tl.float32) / uncropped_h) - 0.5
    sx = (x.to(tl.float32) + 0.5) * (w.to(tl.float32) / uncropped_w) - 0.5
    if not CUBIC:
        sy = tl.maximum(sy, 0.0)
        sx = tl.maximum(sx, 0.0)
    y0 = tl.floor(sy)
    x0 = tl.floor(sx)
    c = tl.arange(0, CLASS_BLOCK)
    known = c < CLASSES
    TAP0: tl.constexpr = -1 if CUBIC else 0
    TAP1: tl.constexpr = 3 if CUBIC else 2
    scores = tl.zeros((BLOCK, CLASS_BLOCK), tl.float32)
    meters = tl.zeros((BLOCK,), tl.float32)
    for j in tl.static_range(TAP0, TAP1):
        wy = _tap_weight(tl.abs(sy - (y0 + j)), CUBIC)
        iy = tl.minimum(tl.maximum(y0.to(tl.int32) + j, 0), h - 1)
        row_scores = tl.zeros((BLOCK, CLASS_BLOCK), tl.float32)
        row_meters = tl.zeros((BLOCK,), tl.float32)
        for i in tl.static_range(TAP0, TAP1):
            wx = _tap_weight(tl.abs(sx - (x0 + i)), CUBIC)
            ix = tl.minimum(tl.maximum(x0.to(tl.int32) + i, 0), w - 1)
            at = ((n * h + iy) * w + ix) * P
            if NEEDS_LABELS:
                value = tl.load(maps + at[:, None] + (FIRST + c)[None, :], mask=inside[:, None] & known[None, :], other=0.0)
                row_scores += wx[:, None] * value
            if NEEDS_DEPTH:
                row_meters += wx * tl.load(maps + at + DEPTH_COLUMN, mask=inside, other=0.0)
        scores += wy * row_scores
        meters += wy * row_meters
    pixel = (n * H + y) * W + x
    label = tl.full((BLOCK,), _UNLABELED, tl.int32)
    if NEEDS_LABELS:
        scores = tl.where(known[None, :], scores, float("-inf"))
        best = tl.max(scores, axis=1)
        # Of equal scores the first, as torch.max and OpenCV choose.
        index = tl.argmax(scores, axis=1, tie_break_left=True).to(tl.int32)
        # The maximum hides a NaN among the scores, their sum does not.
        total = tl.sum(tl.where(known[None, :], scores, 0.0), axis=1)
        certain = (total == total) & _is_finite(best)
        if NEEDS_PROBABILITY:
            probability = 1.0 / tl.sum(tl.exp(scores - best[:, None]), axis=1)
            certain = certain & (probability >= tl.load(limits + n * LIMITS + 2))
            if HAS_CONFIDENCE:
                level = tl.where(probability == probability, probability, 0.0) * 255.0
                # Halves to even, as torch.round.
                whole = tl.floor(level)
                rest = level - whole
                odd = whole - 2.0 * tl.floor(whole * 0.5)
                level = whole + tl.where((rest > 0.5) | ((rest == 0.5) & (odd == 1.0)), 1.0, 0.0)
                tl.store(confidence + pixel, level.to(tl.uint8), mask=inside)
        label = tl.where(certain, index, _UNLABELED)
        if HAS_LABELS:
            tl.store(labels + pixel, label.to(tl.uint8), mask=inside)
    if NEEDS_DEPTH:
        invalid = ~_is_finite(meters)
        meters = tl.exp(meters) if EXP else tl.abs(meters)
        meters = meters * tl.load(limits + n * LIMITS + 3)
        invalid = invalid | (meters < tl.load(limits + n * LIMITS)) | (meters <= 0.0)
        meters = tl.where(meters > tl.load(limits + n * LIMITS + 1), float("inf"), meters)
        meters = tl.where(invalid, float("nan"), meters)
        if HAS_DEPTH:
            tl.store(depth + pixel, meters, mask=inside)
    if HAS_CLOUD:
        has_point = inside & (y % stride == 0) & (x % stride == 0)
        rows = (H + stride - 1) // stride
        columns = (W + stride - 1) // stride
        point = (n * rows + y // stride) * columns + x // stride
        ray_x = tl.load(rays + 2 * point, mask=has_point, other=0.0)
        ray_y = tl.load(rays + 2 * point + 1, mask=has_point, other=0.0)
        valid = _is_finite(meters) & _is_finite(ray_x)
        if FILTERS_EDGES:
            limit = tl.load(limits + n * LIMITS + 4)
            # Cells of the depth map in a cross around the one under the pixel; see `nearest_cells`.
            cy = (2 * y + 1) * h // (2 * uncropped_h)
            cx = (2 * x + 1) * w // (2 * uncropped_w)
            row = maps + (n * h + cy) * w * P + DEPTH_COLUMN
            column = maps + (n * h * w + cx) * P + DEPTH_COLUMN
            center = _log_depth(tl.load(row + cx * P, mask=has_point, other=0.0), EXP)
            left2 = _log_depth(tl.load(row + tl.maximum(cx - 2, 0) * P, mask=has_point, other=0.0), EXP)
            left = _log_depth(tl.load(row + tl.maximum(cx - 1, 0) * P, mask=has_point, other=0.0), EXP)
            right = _log_depth(tl.load(row + tl.minimum(cx + 1, w - 1) * P, mask=has_point, other=0.0), EXP)
            right2 = _log_depth(tl.load(row + tl.minimum(cx + 2, w - 1) * P, mask=has_point, other=0.0), EXP)
            above2 = _log_depth(tl.load(column + tl.maximum(cy - 2, 0) * w * P, mask=has_point, other=0.0), EXP)
            above = _log_depth(tl.load(column + tl.maximum(cy - 1, 0) * w * P, mask=has_point, other=0.0), EXP)
            below = _log_depth(tl.load(column + tl.minimum(cy + 1, h - 1) * w * P, mask=has_point, other=0.0), EXP)
            below2 = _log_depth(tl.load(column + tl.minimum(cy + 2, h - 1) * w * P, mask=has_point, other=0.0), EXP)
            edge = _is_broken(left2, left, center, right, limit) | _is_broken(left, center, right, right2, limit)
            edge = edge | _is_broken(above2, above, center, below, limit) | _is_broken(above, center, below, below2, limit)
            valid = valid & ~edge
        z = tl.where(valid, meters, float("nan"))
        red = tl.load(image + 3 * pixel, mask=has_point, other=0).to(tl.int32)
        green = tl.load(image + 3 * pixel + 1, mask=has_point, other=0).to(tl.int32)
        blue = tl.load(image + 3 * pixel + 2, mask=has_point, other=0).to(tl.int32)
        # Bits, not values: rgb and label share the buffer with the coordinates, whose type is float32.
        tl.store(cloud + 5 * point, (ray_x * z).to(tl.int32, bitcast=True), mask=has_point)
        tl.store(cloud + 5 * point + 1, (ray_y * z).to(tl.int32, bitcast=True), mask=has_point)
        tl.store(cloud + 5 * point + 2, z.to(tl.int32, bitcast=True), mask=has_point)
        tl.store(cloud + 5 * point + 3, (red << 16) | (green << 8) | blue, mask=has_point)
        tl.store(cloud + 5 * point + 4, label, mask=has_point)


def write_outputs(
    maps: Tensor,
    image: Tensor,
    rays: Tensor | None,
    limits: Tensor,
    out: Mapping[str, Tensor],
    *,
    classes: slice,
    depth_column: int,
    size: tuple[int, int],
    uncropped: tuple[int, int],
    cubic: bool,
    exp: bool,
    with_probability: bool,
    filters_edges: bool = False,
    stride: int = 1,
) -> None:
    """Write labels, confidence, depth and cloud, as far as they are in `out`.

    Args:
        maps: N x h x w x P float32, the heads' outputs: logits, and the raw depth in column `depth_column`.
        image: N x H x W x 3 uint8 RGB at the output size; read for the cloud only.
        rays: N x H' x W' x 2 float32, (x, y) of each point at Z = 1, H' = ceil(H / stride); None without a cloud.
        limits: N x 5 float32: minimum and maximum depth (m), least confidence (0 to 1), meters per unit of depth, largest
            difference of log depth within a surface.
        out: labels and confidence N x H x W uint8, depth N x H x W float32, cloud N x H' x W' x 5 float32. Other names are
            ignored.
        classes: Columns of the classes to choose among.
        depth_column: Column of the raw depth.
        size: Height and width of the outputs, H x W.
        uncropped: Height and width that all of the map is upsampled to, of which H x W is kept.
        cubic: Interpolate bicubically; otherwise bilinearly.
        exp: Depth is exp(raw); otherwise |raw|.
        with_probability: Compute the softmax maximum: for confidence, or a least confidence above 0.
        filters_edges: Remove points at depth edges; see `depth_edges`.
        stride: Step of the rows and columns that have points.
    """
    written = {name: tensor for name, tensor in out.items() if name in ("labels", "confidence", "depth", "cloud")}
    if not written:
        return
    n, h, w, columns = maps.shape
    height, width = size
    # Pixels without a point are not needed for a cloud alone.
    step = stride if set(written) == {"cloud"} else 1
    count = classes.stop - classes.start
    outputs_kernel[(triton.cdiv(triton.cdiv(width, step), OUTPUTS_TILE.m), triton.cdiv(height, step), n)](
        maps,
        image,
        limits if rays is None else rays,
        limits,
        out.get("labels", image),
        out.get("confidence", image),
        out.get("depth", limits),
        # As words: the kernel stores the bits of floats and integers side by side.
        out["cloud"].view(torch.int32) if "cloud" in out else limits,
        h,
        w,
        height,
        width,
        uncropped[0],
        uncropped[1],
        step,
        stride,
        P=columns,
        FIRST=classes.start,
        CLASSES=count,
        CLASS_BLOCK=max(triton.next_power_of_2(count), 2),
        DEPTH_COLUMN=depth_column,
        CUBIC=cubic,
        EXP=exp,
        NEEDS_LABELS=bool({"labels", "confidence", "cloud"} & set(out)),
        NEEDS_DEPTH=bool({"depth", "cloud"} & set(out)),
        NEEDS_PROBABILITY=with_probability,
        HAS_LABELS="labels" in out,
        HAS_CONFIDENCE="confidence" in out,
        HAS_DEPTH="depth" in out,
        HAS_CLOUD="cloud" in out,
        FILTERS_EDGES=filters_edges,
        LIMITS=limits.shape[1],
        BLOCK=OUTPUTS_TILE.m,
        num_warps=OUTPUTS_TILE.warps,
    )
