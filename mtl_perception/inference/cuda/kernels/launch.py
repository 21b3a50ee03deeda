"""Block sizes of the kernels.

They were chosen by timing candidates for every layer at 1242 x 375 on an H200. They depend on shapes alone and not on a timing
at run time, so that a layer is computed in the same way in every process.
"""

from __future__ import annotations

from dataclasses import dataclass

PROGRAMS = 66
"""Programs that keep a large GPU busy: half of an H100's multiprocessors. Smaller blocks read their inputs more often."""
LARGE_MAP = 16384
"""Rows (pixels) from which on a map fills the GPU whatever the block size."""


@dataclass(frozen=True)
class Tile:
    """Block sizes of a kernel.

    Attributes:
        m: Pixels of a block.
        n: Output channels of a block.
        k: Input channels of a step, or output rows of a pooling.
        warps: Warps of a program.
        stages: Depth of the software pipeline.
    """

    m: int
    n: int = 1
    k: int = 1
    warps: int = 4
    stages: int = 3


def pointwise_tile(rows: int, inputs: int, outputs: int, *, upsamples: bool = False) -> Tile:
    """Return the block sizes of a 1x1 convolution.

    Args:
        rows: Pixels of all images.
        inputs: Input channels.
        outputs: Output channels.
        upsamples: A coarser map is upsampled and added; its four reads a value call for small blocks.
    """
    k = min(max(_power_of_two(inputs), 16), 64)
    widest = max(_power_of_two(outputs), 16)
    stages = 2 if inputs <= k else 3

    def programs(m: int, n: int) -> int:
        return -(-rows // m) * -(-outputs // n)

    if upsamples:
        return Tile(32, min(widest, 64), k, 4, 2)
    if outputs >= 256 and programs(64, 128) >= 2 * PROGRAMS:
        return Tile(64, 128, k, 4, stages)
    if rows >= LARGE_MAP:
        return Tile(128, min(widest, 32), k, 4, stages)
    m, n = 64, min(widest, 64)
    if n > 32 and programs(m, n) < PROGRAMS:
        n = 32
    while m > 16 and programs(m, n) < PROGRAMS * 2 // 3:
        m //= 2
    return Tile(m, n, k, 4, stages)


def depthwise_tile(rows: int, channels: int) -> Tile:
    """Return the block sizes of a depthwise 3x3 convolution."""
    values = rows * channels
    if values > 1 << 21:
        return Tile(64, 32, warps=4)
    return Tile(32, 64, warps=4) if values > 1 << 19 else Tile(16, 32, warps=2)


def pooling_tile(rows: int) -> Tile:
    """Return the block sizes of a 5x5 max-pooling: `m` columns and `k` rows of output."""
    return Tile(8, 64, 4, warps=2) if rows > 4096 else Tile(8, 64, 2, warps=2)


STEM_TILE = Tile(128, warps=4)
PRODUCTS_TILE = Tile(64, 128, 64, warps=4)
WINDOW_TILE = Tile(64, warps=4)
OUTPUTS_TILE = Tile(64, warps=2)


def _power_of_two(value: int) -> int:
    return 1 << max(value - 1, 0).bit_length()
