"""From an RGB picture to the network's input."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor

from mtl_perception.inference.host.workspace import Workspace
from mtl_perception.network.description import Description


class Preprocessor:
    """Shrinks, uploads and normalizes, into buffers that are kept.

    Args:
        description: Gives mean and deviation.
        device: Where the network runs.
        dtype: The network's floating point type.
    """

    def __init__(self, description: Description, device: torch.device, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self._host = Workspace(torch.device("cpu"), pinned=device.type == "cuda")
        self._device = Workspace(device)
        mean, std = torch.tensor(description.mean), torch.tensor(description.std)
        # (rgb / 255 - mean) / std as one multiplication and one addition.
        self._scale = (1 / (255 * std)).to(device)
        self._offset = (-mean / std).to(device)

    def __call__(self, image: np.ndarray, scale: float = 1.0) -> Tensor:
        """The network's input.

        Args:
            image: H x W x 3 uint8, RGB.
            scale: The picture is shrunk to this part of its size first, by area averaging.

        Returns:
            1 x 3 x h x w in channels-last memory; valid until the next call.
        """
        image = shrunk(image, scale)
        shape = (image.shape[0], image.shape[1], 3)
        staged = self._host.get("image", shape, torch.uint8)
        np.copyto(staged.numpy(), image)
        if staged.device != self._scale.device:
            # As bytes: a copy that also converts would convert first and move four times as much. It is waited for, as the
            # next picture may be staged before this one has left.
            staged = self._device.get("image", shape, torch.uint8).copy_(staged)
        pixels = self._device.get("input", shape, torch.float32).copy_(staged)
        pixels.mul_(self._scale).add_(self._offset)
        return pixels.to(self.dtype).permute(2, 0, 1)[None]


def shrunk(image: np.ndarray, scale: float) -> np.ndarray:
    """The picture at this part of its size, by area averaging; at 1, it is the very array."""
    if scale == 1.0:
        return image
    height, width = image.shape[:2]
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA))
