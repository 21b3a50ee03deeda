"""Latency of the stages of a pipeline call, each timed alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from mtl_perception.benchmark.inputs import example_camera
from mtl_perception.benchmark.published import RawOutputs
from mtl_perception.benchmark.timing import summarize, time_interleaved
from mtl_perception.inference.backend import create_engine
from mtl_perception.inference.cuda.prepare import prepare_network
from mtl_perception.inference.device import DTYPES
from mtl_perception.inference.host.cloud import CloudPacker
from mtl_perception.inference.host.postprocess import Postprocessor
from mtl_perception.inference.host.preprocess import Preprocessor
from mtl_perception.messages.decode import decode_image
from mtl_perception.messages.encode import MessageEncoder, image_fields
from mtl_perception.messages.topics import OUTPUT_TOPICS, RECORDED_TOPICS
from mtl_perception.network.grid import ResizeSpec, uncropped_size
from mtl_perception.pipeline import Pipeline
from mtl_perception.types import Frame
from mtl_perception.weights.files import load_network

TOTAL = "total: message to fields"


def time_stages(pipeline: Pipeline, image: np.ndarray, runs: int) -> dict[str, dict[str, float]]:
    """Time the stages from an Image message to the message fields of all outputs.

    Args:
        pipeline: The pipeline. Only those on a CPU are divided further.
        image: H x W x 3 uint8 RGB.
        runs: Measured runs of each stage.

    Returns:
        median_ms and iqr_ms of each stage.
    """
    frame = Frame(image, example_camera(image.shape[1], image.shape[0]))
    message = SimpleNamespace(**image_fields(image, "bgr8"))
    encoder = MessageEncoder(pipeline.class_set, pipeline.config.overlay_opacity)
    result = pipeline(frame)
    rows = [row for row in OUTPUT_TOPICS if row.name in RECORDED_TOPICS]
    stages: dict[str, Callable[[], Any]] = {"decode bgr8": lambda: decode_image(message)}
    if pipeline.backend.startswith("torch"):
        # Other backends normalize within the forward pass.
        # Where PyTorch has replaced OpenVINO, it computes int8 in float32.
        preprocess = Preprocessor(pipeline.description, DTYPES.get(pipeline.precision, torch.float32))
        stages["normalize (part of forward)"] = lambda: preprocess(image)
    if pipeline.device.type == "cpu":
        stages |= cpu_stages(pipeline, frame)

    def total() -> None:
        result = pipeline(Frame(decode_image(message), frame.camera))
        for row in rows:
            row.encode(encoder, result)

    stages |= {
        "labels, depth, cloud": lambda: pipeline(frame, ("labels", "depth", "cloud")),
        "message fields": lambda: [row.encode(encoder, result) for row in rows],
        TOTAL: total,
    }
    return {name: summarize(milliseconds) for name, milliseconds in time_interleaved(stages, runs).items()}


def format_stages(stages: Mapping[str, Mapping[str, float]]) -> str:
    """Return the result of `time_stages` as text."""
    total = stages[TOTAL]["median_ms"]
    lines = [f"  {'stage':<34}{'median':>10}{'iqr':>10}{'share':>8}"]
    lines += [
        f"  {stage:<34}{row['median_ms']:>10.2f}{row['iqr_ms']:>10.2f}{row['median_ms'] / total:>8.0%}"
        for stage, row in stages.items()
    ]
    return "\n".join(lines)


def forward_pass(pipeline: Pipeline, image: np.ndarray) -> Callable[[], RawOutputs]:
    """Return a function that runs the network alone on the pipeline's device and copies the outputs to the host.

    Its first call loads the network.
    """
    run = cache(lambda: _cpu_pass(pipeline) if pipeline.device.type == "cpu" else _cuda_pass(pipeline))
    return lambda: run()(image)


def _cpu_pass(pipeline: Pipeline) -> Callable[[np.ndarray], RawOutputs]:
    config = pipeline.config
    engine = create_engine(load_network(config.weights), pipeline.precision, config.cpu_threads, config.backend)
    return lambda image: tuple(output.numpy() for output in engine.forward(image))


def _cuda_pass(pipeline: Pipeline) -> Callable[[np.ndarray], RawOutputs]:
    network, _ = prepare_network(load_network(pipeline.config.weights), pipeline.device, DTYPES[pipeline.precision])
    heads = frozenset({"segm", "depth", "normal"} if "normals" in pipeline.description.tasks else {"segm", "depth"})

    @torch.no_grad()
    def run(image: np.ndarray) -> RawOutputs:
        maps = network.allocate(1, (image.shape[0], image.shape[1]), heads)
        network(torch.from_numpy(image).to(pipeline.device)[None], heads, maps)
        values = maps.values[0].permute(2, 0, 1).cpu().numpy()
        raw = (values[: maps.depth_column], values[maps.depth_column : maps.depth_column + 1])
        return raw if maps.normals is None else (*raw, maps.normals[0].cpu().numpy())

    return run


def cpu_stages(pipeline: Pipeline, frame: Frame) -> dict[str, Callable[[], Any]]:
    """Return the stages of a call on the CPU by name, in order, for a frame with a camera at the size of its image."""
    config, description, image, camera = pipeline.config, pipeline.description, frame.image, frame.camera
    assert camera is not None
    engine = create_engine(load_network(config.weights), pipeline.precision, config.cpu_threads, config.backend)
    classes, first = description.class_set(config.classes)
    post = Postprocessor(description.depth_transform, (first, len(classes)))
    size = image.shape[0], image.shape[1]
    spec = ResizeSpec(size, uncropped_size(size, size, description.grid), config.upsampling)
    with torch.inference_mode():
        raw = [output.clone() for output in engine.forward(image)]
        labels = post.segmentation(raw[0], spec, 0.0, False)[0]
        depth = post.depth(raw[1], spec, 0.0, pipeline.max_depth)
    clouds, planes = CloudPacker(), (depth, image, labels)
    stages: dict[str, Callable[[], Any]] = {
        "forward": lambda: engine.forward(image),
        "upsampling, argmax": lambda: post.segmentation(raw[0], spec, 0.0, False),
        "upsampling, argmax, confidence": lambda: post.segmentation(raw[0], spec, 0.0, True),
        "depth": lambda: post.depth(raw[1], spec, 0.0, pipeline.max_depth),
        "cloud": lambda: clouds.pack(camera, 1, *planes),
    }
    return {name: torch.inference_mode()(stage) for name, stage in stages.items()}
