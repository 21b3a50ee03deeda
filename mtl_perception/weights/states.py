"""State dicts of foreign files: read without running what is in them, and checked entry by entry."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from torch import Tensor

from mtl_perception.errors import WeightsError, one_line, truncated_repr


def is_checkpoint(path: Path) -> bool:
    """Whether a file is a PyTorch checkpoint, told by its first bytes.

    Raises:
        WeightsError: It cannot be read.
    """
    try:
        with path.open("rb") as file:
            head = file.read(9)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror}") from error
    # A safetensors file may begin with any bytes, a pickle's among them, but its ninth is the brace of its header.
    return head[8:] != b"{" and head.startswith((b"PK", b"\x80"))


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The tensors of a PyTorch checkpoint by name, in the file's order; no code in it is run.

    Raises:
        WeightsError: Damaged, hostile, or without tensors.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # PyTorch's own text goes on to tell how to load such a file all the same.
        raise WeightsError(
            f"{path}: not a checkpoint that can be read safely: it holds more than tensors, or is damaged; it was not run"
        ) from error
    except Exception as error:  # torch raises many kinds for a damaged file
        raise WeightsError(f"{path}: not a checkpoint that can be read safely: {one_line(error)}") from error
    state = checkpoint.get("state_dict", checkpoint) if isinstance(checkpoint, dict) else None
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise WeightsError(f"{path}: a PyTorch file, but not a checkpoint with a 'state_dict' of tensors")
    # DataParallel's prefix, which some trainers leave in.
    return {str(name).removeprefix("module."): value for name, value in state.items()}


def check_shape_and_dtype(where: str, name: str, found: Tensor, expected: Tensor) -> None:
    """Raise WeightsError unless an entry has the shape, layout and kind of number that the network has there."""
    if found.shape != expected.shape:
        raise WeightsError(
            f"{where}: entry {truncated_repr(name)} has shape {truncated_repr(tuple(found.shape))}, "
            f"but the network needs {tuple(expected.shape)}"
        )
    if found.layout != torch.strided or found.is_floating_point() != expected.is_floating_point():
        raise WeightsError(
            f"{where}: entry {truncated_repr(name)} is {found.layout} {found.dtype}, but the network needs {expected.dtype}"
        )


def check_finite(where: str, name: str, found: Tensor) -> None:
    """Raise WeightsError where a value is NaN or infinite."""
    if found.is_floating_point() and not bool(torch.isfinite(found).all()):
        raise WeightsError(f"{where}: entry {truncated_repr(name)} has values that are not finite: the file is damaged")
