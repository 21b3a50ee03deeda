"""Encoders to initialize training with: torchvision's, an encoder's state dict, or the encoder of a whole network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from mtl_perception.errors import WeightsError
from mtl_perception.network.mobilenetv2 import STAGES, STEM_CHANNELS, MobileNetV2
from mtl_perception.weights.files import load_network
from mtl_perception.weights.metadata import is_checkpoint
from mtl_perception.weights.registry import resolve
from mtl_perception.weights.states import check_finite, check_shape_and_dtype, read_state_dict

FIRST_EXPANSION = "layer2.0.output.0"
"""Expansion by a factor of 1, which torchvision omits."""
UNUSED = ("features.18.", "classifier.")
"""Entries of torchvision's classifier that the encoder lacks: the convolution to 1280 channels, and the classifier."""
COUNTER = "num_batches_tracked"


def load_encoder(path_or_name: str | Path) -> dict[str, Tensor]:
    """Load the parameters of an encoder under the names `layer1.*` to `layer8.*`.

    Args:
        path_or_name: torchvision's mobilenet_v2 file, an encoder's state dict under these names, a whole network's weights
            file, or the name of shipped or fetched weights (`mtl_perception weights list`; `imagenet` is short for
            `mobilenetv2-imagenet`). Nothing is downloaded.

    Returns:
        All of `MobileNetV2().state_dict()`, on the CPU: float32, and int64 for batch norm's counters.
        torchvision's first block has no expansion; here it gets one that is an identity in eval mode.

    Raises:
        WeightsError: There is no such file or name, the file cannot be read safely, or an entry is missing, unexpected,
            mismatched or non-finite.
    """
    path = resolve(path_or_name, encoder=True)
    with torch.device("meta"):
        expected = MobileNetV2().state_dict()
    state = read_state_dict(path) if is_checkpoint(path) else None
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
    """Return the name in torchvision's mobilenet_v2 of each convolution and batch norm by its name here."""
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
                # In torchvision, convolution and batch norm of the projection are direct children of the block.
                modules[f"{ours}.2.{part}"] = f"{theirs}.{2 - first + part}"
    return modules


def _first_expansion() -> dict[str, Tensor]:
    """Return an identity expansion; ReLU6 changes nothing because the output of layer1 is within 0 to 6."""
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
    """Return the checked entries of `state` renamed; `names` maps the name here to the file's."""
    fitted = {}
    for name, theirs in names.items():
        want = expected[name]
        if theirs not in state:
            # Older files lack these counters, which inference does not use.
            if name.endswith(COUNTER):
                fitted[name] = torch.tensor(0)
                continue
            raise WeightsError(
                f"{where}: entry {theirs!r} {tuple(want.shape)} is missing: the MobileNetV2 encoder is incomplete"
            )
        found = state[theirs]
        check_shape_and_dtype(where, theirs, found, want)
        check_finite(where, theirs, found)
        fitted[name] = found.detach().to(want.dtype)
    known = set(names.values())
    for theirs in state:
        if theirs not in known:
            raise WeightsError(
                f"{where}: unexpected entry {theirs!r} {tuple(state[theirs].shape)}: not a parameter of this encoder"
            )
    return fitted
