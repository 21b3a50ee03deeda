"""How the cells of a coarse map lie over those of a finer one, and at last over the picture's pixels.

A convolution of stride 2 makes ceil(n / 2) cells of n. The published networks fit each map to the very size of the next, so
where n is odd all of it shrinks towards the upper left. In a picture of 1242 x 375 labels come out up to 2 pixels from where
they were seen, and what the coarsest maps say up to 6 to the left and 8 above; in one of 1226 x 370, 21 and 13. In an exact
grid a cell of stride s covers s x s pixels, whatever the picture's size; the last ones reach beyond its border and are cut
there. The two are the same where a picture's sides are multiples of 32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

GRIDS = ("stretched", "exact")
STRIDE = 4
"""Of the network's outputs."""


@dataclass(frozen=True)
class Growth:
    """How the network's outputs become an output's pixels.

    Attributes:
        size: Height and width of the output.
        grown: Height and width that all cells grow to, of which the output is kept from the first row and column on.
        mode: bicubic or bilinear.
    """

    size: tuple[int, int]
    grown: tuple[int, int]
    mode: str


def covered(cells: Sequence[int], factor: int, size: Sequence[int], grid: str) -> tuple[int, int]:
    """Height and width that a map grows to, of which `size` is kept: the one place that tells the grids apart.

    Args:
        cells: Height and width of the map.
        factor: Its stride over that of what it grows to.
        size: Height and width of what it grows to; cells is that over the factor, rounded up.
        grid: Of the network's description.
    """
    if grid == "stretched":
        return size[0], size[1]
    return factor * cells[0], factor * cells[1]


def grown_size(seen: tuple[int, int], output: tuple[int, int], grid: str) -> tuple[int, int]:
    """Height and width that the network's outputs grow to, of which `output` is kept.

    Args:
        seen: Height and width of the picture that the network saw.
        output: Height and width of what is made of its outputs.
        grid: Of the network's description.
    """
    whole = covered([-(-n // STRIDE) for n in seen], STRIDE, seen, grid)
    height, width = (max(round(n * out / of), out) for n, out, of in zip(whole, output, seen, strict=True))
    return height, width


def grow(planes: Tensor, growth: Growth) -> Tensor:
    """Maps at another size, pixel centers as PyTorch's align_corners=False has them: N x C x h x w to N x C x H x W."""
    grown = F.interpolate(planes, size=growth.grown, mode=growth.mode, align_corners=False)
    return grown[:, :, : growth.size[0], : growth.size[1]]


def grow_by(factor: int, planes: Tensor, size: Sequence[int], grid: str, mode: str = "bilinear") -> Tensor:
    """Maps at a stride smaller by this factor, N x C x h x w to N x C x H x W.

    Args:
        factor: 2 from one map to the next, STRIDE from the network's outputs to its picture.
        planes: The maps.
        size: H and W.
        grid: Of the network's description.
        mode: bilinear or bicubic.
    """
    size = size[0], size[1]
    return grow(planes, Growth(size, covered(planes.shape[2:], factor, size, grid), mode))
