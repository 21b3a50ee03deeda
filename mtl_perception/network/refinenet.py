"""Decoder: Light-Weight RefineNet (Nekrasov et al., BMVC 2018, arXiv 1810.03272) with chained residual pooling."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from mtl_perception.network.grid import upsample
from mtl_perception.network.mobilenetv2 import feature_channels

CHANNELS = 256
CRP_STAGES = 4


def conv1x1(inputs: int, groups: int = 1) -> nn.Conv2d:
    """Return a 1x1 convolution to CHANNELS channels without bias, as used throughout the decoder."""
    return nn.Conv2d(inputs, CHANNELS, 1, groups=groups, bias=False)


def max_pool_5x5(x: Tensor) -> Tensor:
    """Maximum over 5 x 5, stride 1, same size.

    Pooling rows, then columns yields the same maximum with 10 reads instead of 25, in the forward pass and, through the stored
    indices, in the backward pass. Training on a CPU is faster with a single pooling, which stores half as many indices. Where
    several elements of a window are equal, the two ways may assign the gradient to different ones of them.
    """
    if x.requires_grad and x.device.type == "cpu":
        return F.max_pool2d(x, 5, 1, 2)
    return F.max_pool2d(F.max_pool2d(x, (1, 5), 1, (0, 2)), (5, 1), 1, (2, 0))


class ChainedResidualPooling(nn.Module):
    """Chained residual pooling: x + c1(p(x)) + c2(p(c1(p(x)))) + ..., context of increasing windows."""

    def __init__(self, depthwise: bool) -> None:
        super().__init__()
        for stage in range(1, CRP_STAGES + 1):
            self.add_module(f"{stage}_outvar_dimred", conv1x1(CHANNELS, groups=CHANNELS if depthwise else 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum of the input and the output of each stage."""
        top = x
        for stage in self.children():
            top = stage(max_pool_5x5(top))
            x = x + top
        return x


class RefineNetDecoder(nn.Module):
    """Decoder that fuses the encoder's features from stride 32 to stride 4, under the published names.

    Like `MobileNetV2`, a base class of the network, because these names are flat.
    """

    def __init__(self) -> None:
        super().__init__()
        for number, channels in enumerate(feature_channels(), start=3):
            self.add_module(f"conv{number}", conv1x1(channels))
        for level in (4, 3, 2, 1):
            # The published names contain the index of a Sequential.
            self.add_module(f"crp{level}", nn.Sequential(ChainedResidualPooling(depthwise=level == 1)))
            if level > 1:
                self.add_module(f"conv_adapt{level}", conv1x1(CHANNELS))

    def decode(self, features: Sequence[Tensor], grid: str) -> Tensor:
        """Return the shared features.

        Args:
            features: Features of `MobileNetV2.encode`.
            grid: Alignment of consecutive maps; see `grid.py`.

        Returns:
            N x 256 x h x w at stride 4.
        """
        f3, f4, f5, f6, f7, f8 = features
        x = self._refine(4, [self._project(8, f8), self._project(7, f7)])
        x = upsample(2, x, f6.shape[2:], grid)
        x = self._refine(3, [self._project(5, f5), self._project(6, f6), x])
        x = upsample(2, x, f4.shape[2:], grid)
        x = self._refine(2, [self._project(4, f4), x])
        x = upsample(2, x, f3.shape[2:], grid)
        return self._refine(1, [self._project(3, f3), x])

    def _project(self, number: int, feature: Tensor) -> Tensor:
        projected: Tensor = self.get_submodule(f"conv{number}")(feature)
        return projected

    def _refine(self, level: int, inputs: list[Tensor]) -> Tensor:
        """Apply sum, ReLU6 and chained residual pooling, then, except at level 1, a 1x1 convolution for the next level."""
        x = inputs[0]
        for other in inputs[1:]:
            x = x + other
        pooled: Tensor = self.get_submodule(f"crp{level}")(F.relu6(x))
        if level == 1:
            return pooled
        adapted: Tensor = self.get_submodule(f"conv_adapt{level}")(pooled)
        return adapted
