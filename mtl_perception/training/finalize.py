"""Final weights of a run: calibration of depth and confidence, evaluation on the held-out sets, and the model card."""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from mtl_perception.config import Config
from mtl_perception.errors import WeightsError
from mtl_perception.inference.device import select_device
from mtl_perception.inference.machine import device_name
from mtl_perception.network.model import MultiTaskRefineNet
from mtl_perception.pipeline import Pipeline
from mtl_perception.progress import progress_bar
from mtl_perception.training.config import Teacher, TrainConfig
from mtl_perception.training.data.dataset import Dataset
from mtl_perception.training.data.select import spread_evenly
from mtl_perception.training.data.training_set import TrainingSet
from mtl_perception.training.temperature import calibrate_confidence, spread
from mtl_perception.version import __version__
from mtl_perception.weights.files import save_weights
from mtl_perception.weights.metadata import read_description
from mtl_perception.weights.registry import resolve

CALIBRATION_IMAGES = 40
MIN_CALIBRATION_PIXELS = 100
T = TypeVar("T")


def finalize(
    network: MultiTaskRefineNet,
    config: TrainConfig,
    sets: Sequence[TrainingSet],
    unseen: tuple[Sequence[Dataset], Sequence[Dataset]],
    out: Path,
    device: str,
    run: dict[str, Any],
    end: float = math.inf,
) -> Path:
    """Write `<out>/<name>.safetensors`: calibrated, evaluated as stored (float16), with its card.

    Args:
        network: Averaged network.
        config: The run.
        sets: Training sets.
        unseen: Validation sets, on which the confidence is calibrated, and held-out sets.
        out: Folder of the run.
        device: Device for calibration and evaluation.
        run: Entries of the card about the run: command, hours, steps.
        end: Value of `time.monotonic()` at which calibration and evaluation stop early.

    Returns:
        The weights file.
    """
    path = out / f"{config.name}.safetensors"
    validation, held_out = unseen
    save_weights(path, network.state_dict(), network.description)
    factor = calibrate_depth(network, sets, path, device, end) if "depth" in config.tasks else 1.0
    confidence = None
    if validation and "segmentation" in config.tasks:
        images = progress_bar(spread(validation, CALIBRATION_IMAGES), desc="confidence", unit="image")
        confidence = calibrate_confidence(network, Pipeline(str(path), device, warm_up=False), _until(end, images))
    card: dict[str, Any] = {
        **config.card,
        "data": [f"{entry.dataset.name}: {len(entry.dataset)} images; {entry.dataset.license}" for entry in sets],
        "held_out": [f"{dataset.name}: {len(dataset)} images" for dataset in held_out],
        "metrics": {},
        "depth_calibration": round(factor, 4),
        "confidence_calibration": confidence.card() if confidence else "none",
        "started_from": name_with_license(config.start) if config.start else f"encoder {config.encoder}",
        "teacher": " and ".join(_teacher_names(config.teacher)) or "none",
        "seed": config.seed,
        **run,
        "machine": f"{device_name(select_device(device))}, Python {platform.python_version()}, PyTorch {torch.__version__}",
        "version": __version__,
    }
    # A run that is killed during the evaluation leaves usable weights, with a card without metrics.
    save_weights(path, network.state_dict(), replace(network.description, card=card))
    card["metrics"] = evaluate_weights(path, held_out, device, end)
    network.description = replace(network.description, card=card)
    save_weights(path, network.state_dict(), network.description)
    return path


def calibrate_depth(
    network: MultiTaskRefineNet, sets: Sequence[TrainingSet], weights: Path, device: str, end: float = math.inf
) -> float:
    """Remove the constant factor in depth that training on crops leaves, by the median error on whole training images.

    Args:
        network: Network whose depth bias is changed; its raw depth is a logarithm.
        sets: Training sets.
        weights: Weights file of the network.
        device: Device.
        end: Value of `time.monotonic()` after which no further image is processed.

    Returns:
        Factor by which depth has increased.
    """
    pipeline = Pipeline(str(weights), device, min_depth=0.0, warm_up=False)
    medians = []
    images = list(_spread_with_depth(sets, CALIBRATION_IMAGES))
    for entry, index in _until(end, progress_bar(images, desc="calibration", unit="image")):
        sample = entry.sample(index)
        depth = pipeline(sample.frame, outputs={"depth"}).depth
        assert sample.depth is not None
        assert depth is not None
        known = np.isfinite(sample.depth) & np.isfinite(depth) & (sample.depth > 1e-3)
        if known.sum() > MIN_CALIBRATION_PIXELS:
            medians.append(float(np.median(np.log(sample.depth[known] / depth[known]))))
    shift = float(np.mean(medians)) if medians else 0.0
    network.get_parameter("depth.bias").data.add_(shift)
    return math.exp(shift)


def _spread_with_depth(sets: Sequence[TrainingSet], count: int) -> Iterator[tuple[TrainingSet, int]]:
    """Yield about `count` images with depth: of each set by its share, evenly spread.

    The share and not the size of a set decides, because thousands of rendered images would outweigh the real ones.
    """
    indices = [(entry, [i for i in range(len(entry.dataset)) if entry.dataset.has_depth(i)]) for entry in sets]
    known = [(entry, found) for entry, found in indices if found and entry.share > 0]
    shares = sum(entry.share for entry, _ in known)
    for entry, found in known:
        for i in spread_evenly(len(found), math.ceil(count * entry.share / shares)):
            yield entry, found[i]


def evaluate_weights(weights: Path, held_out: Sequence[Dataset], device: str, end: float = math.inf) -> dict[str, Any]:
    """Return all metrics of `eval` by held-out set.

    When `time.monotonic()` reaches `end`, the remaining frames are left out: `frames` is then below `frames_of_set`.
    """
    if not held_out:
        return {}
    # A run without held-out sets does not need torchmetrics.
    from mtl_perception.training.evaluation.evaluate import PIPELINE, Evaluation

    config = Config.from_mapping({"weights": str(weights), "device": device, "warm_up": False, **PIPELINE})
    pipeline = Pipeline(config=config, reuse_outputs=True)
    metrics = {}
    for dataset in held_out:
        evaluation = Evaluation(pipeline, dataset)
        bar = partial(progress_bar, desc=f"held out: {dataset.name}", unit="image")
        evaluation.run(progress=lambda indices, bar=bar: _until(end, bar(indices)))  # type: ignore[misc]
        # The latency is one of this machine, not of the weights.
        metrics[dataset.name] = {
            key: value for key, value in evaluation.report().items() if key not in ("records", "latency_ms")
        }
    return metrics


def _until(end: float, items: Iterable[T]) -> Iterator[T]:
    """Yield items until `time.monotonic()` reaches `end`."""
    for item in items:
        if time.monotonic() >= end:
            return
        yield item


def _teacher_names(teacher: Teacher) -> Iterator[str]:
    if teacher.weights:
        yield name_with_license(teacher.weights)
    if teacher.onnx.file:
        yield Path(teacher.onnx.file).name


def name_with_license(weights: str) -> str:
    """Return the name or file of weights with their license, which may cover weights derived from them.

    Where a run uses pseudo-labels that another machine has written, the weights of the teacher may be missing.
    """
    try:
        return f"{weights} (license: {read_description(resolve(weights)).license})"
    except WeightsError as error:
        return f"{weights} (license unknown: {error})"
