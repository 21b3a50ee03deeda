"""The interface of what runs the network on a CPU."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from mtl_perception.network.description import Description


class Engine(Protocol):
    """Runs the network on a CPU. Not thread-safe.

    Attributes:
        device: The CPU.
        precision: Arithmetic of the network: fp32, bf16, int8-bf16 or int8-fp32.
        description: Description of the network.
    """

    device: torch.device
    precision: str
    description: Description

    @property
    def name(self) -> str:
        """The library that runs the network, with its version."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks for the user on how the network runs."""
        ...

    def release(self) -> None:
        """Free what can be rebuilt on demand."""
        ...

    def forward(self, image: np.ndarray, input_scale: float = 1.0) -> tuple[Tensor, ...]:
        """Run one forward pass.

        Args:
            image: H x W x 3 uint8, RGB.
            input_scale: Scale by which the image is downsampled first.

        Returns:
            The network's outputs for this image in float32: logits C x h x w, raw depth 1 x h x w and, for three tasks,
            normals 3 x h x w. They may be valid until the next call only.
        """
        ...
