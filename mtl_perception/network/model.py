"""The network: one encoder, one decoder, two or three heads that part after the last pooling block.

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
    """Segmentation and depth, and for three tasks surface normals, in one forward pass.

    Args:
        description: What the network was made for; its classes and tasks set the heads.
    """

    def __init__(self, description: Description) -> None:
        # MobileNetV2.__init__ runs RefineNetDecoder.__init__ through super(), as both are bases: one flat name space.
        super().__init__()
        self.description = description
        self.add_head("depth", 1)
        self.add_head("segm", len(description.classes))
        if "normals" in description.tasks:
            self.add_head("normal", 3)

    def add_head(self, name: str, outputs: int) -> None:
        """A head: pointwise depthwise convolution, ReLU6, 3x3 convolution with bias."""
        self.add_module(f"pre_{name}", conv1x1(CHANNELS, groups=CHANNELS))
        self.add_module(name, nn.Conv2d(CHANNELS, outputs, 3, padding=1))

    def head(self, name: str, shared: Tensor) -> Tensor:
        """Output of the head `name` from the shared features."""
        hidden = F.relu6(self.get_submodule(f"pre_{name}")(shared))
        output: Tensor = self.get_submodule(name)(hidden)
        return output

    def shared(self, x: Tensor) -> Tensor:
        """The features that all heads read, N x 256 x ceil(H / 4) x ceil(W / 4), of what `forward` takes."""
        return self.decode(self.encode(x), self.description.grid)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """The published network's outputs, unchanged.

        Args:
            x: N x 3 x H x W float, RGB / 255, normalized by the description's mean and deviation.

        Returns:
            (logits N x C x h x w, depth N x 1 x h x w[, normals N x 3 x h x w]) with h = ceil(H / 4), w = ceil(W / 4).
            Depth is raw: the description's `depth_transform` makes meters of it.
        """
        shared = self.shared(x)
        outputs = [self.head("segm", shared), self.head("depth", shared)]
        if "normals" in self.description.tasks:
            outputs.append(self.head("normal", shared))
        return tuple(outputs)
