"""Weights files: safetensors with a description in the metadata, and published checkpoints."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from mtl_perception.errors import WeightsError, truncated_repr
from mtl_perception.network.description import Description
from mtl_perception.network.model import MultiTaskRefineNet
from mtl_perception.threads import single_thread
from mtl_perception.visualization.files import replacing
from mtl_perception.weights.metadata import (
    FORMAT_VERSION,
    METADATA_KEY,
    describe_published,
    is_checkpoint,
    open_safetensors,
    parse_metadata,
)
from mtl_perception.weights.registry import resolve
from mtl_perception.weights.states import check_finite, check_shape_and_dtype, read_state_dict


def load_network(path_or_name: str | Path) -> MultiTaskRefineNet:
    """Load a network for inference.

    Args:
        path_or_name: A file (safetensors of this package, or a published checkpoint), the name of shipped weights (`street`),
            or the name of fetched published weights (`mtl_perception weights list`). Nothing is downloaded.

    Returns:
        The network in eval mode, float32, on the CPU, with its `description`.

    Raises:
        WeightsError: There is no such file or name, the file is damaged, or entries are missing, unexpected or mismatched.
    """
    path = resolve(path_or_name)
    state, description = read_weights(path)
    return build_network(description, state, where=str(path))


def build_network(description: Description, state: Mapping[str, Tensor], where: str) -> MultiTaskRefineNet:
    """Build a network with these parameters; every expected entry must be present and no other.

    Raises:
        WeightsError: An entry is missing, unexpected, mismatched or non-finite; the message names the first one.
    """
    with torch.device("meta"):
        network = MultiTaskRefineNet(description)
    expected = network.state_dict()
    for name, tensor in expected.items():
        if name not in state:
            raise WeightsError(f"{where}: entry {name!r} {tuple(tensor.shape)} is missing")
        check_shape_and_dtype(where, name, state[name], tensor)
    for name in state:
        if name not in expected:
            raise WeightsError(
                f"{where}: unexpected entry {truncated_repr(name)} {truncated_repr(tuple(state[name].shape))}: "
                "not a parameter of this network"
            )
    with single_thread():
        converted = {name: state[name].to(tensor.dtype) for name, tensor in expected.items()}
        for name, tensor in converted.items():
            check_finite(where, name, tensor)
    network.load_state_dict(converted, strict=True, assign=True)
    return network.eval().requires_grad_(False)


def read_weights(path: Path) -> tuple[dict[str, Tensor], Description]:
    """Read parameters and description of a safetensors file or a published checkpoint.

    Raises:
        WeightsError: The file is neither.
    """
    if is_checkpoint(path):
        state = read_state_dict(path)
        return state, describe_published(path, state)
    return _read_own(path)


def _read_own(path: Path) -> tuple[dict[str, Tensor], Description]:
    with open_safetensors(path, "pt") as file:
        metadata = file.metadata()
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    return state, parse_metadata(path, metadata)


def save_weights(
    path: Path, state: Mapping[str, Tensor], description: Description, half: bool = True, exact: Collection[str] = ()
) -> None:
    """Write a safetensors file with its description, atomically.

    Args:
        path: Output path; an existing file is replaced once the new one is complete.
        state: Parameters under the published names.
        description: Description stored in the metadata.
        half: Store floating-point values as float16 (half the size, relative error below 1e-3).
        exact: Names of entries that keep their type even so.

    Raises:
        WeightsError: A value is too large for float16.
        SourceError: The file cannot be written.
    """
    tensors = {}
    for name, tensor in state.items():
        rounded = half and tensor.is_floating_point() and name not in exact
        kept = tensor.detach().to("cpu", torch.float16 if rounded else tensor.dtype)
        if kept.is_floating_point() and not bool(torch.isfinite(kept).all()):
            raise WeightsError(f"{path}: not written: entry {name!r} has values beyond the range of {kept.dtype}")
        # safetensors refuses entries that share memory.
        tensors[name] = kept.clone(memory_format=torch.contiguous_format)
    _write(path, tensors, description)


def replace_description(source: Path, out: Path, description: Description) -> None:
    """Write a weights file with another description; its parameters stay as they are stored.

    Args:
        source: Weights file of this package.
        out: Output path, which may be `source`; an existing file is replaced once the new one is complete.
        description: Description stored in the metadata.

    Raises:
        WeightsError: The source is a published checkpoint, or cannot be read.
        SourceError: The file cannot be written.
    """
    if is_checkpoint(source):
        raise WeightsError(f"{source}: a published checkpoint has no description; convert it first (weights convert)")
    _write(out, _read_own(source)[0], description)


def _write(path: Path, tensors: Mapping[str, Tensor], description: Description) -> None:
    """Write a safetensors file atomically."""
    data = save(dict(tensors), metadata={METADATA_KEY: description.to_json(), "format": str(FORMAT_VERSION)})
    with replacing(path) as part:
        part.write_bytes(data)
