"""Alignment of a feature map's cells with the next finer map and with the image.

A convolution of stride 2 turns n cells into ceil(n / 2). The published networks resize each map to exactly the size of the
next one ("stretched" grid); where n is odd, this shifts the content towards the upper left. In an image of 1242 x 375
pixels labels are displaced by up to 2 pixels and the coarsest features by up to 6 to the left and 8 up; at 1226 x 370 by up
to 21 and 13. In an "exact" grid each cell of stride s covers s x s pixels, and cells that reach beyond the border are
cropped. Both grids agree where the image's sides are multiples of 32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

STRIDE = 4
"""Stride of the network's outputs."""


@dataclass(frozen=True)
class ResizeSpec:
    """How the network's outputs are interpolated to the size of the result.

    Attributes:
        size: Height and width of the result, pixels.
        uncropped: Height and width that all cells are interpolated to; the result is its upper left part.
        mode: "bicubic" or "bilinear".
    """

    size: tuple[int, int]
    uncropped: tuple[int, int]
    mode: str


def upsampled_size(cells: Sequence[int], factor: int, size: Sequence[int], grid: str) -> tuple[int, int]:
    """Return the height and width that a map is upsampled to before it is cropped to `size`.

    Args:
        cells: Height and width of the map; `size` divided by `factor`, rounded up.
        factor: Stride of the map relative to that of the target.
        size: Height and width of the target.
        grid: One of `description.GRIDS`.
    """
    if grid == "stretched":
        return size[0], size[1]
    return factor * cells[0], factor * cells[1]


@lru_cache
def uncropped_size(network_size: tuple[int, int], output_size: tuple[int, int], grid: str) -> tuple[int, int]:
    """Return the height and width that the network's outputs are interpolated to before they are cropped to `output_size`.

    Args:
        network_size: Height and width of the network's input, pixels.
        output_size: Height and width of the result, pixels.
        grid: One of `description.GRIDS`.
    """
    whole = upsampled_size([-(-n // STRIDE) for n in network_size], STRIDE, network_size, grid)
    height, width = (max(round(n * out / of), out) for n, out, of in zip(whole, output_size, network_size, strict=True))
    return height, width


def resize(planes: Tensor, spec: ResizeSpec) -> Tensor:
    """Interpolate N x C x h x w to N x C x H x W; pixel centers as with PyTorch's align_corners=False."""
    resized = F.interpolate(planes, size=spec.uncropped, mode=spec.mode, align_corners=False)
    return resized[:, :, : spec.size[0], : spec.size[1]]


def nearest_cells(spec: ResizeSpec, cells: Sequence[int], stride: int = 1) -> tuple[Tensor, Tensor]:
    """Return the row and the column of the cell under every `stride`-th row and column of the result.

    Args:
        spec: How the cells are interpolated to the result.
        cells: Height and width of the map.
        stride: Step of rows and columns, pixels, from the first one on.

    Returns:
        Two int64 vectors of ceil(H / stride) and ceil(W / stride) indices.
    """
    rows, columns = (
        # Integers, so that every engine finds the same cells.
        (2 * torch.arange(0, size, stride) + 1) * count // (2 * whole)
        for size, count, whole in zip(spec.size, cells, spec.uncropped, strict=True)
    )
    return rows, columns


def upsample(factor: int, planes: Tensor, size: Sequence[int], grid: str, mode: str = "bilinear") -> Tensor:
    """Upsample N x C x h x w by a factor of the stride to N x C x H x W.

    Args:
        factor: 2 between consecutive maps, `STRIDE` from the network's outputs to its input.
        planes: The maps.
        size: H and W.
        grid: One of `description.GRIDS`.
        mode: "bilinear" or "bicubic".
    """
    size = size[0], size[1]
    return resize(planes, ResizeSpec(size, upsampled_size(planes.shape[2:], factor, size, grid), mode))
