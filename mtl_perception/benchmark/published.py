"""The network and what is around it as published: what `bench --compare` measures everything else against.

Written after the paper's own example: modules as defined, batch norms not folded, 5x5 pooling in one, NCHW memory; float64
normalization; logits grown by OpenCV's bicubic resize and compared then; a cloud by the formula of each pixel. It is no part
of the product.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mtl_perception.camera.model import CameraModel
from mtl_perception.network.description import Description
from mtl_perception.network.grid import uncropped_size
from mtl_perception.network.model import MultiTaskRefineNet
from mtl_perception.network.refinenet import ChainedResidualPooling
from mtl_perception.types import CLOUD_DTYPE

Raw = tuple[np.ndarray, ...]
"""The network's own outputs of one picture: C x h x w logits, 1 x h x w depth, …"""


class PublishedWay:
    """Pictures to labels, depth and cloud.

    Args:
        description: The network's.
        network: 1 x 3 x H x W float32 array to the network's outputs, each with N = 1.
    """

    def __init__(self, description: Description, network: Callable[[np.ndarray], Raw]) -> None:
        self._description = description
        self._network = network

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """The network's input, 1 x 3 x H x W float32, of H x W x 3 uint8; in float64, as NumPy makes it of bytes."""
        mean, std = np.array(self._description.mean), np.array(self._description.std)
        normalized = (image / 255.0 - mean) / std
        return np.ascontiguousarray(normalized.transpose(2, 0, 1)[None], np.float32)

    def raw(self, prepared: np.ndarray) -> Raw:
        """The network alone."""
        return tuple(output[0] for output in self._network(prepared))

    def __call__(self, image: np.ndarray, camera: CameraModel) -> dict[str, np.ndarray]:
        """H x W labels (int64), H x W depth (float32, meters, no bounds) and H x W cloud (CLOUD_DTYPE) of a picture."""
        logits, raw_depth = self.raw(self.prepare(image))[:2]
        height, width = image.shape[:2]
        # To the picture's very size, with the published weights.
        size = uncropped_size((height, width), (height, width), self._description.grid)[::-1]
        grown = cv2.resize(np.ascontiguousarray(logits.transpose(1, 2, 0)), size, interpolation=cv2.INTER_CUBIC)
        labels = grown.reshape(*size[::-1], -1)[:height, :width].argmax(axis=2)
        depth = cv2.resize(np.ascontiguousarray(raw_depth[0]), size, interpolation=cv2.INTER_CUBIC)[:height, :width]
        depth = np.exp(depth) if self._description.depth_transform == "exp" else np.abs(depth)
        if self._description.depth_focal_length:
            depth = depth * np.float32(camera.fx / self._description.depth_focal_length)
        return {"labels": labels, "depth": depth, "cloud": _cloud(depth, labels, image, camera)}


def published_network(network: MultiTaskRefineNet) -> nn.Module:
    """A copy as it was published: pooling in one, contiguous memory."""
    network = copy.deepcopy(network).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, ChainedResidualPooling):
                setattr(module, name, _PublishedPooling(child))
    return network.eval()


def eager(module: nn.Module) -> Callable[[np.ndarray], Raw]:
    """A network in PyTorch, eager, as `PublishedWay` wants it."""

    def call(prepared: np.ndarray) -> Raw:
        with torch.inference_mode():
            outputs: tuple[Tensor, ...] = module(torch.from_numpy(prepared))
            return tuple(output.numpy() for output in outputs)

    return call


class _PublishedPooling(nn.Module):
    """Chained residual pooling with one 5x5 pooling a stage."""

    def __init__(self, pooling: ChainedResidualPooling) -> None:
        super().__init__()
        self._convolutions = nn.ModuleList(pooling.children())

    def forward(self, x: Tensor) -> Tensor:
        top = x
        for stage in self._convolutions:
            top = stage(F.max_pool2d(top, kernel_size=5, stride=1, padding=2))
            x = x + top
        return x


def _cloud(depth: np.ndarray, labels: np.ndarray, image: np.ndarray, camera: CameraModel) -> np.ndarray:
    u, v = np.meshgrid(np.arange(camera.width), np.arange(camera.height))
    cloud: Any = np.empty(depth.shape, CLOUD_DTYPE)
    cloud["x"] = (u - camera.cx) * depth / camera.fx
    cloud["y"] = (v - camera.cy) * depth / camera.fy
    cloud["z"] = depth
    red, green, blue = (image[..., channel].astype(np.uint32) for channel in range(3))
    cloud["rgb"] = red << 16 | green << 8 | blue
    cloud["label"] = labels
    return np.asarray(cloud)
