"""Running average of the weights, which is what is evaluated and written."""

from __future__ import annotations

import copy

import torch

from mtl_perception.network.model import MultiTaskRefineNet


class WeightAverage:
    """Exponential moving average of a network's parameters and buffers, on the device of the network.

    `network` is the averaged network, in eval mode. PyTorch's AveragedModel copies the network at its first update, also in a
    resumed run, and groups the tensors at every step.

    Args:
        live: Network in training. Its tensors must stay the same objects, as they do in an optimizer and `load_state_dict`.
        decay: Share of the average that one step keeps.
    """

    def __init__(self, live: MultiTaskRefineNet, decay: float) -> None:
        self.network = copy.deepcopy(live).eval().requires_grad_(False)
        self._decay = decay
        pairs = list(zip(self.network.state_dict().values(), live.state_dict().values(), strict=True))
        # One call over all tensors instead of one call each: a step on a GPU is bound by the number of calls.
        self._floats = [pair for pair in pairs if pair[0].is_floating_point()]
        self._counters = [pair for pair in pairs if not pair[0].is_floating_point()]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Add the weights after step `step` (from 0); a young average forgets faster, so that it does not keep the start."""
        decay = min(self._decay, (step + 1) / (step + 20))
        average, live = zip(*self._floats, strict=True)
        torch._foreach_lerp_(average, live, 1 - decay)
        average, live = zip(*self._counters, strict=True)
        torch._foreach_copy_(average, live)
