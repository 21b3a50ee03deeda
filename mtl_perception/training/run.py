"""A whole run: data, teacher, training, and the file at the end."""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mtl_perception.errors import ConfigError, PerceptionError
from mtl_perception.network.model import MultiTaskRefineNet
from mtl_perception.training.config import TrainConfig
from mtl_perception.training.data.fields import Fields
from mtl_perception.training.data.open import Dataset, open_sets, validate
from mtl_perception.training.data.training_set import TrainingSet
from mtl_perception.training.finalize import figures, finish, with_license
from mtl_perception.training.initialize import class_set, start_network
from mtl_perception.training.loader import Examples
from mtl_perception.training.loop.checkpoint import LATEST
from mtl_perception.training.loop.processes import Processes
from mtl_perception.training.loop.schedule import TimeLimit
from mtl_perception.training.loop.trainer import Trainer
from mtl_perception.training.pseudo_labels import teach
from mtl_perception.weights.files import save_weights

OWN_KEYS = ("share", "focal_length", "teach", "figures")
"""Keys of a set that are the run's, not the data's."""


@dataclass(frozen=True)
class Run:
    """What to train, and where.

    Attributes:
        config: The run.
        base: Folder that relative paths of data sets begin at.
        out: The run's folder: checkpoints, log, samples, weights.
        device: auto, cpu, cuda or cuda:N.
        checkpoint: To go on from; None: the newest in `out`, if there is any.
        started: Value of `time.monotonic()` from which `config.minutes` counts, seconds.
    """

    config: TrainConfig
    base: Path
    out: Path
    device: str = "auto"
    checkpoint: Path | None = None
    started: float = field(default_factory=time.monotonic)

    def __call__(self) -> Path | None:
        """Train, evaluate, write.

        Returns:
            The weights file; None in all processes but the first.

        Raises:
            PerceptionError: Stopped by a signal; or the configuration, the data or the device is at fault. What was done is in
                `out`.
        """
        processes = Processes.join(self.device)
        try:
            return self._train(processes)
        finally:
            processes.leave()

    def check(self) -> dict[str, int]:
        """Read every file of the data once.

        Returns:
            The number of samples by data set.

        Raises:
            PerceptionError: Names the first file that is bad, or what is wrong with the configuration.
        """
        sets, held_out = self._open()
        return {dataset.name: validate(dataset) for dataset in (*(entry.pictures for entry in sets), *held_out)}

    def _open(self) -> tuple[list[TrainingSet], list[Dataset]]:
        sets = open_training_sets(self.config.sets, self.base)
        held_out = open_sets(list(self.config.held_out), self.base) if self.config.held_out else []
        for dataset in (*(entry.pictures for entry in sets), *held_out):
            if dataset.classes.names != class_set(self.config).names:
                raise ConfigError(f"data set {dataset.name}: its classes are not those of {self.config.classes!r}")
        return sets, held_out

    def _train(self, processes: Processes) -> Path | None:
        config = self.config
        limit = TimeLimit(config.minutes, self.started)
        sets, held_out = self._open()
        if config.teacher.weights:
            if processes.first:
                teach(sets, config.teacher, self.out / "teacher", self.device)
            processes.wait()
            sets = teach(sets, config.teacher, self.out / "teacher", self.device)
        examples = Examples(config, class_set(config), sets)
        trainer = Trainer(config, start_network(config), examples, self.out, processes, limit)
        if processes.first:
            for weights in filter(None, (config.start, config.teacher.weights)):
                print(f"made from {with_license(weights)}; look whether that bears on the new weights", file=sys.stderr)
        first = trainer.resume(self.checkpoint)
        if first and processes.first:
            print(f"resumed at step {first} of {config.steps}", file=sys.stderr)
            for change in trainer.changes:
                print(f"not as in the checkpoint: {change}", file=sys.stderr)

        def evaluate(network: MultiTaskRefineNet, step: int) -> None:
            self._interim(network, step, held_out)

        if not trainer.run(evaluate if held_out else None):
            raise PerceptionError(
                f"stopped at step {trainer.step} of {config.steps}: the same command goes on from {self.out}; "
                f"the weights so far are in {self.out / LATEST.format(config.name)}"
            )
        if not processes.first:
            return None
        run = {"command": shlex.join(["mtl_perception", *sys.argv[1:]]), "hours": round(trainer.seconds / 3600, 2)}
        run |= {"steps": trainer.step, "batch": config.batch, "crop": list(config.crop), "processes": processes.world}
        return finish(trainer.averaged(), config, sets, held_out, self.out, self.device, run, limit.end)

    def _interim(self, network: MultiTaskRefineNet, step: int, held_out: Sequence[Dataset]) -> None:
        """Figures half-way: a line each in `<out>/curve.jsonl`."""
        path = self.out / "interim.safetensors"
        save_weights(path, network.state_dict(), network.description)
        found = figures(path, held_out, self.device)
        with (self.out / "curve.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **found}) + "\n")


def open_training_sets(entries: Sequence[Mapping[str, Any]], base: Path) -> list[TrainingSet]:
    """The run's data: entries of `open_sets` with the keys of `TrainingSet` besides.

    Raises:
        ConfigError: An entry is wrong.
        SourceError: Files are missing.
    """
    sets = []
    for number, entry in enumerate(entries, 1):
        own = Fields({key: value for key, value in entry.items() if key in OWN_KEYS}, f"sets: set {number}")
        [pictures] = open_sets([{key: value for key, value in entry.items() if key not in OWN_KEYS}], base)
        sets.append(
            TrainingSet(
                pictures,
                share=own.number("share", 1.0, low=0.0),
                focal_length=own.number("focal_length", 0.0, low=0.0),
                teach=own.flag("teach", True),
                figures=own.flag("figures", True),
            )
        )
    names = [entry.pictures.name for entry in sets]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"two sets are called {name!r}: give each a `name:` of its own")
    return sets
