"""Log file and sample images of a run."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mtl_perception.network.grid import STRIDE, upsample
from mtl_perception.network.model import MultiTaskRefineNet
from mtl_perception.training.config import TrainConfig
from mtl_perception.visualization.colors import colorize_depth, colorize_labels
from mtl_perception.visualization.files import replacing, writing
from mtl_perception.visualization.image_files import write_image

COLUMNS = ("step", "segmentation", "depth", "sky", "rate", "seconds", "saturated")
SMOOTHING = 0.95
SAMPLE_IMAGES = 3
"""Rows of a sample sheet: few, because a run waits until it is drawn."""


@dataclass(frozen=True)
class LoggedStep:
    """One line of the log.

    Attributes:
        step: Number of steps done.
        losses: 3 float32: segmentation, depth, sky.
        rate: Learning rate of the decoder.
        seconds: Training time, over all sessions of the run.
    """

    step: int
    losses: np.ndarray
    rate: float
    seconds: float


class Journal:
    """Log and sample images in the folder of the run.

    Args:
        out: The folder.
        config: The run.
        step: First step of this session; log lines of later steps, which an interrupted session left, are dropped.

    Raises:
        SourceError: The log cannot be written.
    """

    def __init__(self, out: Path, config: TrainConfig, step: int) -> None:
        self.line = ""
        self._path = out / "log.csv"
        self._samples = out / "samples"
        self._max_depth = config.depth.range[1]
        self._mean: np.ndarray | None = None
        self._saturated = ""
        with writing(self._path):
            self._samples.mkdir(parents=True, exist_ok=True)
            self._truncate(step)

    def write(self, steps: Sequence[LoggedStep]) -> None:
        """Append these steps to the log, and update the smoothed losses in `line`.

        Raises:
            SourceError: The log cannot be written.
        """
        rows = []
        for entry in steps:
            self._mean = entry.losses if self._mean is None else SMOOTHING * self._mean + (1 - SMOOTHING) * entry.losses
            losses = [f"{value:.5f}" for value in entry.losses]
            rows.append([entry.step, *losses, f"{entry.rate:.3g}", f"{entry.seconds:.1f}", self._saturated])
            self._saturated = ""
        if self._mean is not None:
            self.line = f"segmentation {self._mean[0]:.3f} depth {self._mean[1]:.3f}"
        with writing(self._path), self._path.open("a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(rows)

    def write_samples(self, step: int, network: MultiTaskRefineNet, batch: dict[str, Tensor], dtype: torch.dtype) -> None:
        """Write truth and prediction of the first images of a batch, and measure the share of saturated units.

        Args:
            step: Number of steps done.
            network: Averaged network in eval mode, on the device of the training.
            batch: What the loader yields, on the CPU.
            dtype: Arithmetic of the network.
        """
        images, true_labels, true_depths = (batch[name][:SAMPLE_IMAGES].numpy() for name in ("image", "labels", "depth"))
        labels, depths, saturated = _predict(network, batch["image"][:SAMPLE_IMAGES], dtype)
        self._saturated = f"{saturated:.3f}"
        classes, _ = network.description.class_set()
        rows = []
        for i, image in enumerate(images):
            colors = [colorize_labels(ids[i], classes) for ids in (true_labels, labels)]
            rows.append(np.hstack([image, *colors, *(self._colorize(meters[i]) for meters in (true_depths, depths))]))
        write_image(self._samples / f"step-{step:07d}.jpg", np.vstack(rows))

    def _colorize(self, depth: np.ndarray) -> np.ndarray:
        return colorize_depth(np.where(depth > self._max_depth, np.inf, depth).astype(np.float32), self._max_depth)

    def _truncate(self, step: int) -> None:
        """Keep the complete lines of the log up to `step`; a new log gets its header."""
        kept: list[list[str]] = []
        if self._path.exists() and step > 0:
            with self._path.open(newline="", encoding="utf-8") as file:
                complete = [row for row in csv.reader(file) if len(row) == len(COLUMNS)]
            kept = [row for row in complete if row[0].isdigit() and int(row[0]) <= step]
        with replacing(self._path) as part, part.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([list(COLUMNS), *kept])


@torch.inference_mode()
def _predict(network: MultiTaskRefineNet, images: Tensor, dtype: torch.dtype) -> tuple[np.ndarray, np.ndarray, float]:
    """Return labels (N x H x W uint8), depth (N x H x W float32, m) and the share of saturated units, in one forward pass."""
    description = network.description
    device = next(network.parameters()).device
    mean, std = (torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (description.mean, description.std))
    image = (images.to(device).permute(0, 3, 1, 2).float() / 255 - mean) / std
    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        shared = network.shared(image)
        hidden = F.relu6(network.get_submodule("pre_segm")(shared))
        logits, raw = network.head("segm", shared).float(), network.head("depth", shared).float()
    size, grid = image.shape[2:], description.grid
    labels = upsample(STRIDE, logits, size, grid).argmax(1).to(torch.uint8)
    meters = upsample(STRIDE, raw, size, grid)[:, 0].exp()
    saturated = ((hidden <= 0) | (hidden >= 6)).float().mean()
    return labels.cpu().numpy(), meters.cpu().numpy(), float(saturated)
