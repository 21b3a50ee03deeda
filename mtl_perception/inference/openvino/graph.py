"""The network as an OpenVINO model, arranged for a CPU's caches.

It differs from `network/` as follows; results differ by rounding only.

- Batch norms are folded into the convolutions before them.
- The input is uint8. The mean is subtracted from it, and the first convolution's weights contain the standard deviation. The
  mean cannot be part of a bias, because the padding's zeros belong to the normalized image.
- To save memory, blocks of large images work on one group of channels at a time, each of which adds its part to the block's
  sum, and chained residual pooling works on bands of rows.
- layer8's last convolution and conv8 are one, as there is no nonlinearity between them.
- Everything from level 1's input to the heads works channel by channel, so it is computed for one group of channels at a time,
  which stays in the cache; each group adds its part to the heads' sums.
- A head with few outputs, such as depth, would waste vector units of sixteen lanes: its 3x3 convolution is computed as a
  pointwise convolution to nine values an output, one a tap, which are then shifted and added.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import openvino as ov
import torch
from openvino import opset13 as ops
from torch import nn

from mtl_perception.inference.openvino.convolutions import ALL, FloatConvolutions
from mtl_perception.inference.openvino.operators import constant, convolve, resize, slice_axis, slice_rows
from mtl_perception.network.folding import fold_batch_norm
from mtl_perception.network.grid import upsampled_size
from mtl_perception.network.mobilenetv2 import STAGES, InvertedResidual
from mtl_perception.network.model import MultiTaskRefineNet
from mtl_perception.network.refinenet import CHANNELS

GROUP_BYTES = 2**28
"""Largest map inside a block that is computed at once; that of an 8K image has 3.2 GB."""
GROUP_CHANNELS = 16
"""Fewest channels of a group: a vector unit's lanes."""
POOL_REACH = 2
"""Rows above and below that a 5x5 pooling reads."""
TAPPED_OUTPUTS = 6
"""Number of outputs up to which a head's convolution by taps multiplies less than one padded to sixteen outputs."""
TAPS = 9


def openvino_model(
    network: MultiTaskRefineNet, height: int, width: int, convolutions: FloatConvolutions | None = None
) -> ov.Model:
    """Build the network for images of one size.

    Args:
        network: What `load_network` returns; it is not changed.
        height: Height of the network's input.
        width: Width of the network's input.
        convolutions: What to do with inputs and weights of the convolutions; None leaves them in float32.

    Returns:
        A model of one input, 1 x H x W x 3 uint8 RGB, and the network's outputs, each 1 x C x h x w float32.
    """
    return _Builder(network, convolutions or FloatConvolutions()).build(height, width)


