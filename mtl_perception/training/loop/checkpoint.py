"""Checkpoints of a run. Each file is replaced atomically."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from mtl_perception.errors import ConfigError, SourceError
from mtl_perception.visualization.files import replacing

PATTERN = "step-*.checkpoint"
LATEST = "{}-latest.safetensors"
"""Name of the averaged weights at the newest checkpoint, with the name of the run filled in."""
KEPT = 2
"""Checkpoints that are kept: the one before the newest is there in case the newest is unreadable."""


def save_checkpoint(folder: Path, step: int, state: dict[str, Any]) -> Path:
    """Write the state after `step` steps, and delete all checkpoints but this one and the one before it.

    Raises:
        SourceError: The file cannot be written.
    """
    path = folder / f"step-{step:07d}.checkpoint"
    try:
        with replacing(path) as part:
            torch.save({**state, "step": step}, part)
        files = sorted(folder.glob(PATTERN))
        end = files.index(path) + 1
        # Later ones are left from before the run resumed at an older checkpoint; the next session must not continue there.
        for other in (*files[: max(end - KEPT, 0)], *files[end:]):
            other.unlink()
    except (OSError, RuntimeError) as error:
        raise SourceError(f"checkpoint {path} cannot be written: {error}") from error
    return path


def newest_checkpoint(folder: Path) -> Path | None:
    """Return the newest checkpoint of a run; None if it has none."""
    return max(folder.glob(PATTERN), default=None)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a state written by `save_checkpoint`, without running code from the file.

    Raises:
        ConfigError: There is no such file, or it is not a checkpoint.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types for a damaged file
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(f"checkpoint {path} cannot be read: {reason}") from error
    if not isinstance(state, dict) or not {"network", "ema", "optimizer", "step"} <= set(state):
        raise ConfigError(f"{path} is not a checkpoint of a training run")
    return state
