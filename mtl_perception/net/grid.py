"""How the cells of a coarse map lie over those of a finer one, and at last over the picture's pixels.

A convolution of stride 2 makes ceil(n / 2) cells of n. The published networks fit each map to the very size of the next, so
where n is odd all of it shrinks towards the upper left: what a cell of stride 32 says by up to 16 pixels, labels by two. In an
exact grid a cell of stride s covers s x s pixels, whatever the picture's size; the last ones reach beyond its border and are
cut there. The two are the same where a picture's sides are multiples of 32.
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


def grow(planes: Tensor, grown: Sequence[int], size: Sequence[int], mode: str = "bilinear") -> Tensor:
    """Maps at another size, cut where they reach farther: pixel centres as PyTorch's align_corners=False has them.

    Args:
        planes: N x C x h x w.
        grown: Height and width that all of the map grows to.
        size: Height and width that are kept of it, from the first row and column on; not above `grown`.
        mode: bilinear or bicubic.
    """
    return F.interpolate(planes, size=tuple(grown), mode=mode, align_corners=False)[:, :, : size[0], : size[1]]


def grow_to(x: Tensor, finer: Tensor, grid: str) -> Tensor:
    """A map at the size of the one of half its stride, N x C x h x w."""
    size = finer.shape[2:]
    return grow(x, size if grid == "stretched" else (2 * x.shape[2], 2 * x.shape[3]), size)


def grown_size(seen: tuple[int, int], output: tuple[int, int], grid: str) -> tuple[int, int]:
    """Height and width that the network's outputs grow to, of which `output` is kept.

    Args:
        seen: Height and width of the picture that the network saw.
        output: Height and width of what is made of its outputs.
        grid: Of the network's description.
    """
    if grid == "stretched":
        return output
    height, width = (max(round(-(-n // STRIDE) * STRIDE * out / n), out) for n, out in zip(seen, output, strict=True))
    return height, width
