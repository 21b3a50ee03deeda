"""What a run leaves to look at: a CSV log, and pictures of what the network says each epoch."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mtl_perception.errors import SourceError
from mtl_perception.labels import ClassSet
from mtl_perception.network.grid import STRIDE, upsample
from mtl_perception.network.model import MultiTaskRefineNet
from mtl_perception.training.config import TrainConfig
from mtl_perception.visualization.colors import colorize_depth, colorize_labels
from mtl_perception.visualization.files import replacing

COLUMNS = ("step", "segmentation", "depth", "sky", "rate", "seconds", "saturated")
SMOOTHING = 0.95
SHOWN = 6
"""Examples in a sample picture."""


class Journal:
    """Log and sample pictures in the run's folder.

    Args:
        out: The folder.
        config: The run.
        step: Where it starts or goes on: log lines of later steps, of a run that was cut off, are dropped.
    """

    def __init__(self, out: Path, config: TrainConfig, step: int) -> None:
        self.line = ""
        self._path = out / "log.csv"
        self._pictures = out / "samples"
        self._max_depth = config.depth.range[1]
        self._mean: np.ndarray | None = None
        self._saturated = ""
        try:
            self._pictures.mkdir(parents=True, exist_ok=True)
            self._keep(step)
        except OSError as error:
            raise SourceError(f"{self._path}: cannot be written: {error.strerror}") from error

    def step(self, step: int, losses: Tensor, rate: float, seconds: float) -> None:
        """One line of the log.

        Args:
            step: Number of steps done.
            losses: Segmentation, depth, sky.
            rate: Learning rate of the decoder.
            seconds: Of training, over all sessions of the run.
        """
        values = losses.cpu().numpy()
        self._mean = values if self._mean is None else SMOOTHING * self._mean + (1 - SMOOTHING) * values
        self.line = f"segmentation {self._mean[0]:.3f} depth {self._mean[1]:.3f}"
        row = [step, *(f"{value:.5f}" for value in values), f"{rate:.3g}", f"{seconds:.1f}", self._saturated]
        self._saturated = ""
        with self._path.open("a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerow(row)

    def epoch(self, step: int, network: MultiTaskRefineNet, loaded: dict[str, Tensor]) -> None:
        """Sample pictures of the last batch, and the share of saturated units, which tells a dying decoder."""
        examples = {name: values[:SHOWN] for name, values in loaded.items()}
        description = network.description
        classes = ClassSet(description.name, description.classes, description.colors)
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (description.mean, description.std))
        image = (examples["image"].permute(0, 3, 1, 2).float() / 255 - mean) / std
        with torch.inference_mode():
            shared = network.shared(image)
            hidden = F.relu6(network.get_submodule("pre_segm")(shared))
            size, grid = image.shape[2:], description.grid
            logits = upsample(STRIDE, network.head("segm", shared), size, grid)
            meters = upsample(STRIDE, network.head("depth", shared), size, grid).exp()
        self._saturated = f"{float(((hidden <= 0) | (hidden >= 6)).float().mean()):.3f}"
        rows = [
            np.hstack(
                [
                    picture,
                    colorize_labels(labels, classes),
                    colorize_labels(guess, classes),
                    colorize_depth(np.where(depth > self._max_depth, np.inf, depth), self._max_depth),
                    colorize_depth(np.where(far > self._max_depth, np.inf, far).astype(np.float32), self._max_depth),
                ]
            )
            for picture, labels, guess, depth, far in zip(
                examples["image"].numpy(),
                examples["labels"].numpy(),
                logits.argmax(1).to(torch.uint8).numpy(),
                examples["depth"].numpy(),
                meters[:, 0].numpy(),
                strict=True,
            )
        ]
        sheet: Any = cv2.cvtColor(np.vstack(rows), cv2.COLOR_RGB2BGR)
        with replacing(self._pictures / f"step-{step:07d}.jpg") as part:
            part.write_bytes(cv2.imencode(".jpg", sheet, [cv2.IMWRITE_JPEG_QUALITY, 88])[1].tobytes())

    def _keep(self, step: int) -> None:
        """The lines up to `step`; a new file gets its heading."""
        kept: list[list[str]] = []
        if self._path.exists() and step > 0:
            with self._path.open(newline="", encoding="utf-8") as file:
                kept = [row for row in csv.reader(file) if row and row[0].isdigit() and int(row[0]) <= step]
        with replacing(self._path) as part, part.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([list(COLUMNS), *kept])
