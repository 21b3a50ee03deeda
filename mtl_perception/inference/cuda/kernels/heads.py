"""The segmentation and the depth head: a matrix product with all taps side by side, and a sum over the window."""

# Triton reads the annotations of a kernel: they must not become strings, so there is no `from __future__ import annotations`.
import torch
import triton
import triton.language as tl
from torch import Tensor

from mtl_perception.inference.cuda.kernels.convolution import relu6
from mtl_perception.inference.cuda.kernels.launch import PRODUCTS_TILE, WINDOW_TILE


@triton.jit(do_not_specialize=["rows"])
def products_kernel(
    x,
    scales,
    weights,
    out,
    rows,
    C: tl.constexpr,
    Q: tl.constexpr,
    FIRST_HEAD: tl.constexpr,
    LAST_HEAD: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Compute blocks of pixels x all taps of all outputs; see `heads_3x3`."""
    blocks: tl.constexpr = Q // BLOCK_N
    m = (tl.program_id(0) // blocks) * BLOCK_M + tl.arange(0, BLOCK_M)
    q = (tl.program_id(0) % blocks) * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    inside = (m < rows)[:, None]
    accumulator = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for start in range(0, C, BLOCK_K):
        channels = start + k
        shared = tl.load(x + m[:, None] * C + channels[None, :], mask=inside, other=0.0).to(tl.float32)
        for head in tl.static_range(FIRST_HEAD, LAST_HEAD):
            scale = tl.load(scales + head * C + channels).to(tl.float32)
            # Rounded where the oracle's separate operators round.
            hidden = relu6((shared * scale[None, :]).to(x.dtype.element_ty).to(tl.float32)).to(x.dtype.element_ty)
            b = tl.load(weights + (head * C + channels)[:, None] * Q + q[None, :])
            accumulator = tl.dot(hidden, b, accumulator, input_precision="ieee")
    tl.store(out + m[:, None] * Q + q[None, :], accumulator, mask=inside)


@triton.jit(do_not_specialize=["rows", "H", "W"])
def window_sum_kernel(
    products,
    bias,
    out,
    rows,
    H,
    W,
    COLUMNS: tl.constexpr,
    Q: tl.constexpr,
    P: tl.constexpr,
    BLOCK_M: tl.constexpr,
):
    """Sum the products of the nine taps, each of its own neighbor; see `heads_3x3`."""
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    p = tl.arange(0, P)
    inside = m < rows
    pixel = m % (H * W)
    y = pixel // W
    x = pixel % W
    used = p < COLUMNS
    total = tl.zeros((BLOCK_M, P), tl.float32) + tl.load(bias + p)[None, :]
    for j in tl.static_range(-1, 2):
        for i in tl.static_range(-1, 2):
            valid = inside & (y + j >= 0) & (y + j < H) & (x + i >= 0) & (x + i < W)
            at = (m + j * W + i)[:, None] * Q + ((j + 1) * 3 + i + 1) * COLUMNS + p[None, :]
            total += tl.load(products + at, mask=valid[:, None] & used[None, :], other=0.0)
    tl.store(out + m[:, None] * P + p[None, :], total, mask=inside[:, None])


def taps_side_by_side(weights: Tensor) -> Tensor:
    """Return the kernels of the heads as `heads_3x3` takes them.

    Args:
        weights: 2 x K x C x 3 x 3: each head's kernel, zero for the K outputs of the other.

    Returns:
        2 x C x Q: column tap * K + output, padded with zeros to whole blocks.
    """
    heads, outputs, channels, _, _ = weights.shape
    taps = weights.permute(0, 2, 3, 4, 1).reshape(heads, channels, 9 * outputs)
    return torch.nn.functional.pad(taps, (0, -taps.shape[2] % PRODUCTS_TILE.n)).contiguous()


def heads_3x3(
    x: Tensor,
    scales: Tensor,
    weights: Tensor,
    bias: Tensor,
    columns: int,
    which: tuple[bool, bool],
    *,
    out: Tensor | None = None,
) -> Tensor:
    """Compute the segmentation and the depth head: per-channel scale, ReLU6, 3x3 convolution with padding 1 and bias.

    The convolution is one matrix product of each pixel with the nine taps side by side, which reads the features once and fills
    the blocks of the matrix units, and a sum over the window. On an H200 it takes 24 us at 94 x 311, tap after tap 53 us.

    Args:
        x: N x h x w x C, the shared features.
        scales: 2 x C, of the segmentation and the depth head.
        weights: 2 x C x Q; see `taps_side_by_side`.
        bias: P float32.
        columns: Outputs of both heads together.
        which: Whether the segmentation and the depth head are computed; the columns of one that is not hold its bias.
        out: Where to write; None: a new tensor.

    Returns:
        N x h x w x P float32.
    """
    n, height, width, channels = x.shape
    products = torch.empty((n, height, width, weights.shape[2]), dtype=torch.float32, device=x.device)
    if out is None:
        out = torch.empty((n, height, width, bias.shape[0]), dtype=torch.float32, device=x.device)
    rows, tile = n * height * width, PRODUCTS_TILE
    products_kernel[(triton.cdiv(rows, tile.m) * (weights.shape[2] // tile.n),)](
        x,
        scales,
        weights,
        products,
        rows,
        C=channels,
        Q=weights.shape[2],
        FIRST_HEAD=0 if which[0] else 1,
        LAST_HEAD=2 if which[1] else 1,
        BLOCK_M=tile.m,
        BLOCK_N=tile.n,
        BLOCK_K=tile.k,
        num_warps=tile.warps,
        num_stages=tile.stages,
    )
    window_sum_kernel[(triton.cdiv(rows, WINDOW_TILE.m),)](
        products,
        bias,
        out,
        rows,
        height,
        width,
        COLUMNS=columns,
        Q=weights.shape[2],
        P=bias.shape[0],
        BLOCK_M=WINDOW_TILE.m,
        num_warps=WINDOW_TILE.warps,
    )
    return out
