"""Encoders to start a training from: torchvision's published one, one alone in a file, or that of a whole network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from mtl_perception.errors import WeightsError
from mtl_perception.network.mobilenetv2 import STAGES, STEM_CHANNELS, MobileNetV2
from mtl_perception.weights.files import load_network
from mtl_perception.weights.registry import resolve
from mtl_perception.weights.states import check_finite, check_shape_and_dtype, is_checkpoint, read_checkpoint

FIRST_EXPANSION = "layer2.0.output.0"
"""It expands by the factor 1: torchvision leaves it out."""
UNUSED = ("features.18.", "classifier.")
"""What torchvision's classifier has beyond our encoder: the last convolution, to 1280 channels, and the classes."""
COUNTER = "num_batches_tracked"


def load_encoder(path_or_name: str | Path) -> dict[str, Tensor]:
    """The encoder's parameters under our names, `layer1.*` to `layer8.*`, of any file that holds them.

    Args:
        path_or_name: torchvision's mobilenet_v2 file, an encoder's state_dict under our names, a whole network's weights
            file, the name of shipped weights, or of published ones already fetched (`mtl_perception weights list`;
            `imagenet` is short for `mobilenetv2-imagenet`). Nothing is downloaded here.

    Returns:
        All of `MobileNetV2().state_dict()`, on the CPU: float32, and int64 for batch norm's counters.
        torchvision's first block has no expansion; here it gets one that changes nothing as long as batch norm uses its
        stored statistics, as in eval mode.

    Raises:
        WeightsError: No such file or name, a file that cannot be read safely, or its first entry that is missing, surplus,
            misshapen or not finite.
    """
    path = resolve(path_or_name, encoder=True)
    with torch.device("meta"):
        expected = MobileNetV2().state_dict()
    state = read_checkpoint(path) if is_checkpoint(path) else None
    if state is None or "segm.weight" in state:
        network = load_network(path).state_dict()
        return {name: network[name] for name in expected}
    if not any(name.startswith("features.") for name in state):
        return _fitted(state, expected, {name: name for name in expected}, where=str(path))
    modules = _torchvision_modules()
    names = {}
    for name in expected:
        module, _, leaf = name.rpartition(".")
        if module in modules:
            names[name] = f"{modules[module]}.{leaf}"
    state = {name: value for name, value in state.items() if not name.startswith(UNUSED)}
    return _first_expansion() | _fitted(state, expected, names, where=str(path))


def _torchvision_modules() -> dict[str, str]:
    """Our name of each convolution and batch norm -> its name in torchvision's mobilenet_v2, where it is there."""
    modules = {f"layer1.{part}": f"features.0.{part}" for part in (0, 1)}
    place = 0
    for number, (expansion, _, blocks, _) in enumerate(STAGES, start=2):
        first = 1 if expansion == 1 else 0
        for block in range(blocks):
            place += 1
            ours, theirs = f"layer{number}.{block}.output", f"features.{place}.conv"
            for part in (0, 1):
                for unit in range(first, 2):
                    modules[f"{ours}.{unit}.{part}"] = f"{theirs}.{unit - first}.{part}"
                # There the projection is no unit of its own: its convolution and batch norm lie beside the units.
                modules[f"{ours}.2.{part}"] = f"{theirs}.{2 - first + part}"
    return modules


def _first_expansion() -> dict[str, Tensor]:
    """Parameters that let through what comes from layer1, which its ReLU6 keeps within 0..6: so this one changes nothing."""
    channels = STEM_CHANNELS
    variance = 1 - nn.BatchNorm2d(1).eps
    return {
        f"{FIRST_EXPANSION}.0.weight": torch.eye(channels).reshape(channels, channels, 1, 1),
        f"{FIRST_EXPANSION}.1.weight": torch.ones(channels),
        f"{FIRST_EXPANSION}.1.bias": torch.zeros(channels),
        f"{FIRST_EXPANSION}.1.running_mean": torch.zeros(channels),
        f"{FIRST_EXPANSION}.1.running_var": torch.full((channels,), variance),
        f"{FIRST_EXPANSION}.1.{COUNTER}": torch.tensor(0),
    }


def _fitted(
    state: Mapping[str, Tensor], expected: Mapping[str, Tensor], names: Mapping[str, str], where: str
) -> dict[str, Tensor]:
    """The entries of `state` under our names, each checked; `names` maps our name to the file's."""
    fitted = {}
    for name, theirs in names.items():
        want = expected[name]
        if theirs not in state:
            # Files older than these counters are complete without: nothing is computed from them.
            if name.endswith(COUNTER):
                fitted[name] = torch.tensor(0)
                continue
            raise WeightsError(f"{where}: entry {theirs!r} {tuple(want.shape)} is missing: not a whole MobileNetV2 encoder")
        found = state[theirs]
        check_shape_and_dtype(where, theirs, found, want)
        check_finite(where, theirs, found)
        fitted[name] = found.detach().to(want.dtype)
    known = set(names.values())
    for theirs in state:
        if theirs not in known:
            raise WeightsError(
                f"{where}: surplus entry {theirs!r} {tuple(state[theirs].shape)}: not a parameter of this encoder"
            )
    return fitted
