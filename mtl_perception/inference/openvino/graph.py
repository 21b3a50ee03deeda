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
from collections.abc import Sequence
from typing import Any

import numpy as np
import openvino as ov
import torch
from openvino import opset13 as ops
from torch import nn

from mtl_perception.network.folding import fold_batch_norm
from mtl_perception.network.grid import upsampled_size
from mtl_perception.network.mobilenetv2 import STAGES, InvertedResidual
from mtl_perception.network.model import MultiTaskRefineNet
from mtl_perception.network.refinenet import CHANNELS

GROUP_BYTES = 2**28
"""Largest map inside a block that is computed at once; that of an 8K image has 3.2 GB."""
GROUP_CHANNELS = 16
"""Fewest channels of a group: a vector unit's lanes."""
CHANNEL_GROUPS = 8
"""Channel groups at level 1: the fastest of 4, 8 and 16 at 1242 x 375, where a group's map has 3.7 MB."""
POOL_REACH = 2
"""Rows above and below that a 5x5 pooling reads."""
TAPPED_OUTPUTS = 6
"""Number of outputs up to which a head's convolution by taps multiplies less than one padded to sixteen outputs."""
TAPS = 9


def openvino_model(network: MultiTaskRefineNet, height: int, width: int) -> ov.Model:
    """Build the network for images of one size.

    Args:
        network: What `load_network` returns; it is not changed.
        height: Height of the network's input.
        width: Width of the network's input.

    Returns:
        A model of one input, 1 x H x W x 3 uint8 RGB, and the network's outputs, each 1 x C x h x w float32.
    """
    return _Builder(network).build(height, width)


