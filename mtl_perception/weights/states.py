"""PyTorch checkpoints, read without executing code, and checks of their entries."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from torch import Tensor

from mtl_perception.errors import WeightsError, one_line, truncated_repr


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a PyTorch checkpoint by name in the file's order, without executing code.

    Raises:
        WeightsError: The file is damaged, contains code, or has no state dict.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # PyTorch's message explains how to load such a file nevertheless.
        raise WeightsError(
            f"{path}: cannot be read safely: it is damaged or contains more than tensors; no code in it was run"
        ) from error
    except Exception as error:  # PyTorch raises many types for a damaged file.
        raise WeightsError(f"{path}: cannot be read safely: {one_line(error)}") from error
    state = checkpoint.get("state_dict", checkpoint) if isinstance(checkpoint, dict) else None
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise WeightsError(f"{path}: not a checkpoint: it has no 'state_dict' of tensors")
    # Some training scripts leave the prefix of DataParallel.
    return {str(name).removeprefix("module."): value for name, value in state.items()}


def check_shape_and_dtype(where: str, name: str, found: Tensor, expected: Tensor) -> None:
    """Raise WeightsError unless an entry has the expected shape, layout and kind of dtype."""
    if found.shape != expected.shape:
        raise WeightsError(
            f"{where}: entry {truncated_repr(name)} has shape {truncated_repr(tuple(found.shape))}, "
            f"expected {tuple(expected.shape)}"
        )
    if found.layout != torch.strided or found.is_floating_point() != expected.is_floating_point():
        raise WeightsError(f"{where}: entry {truncated_repr(name)} is {found.layout} {found.dtype}, expected {expected.dtype}")


def check_finite(where: str, name: str, found: Tensor) -> None:
    """Raise WeightsError if a value is NaN or Inf."""
    if found.is_floating_point() and not bool(torch.isfinite(found).all()):
        raise WeightsError(f"{where}: entry {truncated_repr(name)} has non-finite values: the file is damaged")
