"""The parts of a pipeline call, each callable alone."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch

from mtl_perception.camera.projection import CLOUD_FLOATS, pack_cloud
from mtl_perception.inference.backend import create_engine
from mtl_perception.inference.cuda.program import prepare_network
from mtl_perception.inference.device import DTYPES
from mtl_perception.inference.host.postprocess import Postprocessor
from mtl_perception.network.grid import ResizeSpec, uncropped_size
from mtl_perception.pipeline import Pipeline
from mtl_perception.types import Frame
from mtl_perception.weights.files import load_network

Raw = tuple[np.ndarray, ...]


def forward_pass(pipeline: Pipeline, image: np.ndarray) -> Callable[[], Raw]:
    """Return the forward pass alone, as the pipeline's device runs it: to logits, raw depth and normals in host memory.

    The network is loaded by the first call.
    """
    run = cache(lambda: _cpu_pass(pipeline) if pipeline.device.type == "cpu" else _cuda_pass(pipeline))
    return lambda: run()(image)


def _cpu_pass(pipeline: Pipeline) -> Callable[[np.ndarray], Raw]:
    config = pipeline.config
    engine = create_engine(load_network(config.weights), pipeline.precision, config.cpu_threads, config.backend)
    return lambda image: tuple(output.numpy() for output in engine.forward(image))


def _cuda_pass(pipeline: Pipeline) -> Callable[[np.ndarray], Raw]:
    device, dtype, description = pipeline.device, DTYPES[pipeline.precision], pipeline.description
    network = prepare_network(load_network(pipeline.config.weights), device, dtype)
    mean, std = (torch.tensor(values, device=device) for values in (description.mean, description.std))

    @torch.inference_mode()
    def run(image: np.ndarray) -> Raw:
        pixels = (torch.from_numpy(image).to(device).float() / 255 - mean) / std
        x = pixels.permute(2, 0, 1)[None].to(dtype).contiguous(memory_format=torch.channels_last)
        return tuple(output[0].float().cpu().numpy() for output in network(x))

    return run


def cpu_stages(pipeline: Pipeline, frame: Frame) -> dict[str, Callable[[], Any]]:
    """Return the stages of a call on the CPU for a frame with a camera, at the image's own size, by name, in order."""
    config, description, image, camera = pipeline.config, pipeline.description, frame.image, frame.camera
    assert camera is not None
    engine = create_engine(load_network(config.weights), pipeline.precision, config.cpu_threads, config.backend)
    _, first = description.class_set(config.classes)
    post = Postprocessor(description.depth_transform, (first, len(pipeline.class_set)))
    size = image.shape[0], image.shape[1]
    spec = ResizeSpec(size, uncropped_size(size, size, description.grid), config.upsampling)
    with torch.inference_mode():
        raw = [output.clone() for output in engine.forward(image)]
        labels = post.segmentation(raw[0], spec, 0.0, False)[0]
        depth = post.depth(raw[1], spec, 0.0, pipeline.max_depth)
    rays, pixels = torch.from_numpy(camera.rays()), torch.from_numpy(image)
    points = torch.empty(*size, CLOUD_FLOATS)
    stages: dict[str, Callable[[], Any]] = {
        "forward": lambda: engine.forward(image),
        "resize, argmax": lambda: post.segmentation(raw[0], spec, 0.0, False),
        "resize, argmax, confidence": lambda: post.segmentation(raw[0], spec, 0.0, True),
        "depth": lambda: post.depth(raw[1], spec, 0.0, pipeline.max_depth),
        "cloud": lambda: pack_cloud(depth, rays, pixels, labels, points),
    }
    return {name: torch.inference_mode()(stage) for name, stage in stages.items()}
