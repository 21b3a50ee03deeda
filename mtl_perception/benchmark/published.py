"""The published implementation, the baseline of `bench --compare`.

It follows the authors' example: modules as defined, separate batch norms, 5x5 max pooling, NCHW memory, normalization in
float64, bicubic upsampling of the logits with OpenCV before argmax, and a point cloud by the pinhole formula. Nothing else uses
it.
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

RawOutputs = tuple[np.ndarray, ...]
"""Outputs of the network for one image: C x h x w logits, 1 x h x w depth, and further tasks."""


class PublishedPipeline:
    """Pre- and post-processing around the published network.

    Args:
        description: Description of the network.
        network: Maps a 1 x 3 x H x W float32 array to the outputs of the network with N = 1.
    """

    def __init__(self, description: Description, network: Callable[[np.ndarray], RawOutputs]) -> None:
        self._description = description
        self._network = network

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """Normalize an H x W x 3 uint8 image in float64 and return the input of the network, 1 x 3 x H x W float32."""
        mean, std = np.array(self._description.mean), np.array(self._description.std)
        normalized = (image / 255.0 - mean) / std
        return np.ascontiguousarray(normalized.transpose(2, 0, 1)[None], np.float32)

    def raw(self, prepared: np.ndarray) -> RawOutputs:
        """Run the network alone."""
        return tuple(output[0] for output in self._network(prepared))

    def __call__(self, image: np.ndarray, camera: CameraModel) -> dict[str, np.ndarray]:
        """Return labels (H x W int64), depth (H x W float32 meters, unlimited) and cloud (H x W CLOUD_DTYPE) of an image."""
        logits, raw_depth = self.raw(self.prepare(image))[:2]
        height, width = image.shape[:2]
        # Equal to the image size for the published weights.
        size = uncropped_size((height, width), (height, width), self._description.grid)[::-1]
        upsampled = cv2.resize(np.ascontiguousarray(logits.transpose(1, 2, 0)), size, interpolation=cv2.INTER_CUBIC)
        labels = upsampled.reshape(*size[::-1], -1)[:height, :width].argmax(axis=2)
        depth = cv2.resize(np.ascontiguousarray(raw_depth[0]), size, interpolation=cv2.INTER_CUBIC)[:height, :width]
        depth = np.exp(depth) if self._description.depth_transform == "exp" else np.abs(depth)
        if self._description.depth_focal_length:
            depth = depth * np.float32(camera.fx / self._description.depth_focal_length)
        return {"labels": labels, "depth": depth, "cloud": _cloud(depth, labels, image, camera)}


def published_network(network: MultiTaskRefineNet) -> nn.Module:
    """Return a copy of a network as published: single 5x5 pooling, contiguous (NCHW) memory."""
    network = copy.deepcopy(network).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, ChainedResidualPooling):
                setattr(module, name, _PublishedPooling(child))
    return network.eval()


def eager(module: nn.Module) -> Callable[[np.ndarray], RawOutputs]:
    """Return a function that runs a module in eager PyTorch, for `PublishedPipeline`."""

    def call(prepared: np.ndarray) -> RawOutputs:
        with torch.inference_mode():
            outputs: tuple[Tensor, ...] = module(torch.from_numpy(prepared))
            return tuple(output.numpy() for output in outputs)

    return call


class _PublishedPooling(nn.Module):
    """Chained residual pooling with one 5x5 pooling per stage."""

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