class _Builder:
    """Build operators; maps have the layout N x C x H x W, which OpenVINO stores with the channels last."""

    def __init__(self, network: MultiTaskRefineNet, convolutions: FloatConvolutions) -> None:
        self._network = fold_batch_norm(network)
        self._convolutions = convolutions
        self._heads = ["segm", "depth", *(["normal"] if "normals" in network.description.tasks else [])]

    def build(self, height: int, width: int) -> ov.Model:
        image = ops.parameter([1, height, width, 3], np.uint8, name="image")
        outputs = self._decode(self._encode(image))
        return ov.Model([ops.result(output) for output in outputs], [image], "mtl_perception")

    def _encode(self, image: Any) -> list[Any]:
        description = self._network.description
        pixels = ops.convert(image, np.float32)
        centered = ops.subtract(pixels, constant(255 * np.array(description.mean)))
        planes = ops.transpose(centered, ops.constant(np.array([0, 3, 1, 2], np.int64)))
        scale = 1 / (255 * torch.tensor(description.std, dtype=torch.float64))
        weight = self._module("layer1.0").weight.double() * scale[None, :, None, None]
        x = self._conv(planes, "layer1.0", weight=weight.float(), relu=True)
        features = []
        for number in range(2, 2 + len(STAGES)):
            for name, block in self._network.get_submodule(f"layer{number}").named_children():
                assert isinstance(block, InvertedResidual)
                last = number == 1 + len(STAGES)
                x = (self._last_block if last else self._block)(x, f"layer{number}.{name}", block)
            if number >= 3:
                features.append(x)
        return features

    def _block(self, x: Any, name: str, block: InvertedResidual) -> Any:
        expand, spatial, project = _convolutions_of(name)
        inner = self._module(expand).out_channels
        channels = _group_channels(x, inner)
        total = x if block.is_residual else None
        for first in range(0, inner, channels):
            part = slice(first, first + channels)
            hidden = self._conv(x, expand, outputs=part, relu=True)
            hidden = self._conv(hidden, spatial, outputs=part, relu=True)
            total = self._conv(hidden, project, inputs=part, add=total)
        return total

    def _last_block(self, x: Any, name: str, block: InvertedResidual) -> Any:
        """Build the last block, with the decoder's conv8 merged into its last convolution: nothing else reads that block."""
        expand, spatial, project = _convolutions_of(name)
        hidden = self._conv(self._conv(x, expand, relu=True), spatial, relu=True)
        before, after = self._module(project), self._module("conv8").weight[:, :, 0, 0].double()
        assert before.bias is not None
        weight = after @ before.weight[:, :, 0, 0].double()
        return self._conv(hidden, "conv8", weight=weight[:, :, None, None].float(), bias=(after @ before.bias.double()).float())

    def _decode(self, features: list[Any]) -> list[Any]:
        f3, f4, f5, f6, f7, projected8 = features
        x = self._pool(4, self._conv(f7, "conv7", add=projected8))
        x = self._upsample(self._conv(x, "conv_adapt4"), f6)
        x = self._pool(3, self._conv(f6, "conv6", add=self._conv(f5, "conv5", add=x)))
        x = self._upsample(self._conv(x, "conv_adapt3"), f4)
        x = self._pool(2, self._conv(f4, "conv4", add=x))
        return self._level1(f3, x)

    def _upsample(self, x: Any, finer: Any) -> Any:
        """Upsample a map to the size of the one of half its stride; see `network/grid.py`."""
        cells, size = (list(one.get_output_shape(0))[2:] for one in (x, finer))
        upsampled = upsampled_size(cells, 2, size, self._network.description.grid)
        x = resize(x, upsampled)
        for axis, (large, kept) in enumerate(zip(upsampled, size, strict=True), start=2):
            if large > kept:
                x = slice_axis(x, 0, kept, axis)
        return x

    def _pool(self, level: int, x: Any) -> Any:
        """Apply ReLU6 and chained residual pooling; to large maps by bands of rows, which have few maps at a time in memory."""
        x, stages = ops.clamp(x, 0.0, 6.0), self._stages(level)
        _, channels, height, _ = x.get_output_shape(0)
        rows = math.ceil(height / math.ceil(2 * _map_bytes(x, channels) / GROUP_BYTES))
        # Rows beyond a band's border that its pooling reads.
        margin = POOL_REACH * len(stages)
        bands = []
        for first in range(0, height, rows):
            start, stop = max(first - margin, 0), min(first + rows + margin, height)
            top = total = slice_rows(x, start, stop)
            for stage, following in zip(stages, [*stages[1:], ""], strict=True):
                top = self._conv(self._convolutions.pooled_source(stage, top), stage, ready=True)
                top = self._convolutions.shared_source(following, top)
                total = ops.add(total, top)
            bands.append(slice_rows(total, first - start, min(first + rows, height) - start))
        return bands[0] if len(bands) == 1 else ops.concat(bands, 2)

    def _level1(self, f3: Any, x: Any) -> list[Any]:
        """Build the last level and the heads, one group of channels at a time."""
        size = min(CHANNELS // self._convolutions.channel_groups, _group_channels(f3, CHANNELS))
        values: list[list[Any]] = [[] for _ in self._heads]
        for first in range(0, CHANNELS, size):
            part = slice(first, first + size)
            coarse = self._upsample(self._conv(x, "conv_adapt2", outputs=part), f3)
            top = self._conv(f3, "conv3", outputs=part, add=coarse, relu=True)
            total = self._convolutions.chained_pooling(
                top, [self._module(stage).weight[part].numpy() for stage in self._stages(1)]
            )
            for i, name in enumerate(self._heads):
                hidden = ops.clamp(self._scale(total, f"pre_{name}", part), 0.0, 6.0)
                values[i].append(self._head(name, hidden, part))
        if _map_bytes(f3, CHANNELS) > GROUP_BYTES:
            values = self._sum_at_once(values)
        outputs = []
        for name, parts in zip(self._heads, values, strict=True):
            bias = self._module(name).bias
            assert bias is not None
            total = ops.add(parts[0], _per_channel(bias))
            for value in parts[1:]:
                total = ops.add(value, total)
            outputs.append(total)
        return outputs

    def _sum_at_once(self, values: list[list[Any]]) -> list[list[Any]]:
        """Return one part for each head: the sum of its parts, by one convolution of all parts of all heads.

        OpenVINO would fuse an addition with the convolution before it and run it last, head by head, so that the maps of all
        groups stayed in memory, which are large for large images.
        """
        by_group = [part for group in zip(*values, strict=True) for part in group]
        outputs = [self._module(name).out_channels for name in self._heads]
        weight = torch.eye(sum(outputs)).repeat(1, len(values[0]))[:, :, None, None]
        total = convolve(ops.concat(by_group, 1), constant(weight), stride=1, padding=0)
        parts = ops.variadic_split(total, ops.constant(np.array(1, np.int64)), ops.constant(np.array(outputs, np.int64)))
        return [[parts.output(i)] for i in range(len(outputs))]

    def _head(self, name: str, hidden: Any, part: slice) -> Any:
        """Build a head's sum over some channels, without the bias."""
        hidden = self._convolutions.source(name, hidden)
        head = self._module(name)
        outputs = head.out_channels
        if outputs > TAPPED_OUTPUTS:
            return convolve(hidden, self._convolutions.weight(name, head.weight, inputs=part), stride=1, padding=1)
        by_tap = head.weight.permute(2, 3, 0, 1).reshape(TAPS * outputs, -1, 1, 1)
        # The value of (tap, output) is added to its output, shifted by its tap.
        shifts = torch.eye(TAPS)[None, :, None, :] * torch.eye(outputs)[:, None, :, None]
        taps = convolve(hidden, self._convolutions.weight(name, by_tap, inputs=part), stride=1, padding=0)
        return convolve(taps, constant(shifts.reshape(outputs, TAPS * outputs, 3, 3)), stride=1, padding=1)

    def _conv(
        self,
        x: Any,
        name: str,
        *,
        weight: torch.Tensor | None = None,
        bias: torch.Tensor | None = None,
        outputs: slice = ALL,
        inputs: slice = ALL,
        add: Any = None,
        relu: bool = False,
        ready: bool = False,
    ) -> Any:
        """Build a convolution, and the operations that OpenVINO fuses with it.

        Args:
            x: The map to convolve.
            name: Name of the convolution in the network.
            weight: Weights in place of its own.
            bias: Bias in place of its own.
            outputs: Output channels to compute.
            inputs: Input channels that `x` has; the bias is added to the first ones only.
            add: A map to add.
            relu: Whether to apply ReLU6.
            ready: Whether `x` comes from `pooled_source`.
        """
        module = self._module(name)
        weight = module.weight if weight is None else weight
        bias = module.bias if bias is None else bias
        if module.groups > 1:
            # A depthwise convolution has as many groups as channels.
            weight = weight[:, None]
        x = x if ready else self._convolutions.source(name, x)
        y = convolve(x, self._convolutions.weight(name, weight, outputs, inputs), module.stride[0], int(module.padding[0]))
        if bias is not None:
            y = ops.add(y, _per_channel(torch.zeros_like(bias) if inputs.start else bias[outputs]))
        if add is not None:
            y = ops.add(y, add)
        return ops.clamp(y, 0.0, 6.0) if relu else y

    def _scale(self, x: Any, name: str, part: slice) -> Any:
        """Multiply each channel by its factor, which is a depthwise 1x1 convolution."""
        return ops.multiply(x, _per_channel(self._module(name).weight[part]))

    def _module(self, name: str) -> nn.Conv2d:
        module = self._network.get_submodule(name)
        assert isinstance(module, nn.Conv2d)
        return module

    def _stages(self, level: int) -> list[str]:
        """Return the names of the convolutions of chained residual pooling at a level."""
        return [f"crp{level}.0.{name}" for name, _ in self._network.get_submodule(f"crp{level}.0").named_children()]


def _convolutions_of(block: str) -> list[str]:
    """Return the names of a block's convolutions: expansion, depthwise, projection."""
    return [f"{block}.output.{part}.0" for part in range(3)]


def _per_channel(values: torch.Tensor) -> Any:
    return constant(values.reshape(1, -1, 1, 1))


def _group_channels(x: Any, channels: int) -> int:
    """Return how many channels of a block's inner map, which has the size of `x`, are computed at a time."""
    groups = [size for size in range(GROUP_CHANNELS, channels, GROUP_CHANNELS) if channels % size == 0]
    return next((size for size in (channels, *reversed(groups)) if _map_bytes(x, size) <= GROUP_BYTES), GROUP_CHANNELS)


def _map_bytes(x: Any, channels: int) -> int:
    """Return the bytes of a map of the size of `x` with this number of channels."""
    _, _, height, width = x.get_output_shape(0)
    return int(4 * channels * height * width)
