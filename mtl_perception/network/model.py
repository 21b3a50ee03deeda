"""Multi-task network: one encoder, one decoder, and two or three heads that split after the last CRP block.

Nekrasov et al., Real-Time Joint Semantic Segmentation and Depth Estimation Using Asymmetric Annotations, ICRA 2019,
arXiv 1809.04766.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from mtl_perception.network.description import Description
from mtl_perception.network.mobilenetv2 import MobileNetV2
from mtl_perception.network.refinenet import CHANNELS, RefineNetDecoder, conv1x1


class MultiTaskRefineNet(MobileNetV2, RefineNetDecoder):
    """Network for segmentation, depth and optionally surface normals in one forward pass.

    Args:
        description: Its classes and tasks define the heads.
    """

    def __init__(self, description: Description) -> None:
        # MobileNetV2.__init__ calls RefineNetDecoder.__init__ through super(), so that all names are in one flat namespace.
        super().__init__()
        self.description = description
        self.add_head("depth", 1)
        self.add_head("segm", len(description.classes))
        if "normals" in description.tasks:
            self.add_head("normal", 3)

    def add_head(self, name: str, outputs: int) -> None:
        """Add a head: 1x1 depthwise convolution, ReLU6, 3x3 convolution with bias."""
        self.add_module(f"pre_{name}", conv1x1(CHANNELS, groups=CHANNELS))
        self.add_module(name, nn.Conv2d(CHANNELS, outputs, 3, padding=1))

    def head(self, name: str, shared: Tensor) -> Tensor:
        """Return the output of the head `name` for the shared features."""
        hidden = F.relu6(self.get_submodule(f"pre_{name}")(shared))
        output: Tensor = self.get_submodule(name)(hidden)
        return output

    def shared(self, x: Tensor) -> Tensor:
        """Return the input of all heads, N x 256 x ceil(H / 4) x ceil(W / 4)."""
        return self.decode(self.encode(x), self.description.grid)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs of the published network, unchanged.

        Args:
            x: N x 3 x H x W float, RGB / 255, normalized with the description's mean and standard deviation.

        Returns:
            (logits N x C x h x w, depth N x 1 x h x w[, normals N x 3 x h x w]) with h = ceil(H / 4), w = ceil(W / 4).
            Depth is raw; the description's `depth_transform` converts it to meters.
        """
        shared = self.shared(x)
        outputs = [self.head("segm", shared), self.head("depth", shared)]
        if "normals" in self.description.tasks:
            outputs.append(self.head("normal", shared))
        return tuple(outputs)
