"""Buffers that outlive a frame."""

from __future__ import annotations

import torch
from torch import Tensor


class Workspace:
    """CPU tensors by name, reallocated only when their shape or type changes."""

    def __init__(self) -> None:
        self._tensors: dict[str, Tensor] = {}

    def get(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Return the buffer with this name: contiguous, with unspecified content."""
        tensor = self._tensors.get(name)
        if tensor is None or tensor.shape != shape or tensor.dtype != dtype:
            # Free the old buffer first, so that a larger image does not need memory for both.
            self._tensors.pop(name, None)
            tensor = torch.empty(shape, dtype=dtype)
            self._tensors[name] = tensor
        return tensor
