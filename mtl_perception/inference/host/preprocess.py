"""Conversion of RGB images to the network's input."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor

from mtl_perception.inference.host.workspace import Workspace
from mtl_perception.inference.request import scaled_size
from mtl_perception.network.description import Description


class Preprocessor:
    """Downsample and normalize images into reused buffers.

    Args:
        description: Provides mean and standard deviation.
        dtype: The network's floating-point type.
    """

    def __init__(self, description: Description, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self._work = Workspace()
        self._scale, self._offset = map(torch.from_numpy, description.normalization())

    def __call__(self, image: np.ndarray, scale: float = 1.0) -> Tensor:
        """Return the network's input.

        Args:
            image: H x W x 3 uint8, RGB.
            scale: The image is downsampled by this factor first, by area averaging.

        Returns:
            1 x 3 x h x w in channels-last memory; valid until the next call.
        """
        image = downsample(image, scale)
        staged = self._work.get("image", image.shape, np.uint8)
        # Copied, as PyTorch takes neither read-only nor negatively strided arrays.
        np.copyto(staged, image)
        pixels = torch.from_numpy(self._work.get("input", image.shape, np.float32)).copy_(torch.from_numpy(staged))
        pixels.mul_(self._scale).add_(self._offset)
        return pixels.to(self._dtype).permute(2, 0, 1)[None]


def downsample(image: np.ndarray, scale: float) -> np.ndarray:
    """Return the image at `scale` times its size, by area averaging; the same array for 1."""
    return resize_area(image, scaled_size(image.shape[0], image.shape[1], scale))


def resize_area(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return the image at this height and width, by area averaging; the same array if it has that size."""
    if size == image.shape[:2]:
        return image
    return np.asarray(cv2.resize(image, (size[1], size[0]), interpolation=cv2.INTER_AREA))
