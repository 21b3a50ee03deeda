"""The segmentation and the depth head in one kernel."""

# Triton reads the annotations of a kernel: they must not become strings, so there is no `from __future__ import annotations`.
import torch
import triton
import triton.language as tl
from torch import Tensor

from mtl_perception.inference.cuda.kernels.convolution import relu6
from mtl_perception.inference.cuda.kernels.launch import HEADS_TILE, Tile


@triton.jit(do_not_specialize=["rows", "H", "W"])
def heads_kernel(
    x,
    scales,
    weights,
    bias,
    out,
    rows,
    H,
    W,
    C: tl.constexpr,
    P: tl.constexpr,
    FIRST_HEAD: tl.constexpr,
    LAST_HEAD: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Compute blocks of pixels x all outputs; see `heads_3x3`."""
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    inside = m < rows
    n = m // (H * W)
    pixel = m % (H * W)
    y = pixel // W
    left = pixel % W
    k = tl.arange(0, BLOCK_K)
    p = tl.arange(0, P)
    accumulator = tl.zeros((BLOCK_M, P), tl.float32)
    blocks: tl.constexpr = C // BLOCK_K
    # One loop over taps and blocks of channels, which the compiler can pipeline; nested ones it cannot.
    for step in range(9 * blocks):
        tap = step // blocks
        channels = (step % blocks) * BLOCK_K + k
        iy = y + tap // 3 - 1
        ix = left + tap % 3 - 1
        valid = inside & (iy >= 0) & (iy < H) & (ix >= 0) & (ix < W)
        at = ((n * H + iy) * W + ix)[:, None] * C + channels[None, :]
        shared = tl.load(x + at, mask=valid[:, None], other=0.0).to(tl.float32)
        for head in tl.static_range(FIRST_HEAD, LAST_HEAD):
            scale = tl.load(scales + head * C + channels).to(tl.float32)
            # Rounded where the oracle's separate operators round.
            hidden = relu6((shared * scale[None, :]).to(x.dtype.element_ty).to(tl.float32)).to(x.dtype.element_ty)
            b = tl.load(weights + ((head * 9 + tap) * C + channels)[:, None] * P + p[None, :])
            accumulator = tl.dot(hidden, b, accumulator, input_precision="ieee")
    accumulator += tl.load(bias + p)[None, :]
    tl.store(out + m[:, None] * P + p[None, :], accumulator, mask=inside[:, None])


def heads_3x3(
    x: Tensor,
    scales: Tensor,
    weights: Tensor,
    bias: Tensor,
    which: tuple[bool, bool],
    *,
    out: Tensor | None = None,
    tile: Tile = HEADS_TILE,
) -> Tensor:
    """Compute the segmentation and the depth head: per-channel scale, ReLU6, 3x3 convolution with padding 1 and bias.

    Args:
        x: N x h x w x C, the shared features.
        scales: 2 x C, of the segmentation and the depth head.
        weights: 2 x 9 x C x P: each head's kernel, zero in the columns of the other.
        bias: P float32.
        which: Whether the segmentation and the depth head are computed; the columns of one that is not hold its bias.
        out: Where to write; None: a new tensor.
        tile: Block sizes.

    Returns:
        N x h x w x P float32.
    """
    n, height, width, channels = x.shape
    columns = weights.shape[3]
    if out is None:
        out = torch.empty((n, height, width, columns), dtype=torch.float32, device=x.device)
    rows = n * height * width
    heads_kernel[(triton.cdiv(rows, tile.m),)](
        x,
        scales,
        weights,
        bias,
        out,
        rows,
        height,
        width,
        C=channels,
        P=columns,
        FIRST_HEAD=0 if which[0] else 1,
        LAST_HEAD=2 if which[1] else 1,
        BLOCK_M=tile.m,
        BLOCK_K=tile.k,
        num_warps=tile.warps,
        num_stages=tile.stages,
    )
    return out
