"""The network on a device: images to the maps of its heads, by PyTorch's operators."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mtl_perception.network.folding import fold_batch_norm
from mtl_perception.network.grid import STRIDE
from mtl_perception.network.model import MultiTaskRefineNet

LEAST_COLUMNS = 16
"""Columns of the heads' maps are a power of two from here on: the least width of a matrix product on the GPU."""


@dataclass(frozen=True)
class HeadMaps:
    """What a network writes for images of one size.

    Attributes:
        values: N x h x w x P float32: logits of all classes, raw depth, then padding.
        normals: N x 3 x h x w float32, or None for a network without that head.
        depth_column: Column of the raw depth.
    """

    values: Tensor
    normals: Tensor | None
    depth_column: int


class AtenNetwork:
    """The network by PyTorch's operators, for any device and type.

    Args:
        network: What `load_network` returns; it is copied, not changed.
        device: Where to compute.
        dtype: Type of weights and maps.
    """

    uses_kernels = False

    def __init__(self, network: MultiTaskRefineNet, device: torch.device, dtype: torch.dtype) -> None:
        self.description = network.description
        # Folded before it is rounded to half precision, not after.
        folded = fold_batch_norm(network).to(device, dtype)
        self.module: MultiTaskRefineNet = folded.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.scale, self.offset = (torch.tensor(values, device=device) for values in self.description.normalization())
        self.device, self.dtype = device, dtype

    def allocate(self, batch: int, size: tuple[int, int], heads: frozenset[str]) -> HeadMaps:
        """Allocate maps for `batch` images of height and width `size`; `heads` of segm, depth, normal."""
        height, width = (-(-side // STRIDE) for side in size)
        classes = len(self.description.classes)
        values = torch.zeros(batch, height, width, map_columns(classes), device=self.device)
        normals = torch.zeros(batch, 3, height, width, device=self.device) if "normal" in heads else None
        return HeadMaps(values, normals, classes)

    def __call__(self, image: Tensor, heads: frozenset[str], maps: HeadMaps) -> None:
        """Compute the maps of some heads.

        Args:
            image: N x H x W x 3, uint8 or float32 levels of 0 to 255, RGB.
            heads: Of segm, depth and normal; the columns of others are not defined.
            maps: From `allocate`; overwritten.
        """
        pixels = (image.float() * self.scale).add_(self.offset).permute(0, 3, 1, 2)
        shared = self.module.shared(pixels.to(self.dtype).contiguous(memory_format=torch.channels_last))
        columns = {"segm": slice(0, maps.depth_column), "depth": slice(maps.depth_column, maps.depth_column + 1)}
        for head in heads & set(columns):
            maps.values[..., columns[head]].copy_(self.module.head(head, shared).permute(0, 2, 3, 1))
        self._write_normals(shared, maps)

    def _write_normals(self, shared: Tensor, maps: HeadMaps) -> None:
        if maps.normals is not None:
            maps.normals.copy_(self.module.head("normal", shared))


def map_columns(classes: int) -> int:
    """Return the number of columns of the heads' maps: logits, raw depth and padding."""
    return max(LEAST_COLUMNS, 1 << classes.bit_length())
