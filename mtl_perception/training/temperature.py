"""Temperature of the segmentation logits, found on validation data and stored in the weights of the head."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mtl_perception.errors import ConfigError
from mtl_perception.network.model import MultiTaskRefineNet
from mtl_perception.pipeline import Pipeline
from mtl_perception.training.data.dataset import Dataset
from mtl_perception.training.data.select import spread_evenly
from mtl_perception.training.evaluation.calibration import CalibrationMetrics
from mtl_perception.training.evaluation.classes import comparisons
from mtl_perception.types import UNLABELED

HEAD = ("segm.weight", "segm.bias")
"""Entries of the weights that the temperature divides."""

PIXELS_PER_IMAGE = 10_000
RANGE = (0.05, 20.0)
"""Lowest and highest temperature that is searched."""
STEPS = 30


@dataclass(frozen=True)
class ConfidenceCalibration:
    """Temperature of weights and its effect on the validation data.

    Attributes:
        temperature: Logits have been divided by it; above 1, the network was overconfident.
        ece_before: Expected calibration error with the logits as given, 0..1.
        ece_after: The same after the division.
        data: Validation data sets.
        images: Number of their images that were used.
    """

    temperature: float
    ece_before: float
    ece_after: float
    data: tuple[str, ...]
    images: int

    def card(self) -> dict[str, Any]:
        """Return the entry of the model card."""
        rounded = {name: round(value, 4) for name, value in asdict(self).items() if isinstance(value, float)}
        return {**asdict(self), **rounded, "data": list(self.data)}


def calibrate_confidence(
    network: MultiTaskRefineNet, pipeline: Pipeline, samples: Iterable[tuple[Dataset, int]]
) -> ConfidenceCalibration | None:
    """Divide the logits of a network by the temperature that minimizes the cross-entropy on validation data.

    Temperature scaling of Guo et al., ICML 2017, arXiv 1706.04599. The division is stored in weights and bias of the head.
    Bicubic and bilinear upsampling are linear, so dividing before or after them is the same, and no backend changes.
    The order of the classes of a pixel, and with it its label, does not change.

    Args:
        network: Network whose segmentation head is changed.
        pipeline: Pipeline with the same weights, at the size of the image and without a minimum confidence.
        samples: Data set and index of each validation sample; those without labels are left out. Neither training data, on
            which a network is more accurate, nor held-out data.

    Returns:
        None without labeled samples; the network is then unchanged.

    Raises:
        ConfigError: The classes of a data set are not those of the network.
    """
    logits: list[Tensor] = []
    truth: list[Tensor] = []
    names: list[str] = []
    for dataset, index in samples:
        if not dataset.has_labels(index):
            continue
        found = _labeled_logits(pipeline, dataset, index)
        for values, parts in zip(found, (logits, truth), strict=True):
            parts.append(values)
        names.append(dataset.name)
    if not names:
        return None
    pooled, target = torch.cat(logits), torch.cat(truth)
    temperature = fit_temperature(pooled, target)
    group, first = network.description.class_set(pipeline.config.classes)
    rows = slice(first, first + len(group))
    for name in HEAD:
        network.get_parameter(name).data[rows] /= temperature
    return ConfidenceCalibration(
        temperature, _ece(pooled, target), _ece(pooled / temperature, target), tuple(dict.fromkeys(names)), len(names)
    )


def fit_temperature(logits: Tensor, truth: Tensor) -> float:
    """Return the temperature T for which the cross-entropy of logits / T is lowest.

    The cross-entropy is convex in 1 / T, with the derivative E[mean of the logits under the softmax - logit of the truth], so
    its root is found by bisection.

    Args:
        logits: N x C float32.
        truth: N int64 class ids.

    Returns:
        T between the bounds of `RANGE`.
    """
    of_truth = logits.gather(1, truth[:, None]).mean()
    low, high = (math.log(bound) for bound in RANGE)
    for _ in range(STEPS):
        middle = (low + high) / 2
        mean = ((logits / math.exp(middle)).softmax(1) * logits).sum(1).mean()
        # A mean above the logit of the truth: the network is overconfident at this temperature.
        low, high = (middle, high) if mean > of_truth else (low, middle)
    return math.exp((low + high) / 2)


def spread(sets: Sequence[Dataset], count: int) -> list[tuple[Dataset, int]]:
    """Return at most `count` (0: all) labeled samples of each data set, evenly spread."""
    found = []
    for dataset in sets:
        labeled = [i for i in range(len(dataset)) if dataset.has_labels(i)]
        found += [(dataset, labeled[i]) for i in spread_evenly(len(labeled), count)]
    return found


def _labeled_logits(pipeline: Pipeline, dataset: Dataset, index: int) -> tuple[Tensor, Tensor]:
    """Return n x C logits and n int64 true classes of labeled pixels of an image, evenly spread."""
    every = tuple(range(len(pipeline.class_set)))
    same = [comparison for comparison in comparisons(dataset.classes, pipeline.class_set) if comparison.choices == every]
    if not same:
        raise ConfigError(
            f"data set {dataset.name} has other classes than weights {pipeline.description.name!r}; give a `mapping:`"
        )
    sample = dataset[index]
    scores = pipeline(sample.frame, ("scores",)).scores
    assert scores is not None
    assert sample.labels is not None
    truth = same[0].truth[sample.labels].ravel()
    pixels = np.flatnonzero(truth != UNLABELED)
    pixels = pixels[:: max(1, len(pixels) // PIXELS_PER_IMAGE)]
    logits = scores.reshape(len(every), -1)[:, pixels].T
    return torch.from_numpy(logits.astype(np.float32)), torch.from_numpy(truth[pixels].astype(np.int64))


def _ece(logits: Tensor, truth: Tensor) -> float:
    confidence, labels = logits.softmax(1).max(1)
    metrics = CalibrationMetrics()
    metrics.update(confidence.numpy(), (labels == truth).numpy())
    score = metrics.compute()
    return score.ece if score else math.nan
