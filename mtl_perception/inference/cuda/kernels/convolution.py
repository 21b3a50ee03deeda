"""Convolutions in channels-last memory, each with what follows it in the network.

Maps are contiguous N x H x W x C tensors of one 16-bit or 32-bit floating-point type. Products are accumulated in float32 and
rounded once, after bias, residual and activation, where PyTorch's separate operators round after each.
"""

# Triton reads the annotations of a kernel: they must not become strings, so there is no `from __future__ import annotations`.
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from mtl_perception.inference.cuda.kernels.launch import STEM_TILE, Tile, depthwise_tile, pointwise_tile

# Sizes are not specialized: a new image size is not worth a compilation.


@triton.jit
def relu6(x):
    """Clamp to 0..6; NaN stays NaN."""
    return tl.clamp(x, 0.0, 6.0, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def _bilinear(low, n, y, x, channels, mask, h, w, uncropped_h, uncropped_w, C: tl.constexpr):
    """Bilinear samples with half-pixel centers, as torch.nn.functional.interpolate with align_corners=False."""
    sy = tl.maximum((y.to(tl.float32) + 0.5) * (h.to(tl.float32) / uncropped_h) - 0.5, 0.0)
    sx = tl.maximum((x.to(tl.float32) + 0.5) * (w.to(tl.float32) / uncropped_w) - 0.5, 0.0)
    y0 = tl.minimum(sy.to(tl.int32), h - 1)
    x0 = tl.minimum(sx.to(tl.int32), w - 1)
    y1 = tl.minimum(y0 + 1, h - 1)
    x1 = tl.minimum(x0 + 1, w - 1)
    fy = (sy - y0.to(tl.float32))[:, None]
    fx = (sx - x0.to(tl.float32))[:, None]
    top = low + ((n * h + y0) * w)[:, None] * C + channels[None, :]
    bottom = low + ((n * h + y1) * w)[:, None] * C + channels[None, :]
    left = x0[:, None] * C
    right = x1[:, None] * C
    a = tl.load(top + left, mask=mask, other=0.0).to(tl.float32)
    b = tl.load(top + right, mask=mask, other=0.0).to(tl.float32)
    c = tl.load(bottom + left, mask=mask, other=0.0).to(tl.float32)
    d = tl.load(bottom + right, mask=mask, other=0.0).to(tl.float32)
    return (1.0 - fy) * ((1.0 - fx) * a + fx * b) + fy * ((1.0 - fx) * c + fx * d)


@triton.jit(do_not_specialize=["rows", "H", "W", "low_h", "low_w", "uncropped_h", "uncropped_w"])
def pointwise_kernel(
    x,
    weight,
    bias,
    residual,
    low,
    total,
    out,
    rows,
    H,
    W,
    low_h,
    low_w,
    uncropped_h,
    uncropped_w,
    K: tl.constexpr,
    N: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    HAS_LOW: tl.constexpr,
    HAS_TOTAL: tl.constexpr,
    HAS_OUT: tl.constexpr,
    RELU6: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Compute blocks of rows x output channels; see `pointwise`."""
    # Blocks of channels are neighbors in launch order: the rows of x that they share stay in the L2 cache.
    blocks: tl.constexpr = (N + BLOCK_N - 1) // BLOCK_N
    m = (tl.program_id(0) // blocks) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = (tl.program_id(0) % blocks) * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    inside = m < rows
    accumulator = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for start in range(0, K, BLOCK_K):
        if K % BLOCK_K == 0:
            a = tl.load(x + m[:, None] * K + (start + k)[None, :], mask=inside[:, None], other=0.0)
        else:
            a = tl.load(x + m[:, None] * K + (start + k)[None, :], mask=inside[:, None] & (start + k < K)[None, :], other=0.0)
        if K % BLOCK_K == 0 and N % BLOCK_N == 0:
            b = tl.load(weight + (start + k)[:, None] * N + n[None, :])
        else:
            b = tl.load(
                weight + (start + k)[:, None] * N + n[None, :], mask=(start + k < K)[:, None] & (n < N)[None, :], other=0.0
            )
        accumulator = tl.dot(a, b, accumulator, input_precision="ieee")
    at = m[:, None] * N + n[None, :]
    mask = inside[:, None] & (n < N)[None, :]
    if HAS_BIAS:
        accumulator += tl.load(bias + n, mask=n < N, other=0.0).to(tl.float32)[None, :]
    if HAS_RESIDUAL:
        accumulator += tl.load(residual + at, mask=mask, other=0.0).to(tl.float32)
    if HAS_LOW:
        pixel = m % (H * W)
        accumulator += _bilinear(low, m // (H * W), pixel // W, pixel % W, n, mask, low_h, low_w, uncropped_h, uncropped_w, N)
    if RELU6:
        accumulator = relu6(accumulator)
    if HAS_OUT:
        tl.store(out + at, accumulator.to(out.dtype.element_ty), mask=mask)
    if HAS_TOTAL:
        # The stage's output is rounded before it is added, as the oracle does: totals then agree.
        stage = accumulator.to(total.dtype.element_ty).to(tl.float32)
        before = tl.load(total + at, mask=mask, other=0.0).to(tl.float32)
        tl.store(total + at, (before + stage).to(total.dtype.element_ty), mask=mask)


def pointwise(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    residual: Tensor | None = None,
    low: Tensor | None = None,
    uncropped: tuple[int, int] | None = None,
    total: Tensor | None = None,
    out: Tensor | None = None,
    relu6: bool = False,
    tile: Tile | None = None,
) -> None:
    """Compute a 1x1 convolution: y = activation(x W + bias + residual + upsample(low)); out = y; total += y.

    Args:
        x: N x H x W x K.
        weight: K x C.
        bias: C float32.
        residual: N x H x W x C.
        low: N x h x w x C, a coarser map, upsampled bilinearly to `uncropped`, of which the first H x W are used.
        uncropped: Height and width that `low` is upsampled to.
        total: N x H x W x C, to which y is added in place.
        out: N x H x W x C, overwritten with y; None: y is only added to `total`.
        relu6: Apply ReLU6.
        tile: Block sizes; None: chosen by shape.
    """
    n, height, width, inputs = x.shape
    outputs = weight.shape[1]
    rows = n * height * width
    tile = tile or pointwise_tile(rows, inputs, outputs, upsamples=low is not None)
    low_h, low_w = (1, 1) if low is None else (low.shape[1], low.shape[2])
    uncropped_h, uncropped_w = uncropped or (1, 1)
    grid = (triton.cdiv(rows, tile.m) * triton.cdiv(outputs, tile.n),)
    pointwise_kernel[grid](
        x,
        weight,
        _or(bias, x),
        _or(residual, x),
        _or(low, x),
        _or(total, x),
        _or(out, x),
        rows,
        height,
        width,
        low_h,
        low_w,
        uncropped_h,
        uncropped_w,
        K=inputs,
        N=outputs,
        HAS_BIAS=bias is not None,
        HAS_RESIDUAL=residual is not None,
        HAS_LOW=low is not None,
        HAS_TOTAL=total is not None,
        HAS_OUT=out is not None,
        RELU6=relu6,
        BLOCK_M=tile.m,
        BLOCK_N=tile.n,
        BLOCK_K=tile.k,
        num_warps=tile.warps,
        num_stages=tile.stages,
    )


@triton.jit(do_not_specialize=["rows", "H", "W", "out_h", "out_w"])
def depthwise_kernel(
    x,
    weight,
    bias,
    out,
    rows,
    H,
    W,
    out_h,
    out_w,
    C: tl.constexpr,
    STRIDE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Compute blocks of pixels x channels; see `depthwise`."""
    blocks: tl.constexpr = (C + BLOCK_C - 1) // BLOCK_C
    m = (tl.program_id(0) // blocks) * BLOCK_M + tl.arange(0, BLOCK_M)
    c = (tl.program_id(0) % blocks) * BLOCK_C + tl.arange(0, BLOCK_C)
    inside = m < rows
    known = c < C
    n = m // (out_h * out_w)
    pixel = m % (out_h * out_w)
    y = (pixel // out_w) * STRIDE - 1
    left = (pixel % out_w) * STRIDE - 1
    accumulator = tl.zeros((BLOCK_M, BLOCK_C), tl.float32) + tl.load(bias + c, mask=known, other=0.0)[None, :]
    for j in tl.static_range(3):
        for i in tl.static_range(3):
            iy = y + j
            ix = left + i
            valid = inside & (iy >= 0) & (iy < H) & (ix >= 0) & (ix < W)
            tap = tl.load(weight + (j * 3 + i) * C + c, mask=known, other=0.0).to(tl.float32)
            value = tl.load(
                x + ((n * H + iy) * W + ix)[:, None] * C + c[None, :], mask=valid[:, None] & known[None, :], other=0.0
            )
            accumulator += value.to(tl.float32) * tap[None, :]
    tl.store(
        out + m[:, None] * C + c[None, :],
        relu6(accumulator).to(out.dtype.element_ty),
        mask=inside[:, None] & known[None, :],
    )


def depthwise(x: Tensor, weight: Tensor, bias: Tensor, stride: int) -> Tensor:
    """Compute a depthwise 3x3 convolution with zero padding of 1, bias and ReLU6.

    Args:
        x: N x H x W x C.
        weight: 9 x C, taps row by row.
        bias: C float32.
        stride: 1 or 2.

    Returns:
        N x ceil(H / stride) x ceil(W / stride) x C.
    """
    n, height, width, channels = x.shape
    out = torch.empty((n, -(-height // stride), -(-width // stride), channels), dtype=x.dtype, device=x.device)
    rows = n * out.shape[1] * out.shape[2]
    tile = depthwise_tile(rows, channels)
    grid = (triton.cdiv(rows, tile.m) * triton.cdiv(channels, tile.n),)
    depthwise_kernel[grid](
        x,
        weight,
        bias,
        out,
        rows,
        height,
        width,
        out.shape[1],
        out.shape[2],
        C=channels,
        STRIDE=stride,
        BLOCK_M=tile.m,
        BLOCK_C=tile.n,
        num_warps=tile.warps,
    )
    return out


@triton.jit(do_not_specialize=["rows", "H", "W", "out_h", "out_w"])
def stem_kernel(
    image,
    scale,
    offset,
    weight,
    bias,
    out,
    rows,
    H,
    W,
    out_h,
    out_w,
    C: tl.constexpr,
    BLOCK_M: tl.constexpr,
):
    """Compute blocks of pixels x all channels; see `stem`."""
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    inside = m < rows
    n = m // (out_h * out_w)
    pixel = m % (out_h * out_w)
    # 27 taps, (row, column, color), padded to 32 for the matrix unit.
    k = tl.arange(0, 32)
    color = k % 3
    iy = (pixel // out_w)[:, None] * 2 - 1 + (k // 9)[None, :]
    ix = (pixel % out_w)[:, None] * 2 - 1 + ((k // 3) % 3)[None, :]
    valid = inside[:, None] & (k < 27)[None, :] & (iy >= 0) & (iy < H) & (ix >= 0) & (ix < W)
    level = tl.load(image + ((n[:, None] * H + iy) * W + ix) * 3 + color[None, :], mask=valid, other=0).to(tl.float32)
    normalized = level * tl.load(scale + color)[None, :] + tl.load(offset + color)[None, :]
    # Padding is zero after normalization.
    a = tl.where(valid, normalized, 0.0).to(out.dtype.element_ty)
    c = tl.arange(0, C)
    b = tl.load(weight + k[:, None] * C + c[None, :])
    accumulator = tl.dot(a, b, input_precision="ieee") + tl.load(bias + c)[None, :]
    tl.store(out + m[:, None] * C + c[None, :], relu6(accumulator).to(out.dtype.element_ty), mask=inside[:, None])


def stem(image: Tensor, scale: Tensor, offset: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Compute normalization and the first convolution, 3x3 of stride 2 with bias and ReLU6.

    Args:
        image: N x H x W x 3, uint8 or float32 levels of 0 to 255.
        scale: 3 float32.
        offset: 3 float32; a normalized level is level * scale + offset.
        weight: 32 x C, rows (tap row, tap column, color), the last five zero.
        bias: C float32.

    Returns:
        N x ceil(H / 2) x ceil(W / 2) x C of the weight's type.
    """
    n, height, width, _ = image.shape
    out = torch.empty((n, -(-height // 2), -(-width // 2), weight.shape[1]), dtype=weight.dtype, device=image.device)
    rows = n * out.shape[1] * out.shape[2]
    stem_kernel[(triton.cdiv(rows, STEM_TILE.m),)](
        image,
        scale,
        offset,
        weight,
        bias,
        out,
        rows,
        height,
        width,
        out.shape[1],
        out.shape[2],
        C=weight.shape[1],
        BLOCK_M=STEM_TILE.m,
        num_warps=STEM_TILE.warps,
    )
    return out


def _or(tensor: Tensor | None, other: Tensor) -> Any:
    """A pointer for an argument that the kernel does not read."""
    return other if tensor is None else tensor
