"""Buffers that outlive a frame."""

from __future__ import annotations

import math

import numpy as np
import torch


class Workspace:
    """Arrays by name, reallocated only when their shape or type changes."""

    def __init__(self) -> None:
        self._arrays: dict[str, np.ndarray] = {}

    def get(self, name: str, shape: tuple[int, ...], dtype: type[np.generic]) -> np.ndarray:
        """Return the buffer with this name: contiguous, with unspecified content."""
        array = self._arrays.pop(name, None)
        if array is None or array.shape != shape or array.dtype != dtype:
            # Free the old buffer first, so that a larger image does not need memory for both.
            del array
            # By PyTorch, which aligns memory to cache lines.
            memory = torch.empty(math.prod(shape) * np.dtype(dtype).itemsize, dtype=torch.uint8)
            array = memory.numpy().view(dtype).reshape(shape)
        self._arrays[name] = array
        return array
