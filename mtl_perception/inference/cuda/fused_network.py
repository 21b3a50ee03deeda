"""The network as a sequence of Triton kernels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mtl_perception.inference.cuda.kernels.convolution import depthwise, pointwise, stem
from mtl_perception.inference.cuda.kernels.heads import heads_3x3, taps_side_by_side
from mtl_perception.inference.cuda.kernels.pooling import depthwise_stage, max_pool_5x5
from mtl_perception.inference.cuda.network import AtenNetwork, HeadMaps, map_columns
from mtl_perception.network.grid import upsampled_size
from mtl_perception.network.mobilenetv2 import InvertedResidual
from mtl_perception.network.model import MultiTaskRefineNet
from mtl_perception.network.refinenet import ChainedResidualPooling

LARGEST_MAP = 2**31
"""Values of a tensor that the kernels can address."""
WIDEST = 96
"""Channels of the network's largest map, which has half of the image's height and width."""


@dataclass(frozen=True)
class _Block:
    """An inverted residual block: weights as the kernels take them; no expansion in the network's first block."""

    expand: Tensor | None
    expand_bias: Tensor | None
    taps: Tensor
    taps_bias: Tensor
    project: Tensor
    project_bias: Tensor
    stride: int
    is_residual: bool


class FusedNetwork(AtenNetwork):
    """The network as a sequence of Triton kernels, each a layer with all that follows it up to the next.

    `AtenNetwork` is its oracle: that one rounds after each operator, this one after each kernel. For types of 16 bits.
    """

    uses_kernels = True

    def __init__(self, network: MultiTaskRefineNet, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__(network, device, dtype)
        module = self.module
        first = _conv(module.get_submodule("layer1"))
        self._stem, self._stem_bias = _stem_weight(first), _bias(first)
        self._layers = [
            [
                _block(block)
                for block in module.get_submodule(f"layer{number}").children()
                if isinstance(block, InvertedResidual)
            ]
            for number in range(2, 9)
        ]
        self._projections = {number: _matrix(module, f"conv{number}") for number in range(3, 9)}
        self._adaptations = {level: _matrix(module, f"conv_adapt{level}") for level in (4, 3, 2)}
        # Of level 1 the convolutions are depthwise: one weight a channel.
        self._pooling = {
            level: [
                stage.weight.detach()[:, 0, 0, 0].contiguous() if level == 1 else _transposed(stage.weight)
                for stage in _stages(module, level)
            ]
            for level in (4, 3, 2, 1)
        }
        self._heads = _head_parameters(module)
        # One small kernel, so that a machine without a C compiler is known before the first frame.
        stem(torch.zeros(1, 2, 2, 3, dtype=torch.uint8, device=device), self.scale, self.offset, self._stem, self._stem_bias)

    def __call__(self, image: Tensor, heads: frozenset[str], maps: HeadMaps) -> None:
        """Compute the maps of some heads; see `AtenNetwork`."""
        n, height, width, _ = image.shape
        if n * -(-height // 2) * -(-width // 2) * WIDEST >= LARGEST_MAP:
            super().__call__(image, heads, maps)
            return
        shared = self.shared(image)
        which = ("segm" in heads, "depth" in heads)
        if any(which):
            heads_3x3(shared, *self._heads, which, out=maps.values)
        self._write_normals(shared.permute(0, 3, 1, 2), maps)

    def shared(self, image: Tensor) -> Tensor:
        """Compute the features that all heads read.

        Args:
            image: N x H x W x 3, uint8 or float32 levels of 0 to 255, RGB.

        Returns:
            N x ceil(H / 4) x ceil(W / 4) x 256.
        """
        x = stem(image, self.scale, self.offset, self._stem, self._stem_bias)
        features: list[Tensor] = []
        for layer in self._layers:
            for block in layer:
                x = _inverted_residual(x, block)
            features.append(x)
        return self._decode(features[1:])

    def _decode(self, features: Sequence[Tensor]) -> Tensor:
        f3, f4, f5, f6, f7, f8 = features
        x = self._refine(4, (8, f8), (7, f7))
        x = self._refine(3, (5, f5), (6, f6), low=x)
        x = self._refine(2, (4, f4), low=x)
        return self._refine(1, (3, f3), low=x)

    def _refine(self, level: int, *projected: tuple[int, Tensor], low: Tensor | None = None) -> Tensor:
        """Sum projected features and the coarser level; apply ReLU6, chained residual pooling and the adaptation."""
        total: Tensor | None = None
        for index, (number, feature) in enumerate(projected):
            is_last = index == len(projected) - 1
            size = feature.shape[1:3]
            weight = self._projections[number]
            out = _like(feature, weight)
            added = low if is_last else None
            uncropped = None if added is None else upsampled_size(added.shape[1:3], 2, size, self.description.grid)
            pointwise(feature, weight, residual=total, low=added, uncropped=uncropped, out=out, relu6=is_last)
            total = out
        assert total is not None
        stages = self._pooling[level]
        top: Tensor | None = total
        if level == 1:
            pooled_total = torch.empty_like(total)
            for index, scale in enumerate(stages):
                assert top is not None
                before = total if index == 0 else pooled_total
                top = depthwise_stage(top, scale, before, pooled_total, last=index == len(stages) - 1)
            return pooled_total
        for index, weight in enumerate(stages):
            assert top is not None
            pooled = max_pool_5x5(top)
            top = torch.empty_like(pooled) if index < len(stages) - 1 else None
            # In place: the pooling that read the sum has ended before this kernel begins.
            pointwise(pooled, weight, total=total, out=top)
        adapted = _like(total, self._adaptations[level])
        pointwise(total, self._adaptations[level], out=adapted)
        return adapted


def _inverted_residual(x: Tensor, block: _Block) -> Tensor:
    hidden = x
    if block.expand is not None:
        hidden = _like(x, block.expand)
        pointwise(x, block.expand, block.expand_bias, out=hidden, relu6=True)
    hidden = depthwise(hidden, block.taps, block.taps_bias, block.stride)
    out = _like(hidden, block.project)
    pointwise(hidden, block.project, block.project_bias, residual=x if block.is_residual else None, out=out)
    return out


def _like(x: Tensor, weight: Tensor) -> Tensor:
    return torch.empty((*x.shape[:3], weight.shape[1]), dtype=x.dtype, device=x.device)


def _block(block: InvertedResidual) -> _Block:
    convolutions = [module for module in block.output.modules() if isinstance(module, nn.Conv2d)]
    *expansion, taps, project = convolutions
    expand = expansion[0] if expansion else None
    return _Block(
        None if expand is None else _transposed(expand.weight),
        None if expand is None else _bias(expand),
        # C x 1 x 3 x 3 to 9 x C.
        taps.weight.detach().reshape(taps.out_channels, 9).T.contiguous(),
        _bias(taps),
        _transposed(project.weight),
        _bias(project),
        int(taps.stride[0]),
        block.is_residual,
    )


def _conv(module: nn.Module) -> nn.Conv2d:
    convolution = next(part for part in module.modules() if isinstance(part, nn.Conv2d))
    return convolution


def _stages(network: nn.Module, level: int) -> list[nn.Conv2d]:
    pooling = next(part for part in network.get_submodule(f"crp{level}").children() if isinstance(part, ChainedResidualPooling))
    return [_conv(stage) for stage in pooling.children()]


def _matrix(network: nn.Module, name: str) -> Tensor:
    return _transposed(_conv(network.get_submodule(name)).weight)


def _transposed(weight: Tensor) -> Tensor:
    """Outputs x inputs x 1 x 1 to inputs x outputs."""
    return weight.detach()[:, :, 0, 0].T.contiguous()


def _bias(convolution: nn.Conv2d) -> Tensor:
    assert convolution.bias is not None
    return convolution.bias.detach().float()


def _stem_weight(convolution: nn.Conv2d) -> Tensor:
    """C x 3 x 3 x 3 to 32 x C: rows (tap row, tap column, color), padded with zeros."""
    weight = convolution.weight.detach().permute(2, 3, 1, 0).reshape(27, -1)
    return torch.cat([weight, weight.new_zeros(5, weight.shape[1])]).contiguous()


def _head_parameters(network: MultiTaskRefineNet) -> tuple[Tensor, Tensor, Tensor, int]:
    """Scales, weights, bias and number of outputs, as `heads_3x3` takes them."""
    names = ("segm", "depth")
    scales = torch.stack([_conv(network.get_submodule(f"pre_{name}")).weight.detach()[:, 0, 0, 0] for name in names])
    convolutions = [_conv(network.get_submodule(name)) for name in names]
    outputs = sum(convolution.out_channels for convolution in convolutions)
    weights = scales.new_zeros(2, outputs, scales.shape[1], 3, 3)
    bias = torch.zeros(map_columns(convolutions[0].out_channels), device=scales.device)
    start = 0
    for index, convolution in enumerate(convolutions):
        end = start + convolution.out_channels
        weights[index, start:end] = convolution.weight.detach()
        bias[start:end] = _bias(convolution)
        start = end
    return scales.contiguous(), taps_side_by_side(weights), bias, outputs
