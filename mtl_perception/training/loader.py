"""Which picture comes when: example number n of a run is the same on every machine, for any number of processes and workers."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mtl_perception.labels import ClassSet
from mtl_perception.training.augmentation.crop import Augmenter
from mtl_perception.training.augmentation.paste import Paster
from mtl_perception.training.augmentation.sample import Example, merged
from mtl_perception.training.config import TrainConfig
from mtl_perception.training.data.training_set import TrainingSet, camera_of
from mtl_perception.types import Sample

GOLDEN = 0.6180339887498949
MAX_PREFETCH = 4
BYTES_PER_PIXEL = 9
"""Of an example: image 3, labels 1, depth 4, pseudo-label bits 1."""


class Examples(Dataset[dict[str, Tensor]]):
    """The training examples of a run, by number: number n belongs to step n // batch.

    An index is a pair: the number, and whether the run is in its late part (`Augmentation.late`).

    Args:
        config: The run.
        classes: Its class set.
        sets: The data.
    """

    def __init__(self, config: TrainConfig, classes: ClassSet, sets: Sequence[TrainingSet]) -> None:
        self._config = config
        self._sets = [entry for entry in sets if entry.share > 0 and len(entry.pictures) > 0]
        shares = np.cumsum([entry.share for entry in self._sets])
        self._bounds = shares / shares[-1]
        self._augment = Augmenter(config, classes)
        self._paste = Paster(self._sets, classes) if config.augmentation.paste > 0 else None

    def __getitem__(self, index: tuple[int, bool]) -> dict[str, Tensor]:
        example = self.example(*index)
        return {
            "image": torch.from_numpy(np.ascontiguousarray(example.image)),
            "labels": torch.from_numpy(np.ascontiguousarray(example.labels)),
            "depth": torch.from_numpy(np.ascontiguousarray(example.depth)),
            "taught": torch.from_numpy(np.ascontiguousarray(example.taught)),
        }

    def example(self, number: int, late: bool = False) -> Example:
        """Return example `number`, with the augmentation of the late part of the run if `late`."""
        rng = np.random.default_rng([self._config.seed, number])
        # Multiples of the golden ratio fill 0..1 evenly: each batch holds each set nearly by its share, none waits long.
        which = int(np.searchsorted(self._bounds, (number * GOLDEN) % 1.0, side="right"))
        entry = self._sets[min(which, len(self._sets) - 1)]
        index = int(rng.integers(len(entry.pictures)))
        sample = entry.sample(index)
        taught = None if entry.taught is None else self._heard(entry.taught[index])
        camera = camera_of(sample)
        example = merged(sample, taught, self._config.teacher.sparse)
        if self._paste is not None and rng.random() < self._config.augmentation.paste:
            example = self._paste(example, camera, rng)
        return self._augment(example, camera, rng, late)

    def _heard(self, taught: Sample) -> Sample:
        """What of the teacher's word is to be learned from."""
        tasks = self._config.teacher.tasks
        return replace(
            taught,
            labels=taught.labels if "segmentation" in tasks else None,
            depth=taught.depth if "depth" in tasks else None,
        )


class BatchNumbers:
    """Numbers of the examples of each batch, from one step on, for one of several processes.

    Args:
        config: The run.
        first_step: Step to begin with.
        rank: Number of this process; each gets its slice of every batch.
        world: Number of processes.
        progress: Returns the completed share of a time-limited run, 0..1.
    """

    def __init__(self, config: TrainConfig, first_step: int, rank: int, world: int, progress: Callable[[], float]) -> None:
        self._config, self._first_step = config, first_step
        self._part = config.batch // world
        self._offset = rank * self._part
        self._progress = progress

    def __iter__(self) -> Iterator[list[tuple[int, bool]]]:
        """Yield (number, late) of the examples of each step; see `Examples`."""
        for step in range(self._first_step, self._config.steps):
            late = max(step / self._config.steps, self._progress()) >= self._config.augmentation.late
            first = step * self._config.batch + self._offset
            yield [(number, late) for number in range(first, first + self._part)]


def load(examples: Examples, batches: BatchNumbers, config: TrainConfig, pin: bool) -> DataLoader[Any]:
    """Return a loader of batches; `pin`: in page-locked memory, for copies that overlap with work on a GPU."""
    return DataLoader(
        examples,
        batch_sampler=batches,
        num_workers=config.workers,
        pin_memory=pin,
        persistent_workers=config.workers > 0,
        prefetch_factor=_prefetch(config) if config.workers else None,
        worker_init_fn=_start_worker,
    )


def _prefetch(config: TrainConfig) -> int:
    """Batches that each worker prepares ahead: fewer where shared memory is small, as it is in many containers."""
    try:
        free = shutil.disk_usage("/dev/shm").free
    except OSError:
        return MAX_PREFETCH
    batch = config.batch * config.crop[0] * config.crop[1] * BYTES_PER_PIXEL
    return int(np.clip(free / 2 / (config.workers * batch), 1, MAX_PREFETCH))


def _start_worker(_: int) -> None:
    # A signal to all processes, as a batch system sends it, must leave the run its images until it has saved itself.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    # OpenCV would start as many threads in each worker as the machine has cores.
    cv2.setNumThreads(0)
