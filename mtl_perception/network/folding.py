"""Batch norms folded into the convolutions before them."""

from __future__ import annotations

import copy

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from mtl_perception.network.model import MultiTaskRefineNet


def fold_batch_norm(network: MultiTaskRefineNet) -> MultiTaskRefineNet:
    """Return a copy of a network that computes the same function without batch norms, for inference."""
    network = copy.deepcopy(network)
    for module in list(network.modules()):
        if isinstance(module, nn.Sequential) and len(module) > 1 and isinstance(module[1], nn.BatchNorm2d):
            convolution = module[0]
            assert isinstance(convolution, nn.Conv2d)
            # In double precision, so that folding rounds only once.
            module[0] = fuse_conv_bn_eval(convolution.double(), module[1].double()).float()
            module[1] = nn.Identity()
    return network.eval().requires_grad_(False)
