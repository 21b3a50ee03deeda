"""Encoder: MobileNetV2 (Sandler et al., CVPR 2018, arXiv 1801.04381, table 2) up to stride 32."""

from __future__ import annotations

import torch
from torch import Tensor, nn

# Expansion, output channels, number of blocks and first stride of layer2 to layer8; layer1 is a 3x3 convolution of stride 2.
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
STEM_CHANNELS = 32


class DepthwiseConv2d(nn.Conv2d):
    """Depthwise convolution that trains in float32 on a CPU, also in mixed precision.

    In bfloat16 oneDNN computes its gradients up to 8 times slower than in float32, all other convolutions two to three times
    faster.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return the output in the type of the input."""
        if (
            x.dtype == torch.float32
            or x.device.type != "cpu"
            or not (torch.is_grad_enabled() and torch.is_autocast_enabled("cpu"))
        ):
            return super().forward(x)
        with torch.autocast("cpu", enabled=False):
            return super().forward(x.float()).to(x.dtype)


def conv_bn(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, relu: bool = True) -> nn.Sequential:
    """Return a convolution with symmetric padding, batch norm and, by default, ReLU6."""
    parts: list[nn.Module] = [
        (DepthwiseConv2d if groups > 1 else nn.Conv2d)(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    if relu:
        parts.append(nn.ReLU6(inplace=True))
    return nn.Sequential(*parts)


class InvertedResidual(nn.Module):
    """Inverted residual block: 1x1 expansion, 3x3 depthwise convolution, linear 1x1 projection, and a skip connection."""

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.is_residual = stride == 1 and inputs == outputs
        self.output = nn.Sequential(
            conv_bn(inputs, hidden, 1),
            conv_bn(hidden, hidden, 3, stride, groups=hidden),
            conv_bn(hidden, outputs, 1, relu=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output; the input is added where stride and channels allow it."""
        y: Tensor = self.output(x)
        return x + y if self.is_residual else y


class MobileNetV2(nn.Module):
    """Layers of MobileNetV2 under the published names layer1 to layer8.

    This is a base class of the network instead of a submodule because the published parameter names are flat.
    """

    def __init__(self) -> None:
        super().__init__()
        self.layer1 = conv_bn(3, STEM_CHANNELS, 3, stride=2)
        inputs = STEM_CHANNELS
        for number, (expansion, outputs, blocks, first_stride) in enumerate(STAGES, start=2):
            stage = []
            for block in range(blocks):
                stage.append(InvertedResidual(inputs, outputs, expansion, first_stride if block == 0 else 1))
                inputs = outputs
            self.add_module(f"layer{number}", nn.Sequential(*stage))

    def encode(self, x: Tensor) -> list[Tensor]:
        """Return the features of layer3 to layer8.

        Args:
            x: N x 3 x H x W, normalized.

        Returns:
            Six tensors with 24, 32, 64, 96, 160 and 320 channels at strides 4, 8, 16, 16, 32 and 32 (sizes rounded up).
        """
        features: list[Tensor] = []
        for number in range(1, 9):
            x = self.get_submodule(f"layer{number}")(x)
            if number >= 3:
                features.append(x)
        return features


def feature_channels() -> tuple[int, ...]:
    """Return the number of channels of each feature map of `MobileNetV2.encode`."""
    return tuple(outputs for _, outputs, _, _ in STAGES[1:])