class _Builder:
    """Build operators; maps have the layout N x C x H x W, which OpenVINO stores with the channels last."""

    def __init__(self, network: MultiTaskRefineNet) -> None:
        self._network = fold_batch_norm(network)
        self._heads = ["segm", "depth", *(["normal"] if "normals" in network.description.tasks else [])]

    def build(self, height: int, width: int) -> ov.Model:
        image = ops.parameter([1, height, width, 3], np.uint8, name="image")
        outputs = self._decode(self._encode(image))
        return ov.Model([ops.result(output) for output in outputs], [image], "mtl_perception")

    def _encode(self, image: Any) -> list[Any]:
        description = self._network.description
        pixels = ops.convert(image, np.float32)
        centered = ops.subtract(pixels, _constant(255 * np.array(description.mean)))
        planes = ops.transpose(centered, ops.constant(np.array([0, 3, 1, 2], np.int64)))
        first = self._convolution("layer1.0")
        scale = 1 / (255 * torch.tensor(description.std, dtype=torch.float64))
        x = self._conv(planes, first, weight=(first.weight.double() * scale[None, :, None, None]).float(), relu=True)
        features = []
        for number in range(2, 2 + len(STAGES)):
            for block in self._network.get_submodule(f"layer{number}").children():
                assert isinstance(block, InvertedResidual)
                last = number == 1 + len(STAGES)
                x = self._last_block(x, block) if last else self._block(x, block)
            if number >= 3:
                features.append(x)
        return features

    def _block(self, x: Any, block: InvertedResidual) -> Any:
        expand, spatial, project = (_first(part) for part in block.output.children())
        channels = _group_channels(x, expand.out_channels)
        total = x if block.is_residual else None
        for first in range(0, expand.out_channels, channels):
            part = slice(first, first + channels)
            hidden = self._conv(x, expand, weight=expand.weight[part], bias=expand.bias[part], relu=True)
            hidden = self._conv(hidden, spatial, weight=spatial.weight[part], bias=spatial.bias[part], relu=True)
            bias = torch.zeros_like(project.bias) if first else project.bias
            total = self._conv(hidden, project, weight=project.weight[:, part], bias=bias, add=total)
        return total

    def _last_block(self, x: Any, block: InvertedResidual) -> Any:
        """Build the last block, with the decoder's conv8 merged into its last convolution: nothing else reads that block."""
        expand, spatial, project = (_first(part) for part in block.output.children())
        assert project.bias is not None
        hidden = self._conv(self._conv(x, expand, relu=True), spatial, relu=True)
        after = self._convolution("conv8").weight[:, :, 0, 0].double()
        weight = after @ project.weight[:, :, 0, 0].double()
        return self._conv(
            hidden, project, weight=weight[:, :, None, None].float(), bias=(after @ project.bias.double()).float()
        )

    def _decode(self, features: list[Any]) -> list[Any]:
        f3, f4, f5, f6, f7, projected8 = features
        x = self._pool(4, self._project(7, f7, add=projected8))
        x = self._upsample(self._conv(x, self._convolution("conv_adapt4")), f6)
        x = self._pool(3, self._project(6, f6, add=self._project(5, f5, add=x)))
        x = self._upsample(self._conv(x, self._convolution("conv_adapt3")), f4)
        x = self._pool(2, self._project(4, f4, add=x))
        return self._level1(f3, x)

    def _upsample(self, x: Any, finer: Any) -> Any:
        """Upsample a map to the size of the one of half its stride; see `network/grid.py`."""
        cells, size = (list(one.get_output_shape(0))[2:] for one in (x, finer))
        upsampled = upsampled_size(cells, 2, size, self._network.description.grid)
        x = _resize(x, upsampled)
        for axis, (large, kept) in enumerate(zip(upsampled, size, strict=True), start=2):
            if large > kept:
                x = ops.slice(x, *(ops.constant(np.array([value], np.int64)) for value in (0, kept, 1, axis)))
        return x

    def _project(self, number: int, feature: Any, add: Any) -> Any:
        return self._conv(feature, self._convolution(f"conv{number}"), add=add)

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
            top = total = _rows(x, start, stop)
            for stage in stages:
                top = self._conv(_max_pool_5x5(top), stage)
                total = ops.add(total, top)
            bands.append(_rows(total, first - start, min(first + rows, height) - start))
        return bands[0] if len(bands) == 1 else ops.concat(bands, 2)

    def _level1(self, f3: Any, x: Any) -> list[Any]:
        """Build the last level and the heads, one group of channels at a time."""
        adapt, project = self._convolution("conv_adapt2"), self._convolution("conv3")
        size = CHANNELS // CHANNEL_GROUPS
        values: list[list[Any]] = [[] for _ in self._heads]
        for first in range(0, CHANNELS, size):
            part = slice(first, first + size)
            coarse = self._upsample(self._conv(x, adapt, weight=adapt.weight[part]), f3)
            top = total = ops.clamp(self._conv(f3, project, weight=project.weight[part], add=coarse), 0.0, 6.0)
            for stage in self._stages(1):
                top = ops.multiply(_max_pool_5x5(top), _constant(stage.weight[part].reshape(1, -1, 1, 1)))
                total = ops.add(total, top)
            for i, name in enumerate(self._heads):
                scale = self._convolution(f"pre_{name}").weight[part].reshape(1, -1, 1, 1)
                hidden = ops.clamp(ops.multiply(total, _constant(scale)), 0.0, 6.0)
                values[i].append(self._head(name, hidden, part))
        if _map_bytes(f3, CHANNELS) > GROUP_BYTES:
            values = self._sum_at_once(values)
        outputs = []
        for name, parts in zip(self._heads, values, strict=True):
            bias = self._convolution(name).bias
            assert bias is not None
            total = ops.add(parts[0], _constant(bias.reshape(1, -1, 1, 1)))
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
        outputs = [self._convolution(name).out_channels for name in self._heads]
        weight = torch.eye(sum(outputs)).repeat(1, CHANNEL_GROUPS)[:, :, None, None]
        total = _convolve(ops.concat(by_group, 1), weight, stride=1, padding=0)
        parts = ops.variadic_split(total, ops.constant(np.array(1, np.int64)), ops.constant(np.array(outputs, np.int64)))
        return [[parts.output(i)] for i in range(len(outputs))]

    def _head(self, name: str, hidden: Any, part: slice) -> Any:
        """Build a head's sum over some channels, without the bias."""
        head = self._convolution(name)
        outputs, weight = head.out_channels, head.weight[:, part]
        if outputs > TAPPED_OUTPUTS:
            values = _convolve(hidden, weight, stride=1, padding=1)
        else:
            by_tap = weight.permute(2, 3, 0, 1).reshape(TAPS * outputs, -1, 1, 1)
            # The value of (tap, output) is added to its output, shifted by its tap.
            shifts = torch.eye(TAPS)[None, :, None, :] * torch.eye(outputs)[:, None, :, None]
            taps = _convolve(hidden, by_tap, stride=1, padding=0)
            values = _convolve(taps, shifts.reshape(outputs, TAPS * outputs, 3, 3), stride=1, padding=1)
        return values

    def _conv(
        self,
        x: Any,
        convolution: nn.Conv2d,
        *,
        weight: torch.Tensor | None = None,
        bias: torch.Tensor | None = None,
        add: Any = None,
        relu: bool = False,
    ) -> Any:
        """Build a convolution with its own or other weights, and the operations that OpenVINO fuses with it."""
        weight = convolution.weight if weight is None else weight
        bias = convolution.bias if bias is None else bias
        # A depthwise convolution has as many groups as channels.
        groups = len(weight) if convolution.groups > 1 else 1
        y = _convolve(x, weight, convolution.stride[0], int(convolution.padding[0]), groups)
        if bias is not None:
            y = ops.add(y, _constant(bias.reshape(1, -1, 1, 1)))
        if add is not None:
            y = ops.add(y, add)
        return ops.clamp(y, 0.0, 6.0) if relu else y

    def _convolution(self, name: str) -> nn.Conv2d:
        module = self._network.get_submodule(name)
        assert isinstance(module, nn.Conv2d)
        return module

    def _stages(self, level: int) -> list[nn.Conv2d]:
        block = _first(self._network.get_submodule(f"crp{level}"), nn.Module)
        return [stage for stage in block.children() if isinstance(stage, nn.Conv2d)]


