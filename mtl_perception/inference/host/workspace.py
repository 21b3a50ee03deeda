"""Buffers that live longer than a frame."""

from __future__ import annotations

import torch
from torch import Tensor


class Workspace:
    """Tensors by name, made anew only when a size changes.

    Args:
        device: Where the tensors lie.
        pinned: Allocate in page-locked memory (host tensors that are copied to a GPU).
    """

    def __init__(self, device: torch.device, pinned: bool = False) -> None:
        self.device = device
        self.pinned = pinned
        self._tensors: dict[str, Tensor] = {}

    def get(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """The buffer of that name: contiguous, with whatever was left in it."""
        tensor = self._tensors.get(name)
        if tensor is None or tensor.shape != shape or tensor.dtype != dtype:
            # The old one goes first, so that a growing picture does not need room for both.
            self._tensors.pop(name, None)
            tensor = torch.empty(shape, dtype=dtype, device=self.device, pin_memory=self.pinned)
            self._tensors[name] = tensor
        return tensor
