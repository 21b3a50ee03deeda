"""Depthwise convolution in mixed precision on a CPU."""

from __future__ import annotations

import torch
from torch import nn

from mtl_perception.network.mobilenetv2 import DepthwiseConv2d, MobileNetV2


def test_gradients_in_mixed_precision_are_those_of_float32() -> None:
    torch.manual_seed(0)
    depthwise = DepthwiseConv2d(8, 8, 3, 2, 1, groups=8, bias=False)
    x = torch.randn(2, 8, 16, 16).bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        y = depthwise(x)
    assert y.dtype == torch.bfloat16
    y.float().square().sum().backward()
    plain = nn.Conv2d(8, 8, 3, 2, 1, groups=8, bias=False)
    plain.load_state_dict(depthwise.state_dict())
    exact = plain(x.detach().float())
    exact.bfloat16().float().square().sum().backward()
    assert torch.equal(y.float(), exact.bfloat16().float())
    assert plain.weight.grad is not None
    assert torch.equal(depthwise.weight.grad, plain.weight.grad)


def test_outside_of_training_it_is_an_ordinary_convolution() -> None:
    torch.manual_seed(0)
    depthwise = DepthwiseConv2d(8, 8, 3, 1, 1, groups=8, bias=False)
    x = torch.randn(2, 8, 16, 16)
    assert torch.equal(depthwise(x), nn.Conv2d.forward(depthwise, x))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(depthwise(x.bfloat16()), nn.Conv2d.forward(depthwise, x.bfloat16()))


def test_all_3x3_depthwise_convolutions_of_the_encoder_are_of_this_kind() -> None:
    grouped = [module for module in MobileNetV2().modules() if isinstance(module, nn.Conv2d) and module.groups > 1]
    assert len(grouped) == 17 and all(isinstance(module, DepthwiseConv2d) for module in grouped)