def _group_channels(x: Any, channels: int) -> int:
    """Return how many channels of a block's inner map, which has the size of `x`, are computed at a time."""
    groups = [size for size in range(GROUP_CHANNELS, channels, GROUP_CHANNELS) if channels % size == 0]
    return next((size for size in (channels, *reversed(groups)) if _map_bytes(x, size) <= GROUP_BYTES), GROUP_CHANNELS)


def _map_bytes(x: Any, channels: int) -> int:
    """Return the bytes of a map of the size of `x` with this number of channels."""
    _, _, height, width = x.get_output_shape(0)
    return int(4 * channels * height * width)


def _first(sequence: nn.Module, kind: type[Any] = nn.Conv2d) -> Any:
    module = next(sequence.children())
    assert isinstance(module, kind)
    return module


def _convolve(x: Any, weight: torch.Tensor, stride: int, padding: int, groups: int = 1) -> Any:
    steps, border = [stride, stride], [padding, padding]
    if groups == 1:
        return ops.convolution(x, _constant(weight), steps, border, border, [1, 1])
    outputs, inputs, *kernel = weight.shape
    grouped = _constant(weight.reshape(groups, outputs // groups, inputs, *kernel))
    return ops.group_convolution(x, grouped, steps, border, border, [1, 1])


def _max_pool_5x5(x: Any) -> Any:
    """Pool rows, then columns: the same maximum with 10 instead of 25 reads."""
    rows = ops.max_pool(x, [1, 1], [1, 1], [0, 2], [0, 2], [1, 5], "floor", "explicit").output(0)
    return ops.max_pool(rows, [1, 1], [1, 1], [2, 0], [2, 0], [5, 1], "floor", "explicit").output(0)


def _rows(x: Any, first: int, stop: int) -> Any:
    """Return some rows of a map; the map itself if these are all."""
    if (first, stop) == (0, x.get_output_shape(0)[2]):
        return x
    return ops.slice(x, *(ops.constant(np.array([value], np.int64)) for value in (first, stop, 1, 2)))


def _resize(x: Any, size: Sequence[int]) -> Any:
    """Resize bilinearly to a height and width; pixel centers as with PyTorch's align_corners=False."""
    target = ops.constant(np.array(size, np.int64))
    axes = ops.constant(np.array([2, 3], np.int64))
    return ops.interpolate(x, target, "linear_onnx", "sizes", [0, 0], [0, 0], "half_pixel", axes=axes)


def _constant(values: Any) -> Any:
    return ops.constant(np.ascontiguousarray(np.asarray(values, np.float32)))
