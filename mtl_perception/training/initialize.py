"""Initial network of a run."""

from __future__ import annotations

import math

import torch
from torch import nn

from mtl_perception.errors import WeightsError
from mtl_perception.labels import CLASS_SETS, ClassSet
from mtl_perception.network.description import KITTI_CAMERA, Description
from mtl_perception.network.model import MultiTaskRefineNet
from mtl_perception.training.config import TrainConfig
from mtl_perception.weights.encoders import load_encoder
from mtl_perception.weights.files import load_network

INITIAL_DEPTH = 15.0
"""Depth that a new decoder outputs everywhere, m."""
DECODER_GAIN, POOLING_GAIN = 0.3, 0.1
"""Share of the Kaiming deviation. The decoder has no normalization: at 1, its ReLU6 saturates and dies within 50 steps."""


def class_set(config: TrainConfig) -> ClassSet:
    """Return the class set of a run."""
    return CLASS_SETS[config.classes]


def initialize_network(config: TrainConfig) -> MultiTaskRefineNet:
    """Return the network of `config.start`, or a new decoder on an encoder.

    Raises:
        WeightsError: The weights cannot be used, or have other classes.
    """
    description = _describe(config)
    if config.start:
        network = load_network(config.start)
        if network.description.classes != description.classes or network.description.depth_transform != "exp":
            raise WeightsError(f"start {config.start!r}: its classes or its depth transform differ from those of this run")
        network.description = description
        return network.requires_grad_(True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = MultiTaskRefineNet(description)
    generator = torch.Generator().manual_seed(config.seed)
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d) and not name.startswith("layer"):
            gain = POOLING_GAIN if name.startswith("crp") else DECODER_GAIN
            fan_in = module.weight[0].numel()
            with torch.no_grad():
                module.weight.normal_(0, gain * math.sqrt(2 / fan_in), generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    nn.init.constant_(network.get_parameter("depth.bias"), math.log(INITIAL_DEPTH))
    if config.encoder:
        network.load_state_dict(load_encoder(config.encoder), strict=False)
    return network


def _describe(config: TrainConfig) -> Description:
    """Return the description of the weights of a run."""
    classes = class_set(config)
    return Description(
        name=config.name,
        classes=classes.names,
        colors=classes.colors,
        depth_transform="exp",
        depth_range=config.depth.range,
        depth_focal_length=config.depth.focal_length,
        grid=config.grid,
        camera=dict(config.camera) or KITTI_CAMERA,
        license=config.license,
    )
