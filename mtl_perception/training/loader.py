"""Loads batches of training samples. Sample n of a run is the same for any number of processes and workers."""

from __future__ import annotations

import math
import shutil
import signal
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from mtl_perception.errors import PerceptionError
from mtl_perception.labels import ClassSet
from mtl_perception.training.augmentation.crop import Augmenter
from mtl_perception.training.augmentation.paste import Paster
from mtl_perception.training.augmentation.sample import TrainingSample, merge
from mtl_perception.training.config import TrainConfig
from mtl_perception.training.data.training_set import TrainingSet

GOLDEN_RATIO = 0.6180339887498949
MAX_PREFETCH = 4
BYTES_PER_PIXEL = 9
"""Of a sample: image 3, labels 1, depth 4, pseudo-label bits 1."""


class TrainingSamples(Dataset[dict[str, Tensor] | PerceptionError]):
    """The training samples of a run, by number: number n belongs to step n // batch.

    An index is a pair: the number, and whether the run is in its late part (`Augmentation.late`).

    Args:
        config: The run.
        classes: Its class set.
        sets: Training sets.
    """

    def __init__(self, config: TrainConfig, classes: ClassSet, sets: Sequence[TrainingSet]) -> None:
        self._config = config
        self._sets = [entry for entry in sets if entry.share > 0]
        shares = np.cumsum([entry.share for entry in self._sets])
        self._bounds = shares / shares[-1]
        self._augment = Augmenter(config, classes)
        self._paste = Paster(sets, classes) if config.augmentation.paste > 0 else None

    def __getitem__(self, index: tuple[int, bool]) -> dict[str, Tensor] | PerceptionError:
        try:
            sample = self.sample(*index)
        except PerceptionError as error:
            # Returned and raised in the main process by `load`; a DataLoader would replace the message by a traceback.
            return error
        return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in vars(sample).items()}

    def sample(self, number: int, late: bool = False) -> TrainingSample:
        """Return training sample `number`, with the augmentation of the late part of the run if `late`."""
        rng = np.random.default_rng([self._config.seed, number])
        # Multiples of the golden ratio fill 0..1 evenly: every batch contains each set nearly by its share.
        which = int(np.searchsorted(self._bounds, (number * GOLDEN_RATIO) % 1.0, side="right"))
        entry = self._sets[min(which, len(self._sets) - 1)]
        index = int(rng.integers(len(entry.dataset)))
        labeled = entry.sample(index)
        camera = labeled.frame.camera
        assert camera is not None
        pseudo: tuple[np.ndarray | None, np.ndarray | None] = None, None
        if entry.pseudo_labels is not None:
            pseudo = entry.pseudo_labels.load(index, labeled.frame.image.shape[:2])
        sample = merge(labeled, *pseudo, self._config.teacher.sparse)
        if self._paste is not None and rng.random() < self._config.augmentation.paste:
            sample = self._paste(sample, camera, rng)
        return self._augment(sample, camera, rng, late)


def batch_indices(
    config: TrainConfig, first_step: int, rank: int, world: int, progress: Callable[[], float]
) -> Iterator[list[tuple[int, bool]]]:
    """Yield the indices in `TrainingSamples` of the batch of each step, for one of several processes.

    Args:
        config: The run.
        first_step: Step of the first batch.
        rank: Number of this process; each gets its slice of every batch.
        world: Number of processes.
        progress: Returns the completed share of a time-limited run, 0..1.
    """
    count = config.batch // world
    for step in range(first_step, config.steps):
        late = max(step / config.steps, progress()) >= config.augmentation.late
        first = step * config.batch + rank * count
        yield [(number, late) for number in range(first, first + count)]


def load(
    samples: TrainingSamples, batches: Iterable[list[tuple[int, bool]]], config: TrainConfig, pin: bool
) -> Generator[dict[str, Tensor], None, None]:
    """Yield the batches. Close the generator after an error, or the process waits for its workers at exit.

    Workers pass batches in shared memory. Where there is too little of it, as in containers with Docker's 64 MB, they would
    die of a bus error, so they send copies instead.

    Args:
        samples: Training samples.
        batches: Indices of the batches.
        config: States the number of workers.
        pin: Use page-locked memory, so that copies to a GPU overlap with its work.

    Raises:
        PerceptionError: A sample cannot be read.
    """
    batch = config.batch * config.crop[0] * config.crop[1] * BYTES_PER_PIXEL
    free = _free_shared_memory()
    copy = config.workers > 0 and 2 * config.workers * batch > free
    loader: DataLoader[Any] = DataLoader(
        samples,
        batch_sampler=batches,
        num_workers=config.workers,
        pin_memory=pin,
        prefetch_factor=int(np.clip(free / 2 / (config.workers * batch), 1, MAX_PREFETCH)) if config.workers else None,
        worker_init_fn=_start_worker,
        collate_fn=partial(_collate, copy=copy),
    )
    iterator: Any = iter(loader)
    try:
        for loaded in iterator:
            if isinstance(loaded, PerceptionError):
                raise loaded
            yield {name: torch.from_numpy(values) for name, values in loaded.items()} if copy else loaded
    finally:
        if config.workers:
            # The traceback of an error keeps the iterator alive, and the workers ignore the signal that ends them at exit.
            iterator._shutdown_workers()


def _free_shared_memory() -> float:
    """Return the free shared memory in bytes; +Inf if it is unknown."""
    try:
        return shutil.disk_usage("/dev/shm").free
    except OSError:
        return math.inf


def _collate(samples: list[Any], copy: bool) -> Any:
    """Return a batch, or the first error; with `copy` as arrays, which are copied between processes; tensors are shared."""
    for sample in samples:
        if isinstance(sample, PerceptionError):
            return sample
    if not copy:
        return default_collate(samples)
    return {name: np.stack([sample[name].numpy() for sample in samples]) for name in samples[0]}


def _start_worker(_: int) -> None:
    # A batch system signals all processes. The workers keep loading until the main process has written its checkpoint.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    # Otherwise OpenCV starts one thread per core in each worker.
    cv2.setNumThreads(0)
