"""5x5 max-pooling of stride 1, without the indices that PyTorch's operator writes, and the depthwise pooling stage."""

# Triton reads the annotations of a kernel: they must not become strings, so there is no `from __future__ import annotations`.
import torch
import triton
import triton.language as tl
from torch import Tensor

from mtl_perception.inference.cuda.kernels.launch import pooling_tile


@triton.jit
def _row_maximum(x, n, y, columns, channels, H, W, C: tl.constexpr):
    """Return the maximum over five neighbors in row y; -inf outside the map."""
    best = tl.full((columns.shape[0], channels.shape[0]), float("-inf"), tl.float32)
    for i in tl.static_range(-2, 3):
        at = columns + i
        valid = (at >= 0) & (at < W) & (y >= 0) & (y < H)
        value = tl.load(x + ((n * H + y) * W + at)[:, None] * C + channels[None, :], mask=valid[:, None], other=float("-inf"))
        best = tl.maximum(best, value.to(tl.float32), propagate_nan=tl.PropagateNan.ALL)
    return best


@triton.jit
def _maximum(a, b):
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit(do_not_specialize=["H", "W"])
def pooling_kernel(
    x,
    scale,
    total,
    total_out,
    out,
    H,
    W,
    C: tl.constexpr,
    HAS_SCALE: tl.constexpr,
    HAS_TOTAL: tl.constexpr,
    HAS_OUT: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Compute blocks of rows x columns x channels; see `max_pool_5x5` and `depthwise_stage`."""
    blocks: tl.constexpr = C // BLOCK_C
    columns = (tl.program_id(0) // blocks) * BLOCK_W + tl.arange(0, BLOCK_W)
    channels = (tl.program_id(0) % blocks) * BLOCK_C + tl.arange(0, BLOCK_C)
    first = tl.program_id(1) * ROWS
    n = tl.program_id(2)
    # Maxima along the four rows above the next one; each new row completes a window, so a row is read once for all windows.
    a = _row_maximum(x, n, first - 2, columns, channels, H, W, C)
    b = _row_maximum(x, n, first - 1, columns, channels, H, W, C)
    c = _row_maximum(x, n, first, columns, channels, H, W, C)
    d = _row_maximum(x, n, first + 1, columns, channels, H, W, C)
    for row in tl.static_range(ROWS):
        e = _row_maximum(x, n, first + row + 2, columns, channels, H, W, C)
        value = _maximum(_maximum(_maximum(a, b), _maximum(c, d)), e)
        mask = ((columns < W) & (first + row < H))[:, None]
        at = ((n * H + first + row) * W + columns)[:, None] * C + channels[None, :]
        if HAS_SCALE:
            value = value * tl.load(scale + channels).to(tl.float32)[None, :]
        # Rounded before it is added, as the output of the convolution that it stands for.
        stage = value.to(x.dtype.element_ty)
        if HAS_OUT:
            tl.store(out + at, stage, mask=mask)
        if HAS_TOTAL:
            before = tl.load(total + at, mask=mask, other=0.0).to(tl.float32)
            tl.store(total_out + at, (before + stage.to(tl.float32)).to(total_out.dtype.element_ty), mask=mask)
        a = b
        b = c
        c = d
        d = e


def max_pool_5x5(x: Tensor) -> Tensor:
    """Return the maximum over 5x5 windows, stride 1, padding 2: N x H x W x C to the same shape and type."""
    out = torch.empty_like(x)
    _launch(x, None, None, None, out)
    return out


def depthwise_stage(x: Tensor, scale: Tensor, total: Tensor, total_out: Tensor, *, last: bool) -> Tensor | None:
    """Compute one stage of chained residual pooling with a depthwise 1x1 convolution: y = scale * max5x5(x); total + y.

    Formula: Nekrasov et al., Light-Weight RefineNet, BMVC 2018, figure 2d, with a convolution of one channel each.

    Args:
        x: N x H x W x C, the output of the stage before.
        scale: C, the convolution's weights.
        total: N x H x W x C, the residual sum so far.
        total_out: Where the new sum is written: `total` itself, unless that is also `x`, whose neighbors are still read.
        last: Nothing reads y afterwards: it is not written.

    Returns:
        y, or None for the last stage.
    """
    out = None if last else torch.empty_like(x)
    _launch(x, scale, total, total_out, out)
    return out


def _launch(x: Tensor, scale: Tensor | None, total: Tensor | None, total_out: Tensor | None, out: Tensor | None) -> None:
    n, height, width, channels = x.shape
    tile = pooling_tile(n * height * width)
    block_c = min(tile.n, channels)
    grid = (triton.cdiv(width, tile.m) * (channels // block_c), triton.cdiv(height, tile.k), n)
    pooling_kernel[grid](
        x,
        x if scale is None else scale,
        x if total is None else total,
        x if total_out is None else total_out,
        x if out is None else out,
        height,
        width,
        C=channels,
        HAS_SCALE=scale is not None,
        HAS_TOTAL=total is not None,
        HAS_OUT=out is not None,
        ROWS=tile.k,
        BLOCK_W=tile.m,
        BLOCK_C=block_c,
        num_warps=tile.warps,
    )
