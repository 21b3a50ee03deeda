"""From the last step to a file to ship: depth without offset, figures on what was held out, and a card that tells all."""

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
from mtl_perception.inference.device import select_device
from mtl_perception.inference.machine import device_name
from mtl_perception.network.model import MultiTaskRefineNet
from mtl_perception.pipeline import Pipeline
from mtl_perception.progress import progress_bar
from mtl_perception.training.config import TrainConfig
from mtl_perception.training.data.open import Dataset
from mtl_perception.training.data.training_set import TrainingSet
from mtl_perception.training.evaluation.evaluate import PIPELINE, Evaluation
from mtl_perception.version import __version__
from mtl_perception.weights.files import read_description, save_weights
from mtl_perception.weights.registry import resolve

CALIBRATION_PICTURES = 40
T = TypeVar("T")


def calibrate(
    network: MultiTaskRefineNet, sets: Sequence[TrainingSet], weights: Path, device: str, end: float = math.inf
) -> float:
    """Remove the constant factor that crops leave in depth: its median error on training pictures becomes none.

    Args:
        network: Its depth bias is changed; its output is a logarithm.
        sets: The run's data.
        weights: The network's file as it is now.
        device: Where to run.
        end: Value of `time.monotonic()` after which no further picture is begun.

    Returns:
        The factor by which depths are now larger.
    """
    pipeline = Pipeline(str(weights), device, min_depth=0.0, warm_up=False)
    medians = []
    chosen = list(_with_depth(sets, CALIBRATION_PICTURES))
    for entry, index in _until(end, progress_bar(chosen, desc="calibration", unit="image")):
        sample = entry.sample(index)
        depth = pipeline(sample.frame, outputs={"depth"}).depth
        assert sample.depth is not None
        assert depth is not None
        known = np.isfinite(sample.depth) & np.isfinite(depth) & (sample.depth > 1e-3)
        if known.sum() > 100:
            medians.append(float(np.median(np.log(sample.depth[known] / depth[known]))))
    shift = float(np.mean(medians)) if medians else 0.0
    network.get_parameter("depth.bias").data.add_(shift)
    return math.exp(shift)


def _with_depth(sets: Sequence[TrainingSet], count: int) -> Iterator[tuple[TrainingSet, int]]:
    """About `count` pictures with depth, evenly spread over each set, and of each as many as its share of the training says.

    Not as many as it has: a renderer's thousands would decide how far real things are.
    """
    indices = [(entry, [i for i in range(len(entry.pictures)) if entry.pictures.has_depth(i)]) for entry in sets]
    known = [(entry, found) for entry, found in indices if found and entry.share > 0]
    shares = sum(entry.share for entry, _ in known)
    for entry, found in known:
        number = min(math.ceil(count * entry.share / shares), len(found))
        for place in range(number):
            yield entry, found[place * len(found) // number]


def _until(end: float, items: Iterable[T]) -> Iterator[T]:
    """Yield items until `time.monotonic()` reaches `end`."""
    for item in items:
        if time.monotonic() >= end:
            return
        yield item


def figures(weights: Path, held_out: Sequence[Dataset], device: str, end: float = math.inf) -> dict[str, Any]:
    """Return every metric on each held-out set, as `eval` does.

    Where `time.monotonic()` reaches `end`, the rest of the frames is left out: `frames` is then below `frames_of_set`.
    """
    if not held_out:
        return {}
    config = Config.from_mapping({"weights": str(weights), "device": device, "warm_up": False, **PIPELINE})
    pipeline = Pipeline(config=config, reuse_outputs=True)
    found = {}
    for dataset in held_out:
        evaluation = Evaluation(pipeline, dataset)
        bar = partial(progress_bar, desc=f"held out: {dataset.name}", unit="image")
        evaluation.run(progress=lambda indices, bar=bar: _until(end, bar(indices)))  # type: ignore[misc]
        found[dataset.name] = {key: value for key, value in evaluation.report().items() if key != "records"}
    return found


def finish(
    network: MultiTaskRefineNet,
    config: TrainConfig,
    sets: Sequence[TrainingSet],
    held_out: Sequence[Dataset],
    out: Path,
    device: str,
    run: dict[str, Any],
    end: float = math.inf,
) -> Path:
    """Write `<out>/<name>.safetensors`: calibrated, evaluated as it is shipped (float16), with its card.

    Args:
        network: The averaged network.
        config: The run.
        sets: What it learned from.
        held_out: What it is judged on.
        out: The run's folder.
        device: Where to run.
        run: What the card says of the run: command, hours, steps.
        end: Value of `time.monotonic()` at which calibration and evaluation stop early.
    """
    path = out / f"{config.name}.safetensors"
    save_weights(path, network.state_dict(), network.description)
    factor = calibrate(network, sets, path, device, end) if "depth" in config.tasks else 1.0
    save_weights(path, network.state_dict(), network.description)
    card: dict[str, Any] = {
        **config.card,
        "data": [f"{entry.pictures.name}: {len(entry.pictures)} pictures; {entry.pictures.license}" for entry in sets],
        "held_out": [f"{dataset.name}: {len(dataset)} pictures" for dataset in held_out],
        "metrics": figures(path, held_out, device, end),
        "depth_calibration": round(factor, 4),
        "started_from": with_license(config.start) if config.start else f"encoder {config.encoder}",
        "teacher": with_license(config.teacher.weights) if config.teacher.weights else "none",
        "seed": config.seed,
        **run,
        "machine": _machine(device),
        "version": __version__,
    }
    network.description = replace(network.description, card=card)
    save_weights(path, network.state_dict(), network.description)
    return path


def with_license(weights: str) -> str:
    """Name or file of weights, and what they may be used for, as that bears on what is made from them."""
    return f"{weights} (its license: {read_description(resolve(weights)).license})"


def _machine(device: str) -> str:
    return f"{device_name(select_device(device))}, Python {platform.python_version()}, PyTorch {torch.__version__}"
