"""A run's state on disk: whole or not at all, the newest one last."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from mtl_perception.errors import ConfigError, SourceError

PATTERN = "step-*.checkpoint"
LATEST = "{}-latest.safetensors"
"""Name of the averaged weights at the newest checkpoint, with the name of the run filled in."""
KEPT = 2
"""Older ones are deleted: the last but one is there in case the last is unreadable."""


def save_checkpoint(folder: Path, step: int, state: dict[str, Any]) -> Path:
    """Write the state after `step` steps, then drop all but the newest ones.

    Raises:
        SourceError: The file cannot be written.
    """
    path = folder / f"step-{step:07d}.checkpoint"
    part = path.with_suffix(".part")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        torch.save({**state, "step": step}, part)
        os.replace(part, path)
        for old in sorted(folder.glob(PATTERN))[:-KEPT]:
            old.unlink()
    except (OSError, RuntimeError) as error:
        raise SourceError(f"{path}: the checkpoint cannot be written: {error}") from error
    return path


def newest_checkpoint(folder: Path) -> Path | None:
    """The last one of a run; None for a run that has none."""
    return max(folder.glob(PATTERN), default=None)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A state that `save_checkpoint` wrote; no code in the file is run.

    Raises:
        ConfigError: There is no such file, or it is no checkpoint.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged file
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(f"{path}: not a checkpoint that can be resumed: {reason}") from error
    if not isinstance(state, dict) or not {"network", "ema", "optimizer", "step"} <= set(state):
        raise ConfigError(f"{path}: not a checkpoint of a training run")
    return state
