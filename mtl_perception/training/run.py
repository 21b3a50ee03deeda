"""A training run: data, pseudo-labels, training, and the final weights."""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mtl_perception.errors import ConfigError, PerceptionError
from mtl_perception.network.model import MultiTaskRefineNet
from mtl_perception.training.config import TrainConfig
from mtl_perception.training.data.dataset import Dataset, image_files
from mtl_perception.training.data.open import open_sets, validate
from mtl_perception.training.data.training_set import TrainingSet, open_training_sets
from mtl_perception.training.finalize import evaluate_weights, finalize, name_with_license
from mtl_perception.training.initialize import class_set, initialize_network
from mtl_perception.training.loader import TrainingSamples
from mtl_perception.training.loop.checkpoint import LATEST
from mtl_perception.training.loop.processes import Processes
from mtl_perception.training.loop.schedule import TimeLimit
from mtl_perception.training.loop.trainer import Trainer
from mtl_perception.training.pseudo_labels import write_pseudo_labels
from mtl_perception.visualization.files import replacing
from mtl_perception.weights.files import save_weights


@dataclass(frozen=True)
class Run:
    """A training run in a folder.

    Attributes:
        config: The configuration.
        base: Folder that relative paths of data sets start from.
        out: Folder for checkpoints, log, sample images and weights.
        device: auto, cpu, cuda or cuda:N.
        checkpoint: Checkpoint to resume from; None: the newest in `out`, if there is any.
        started: Value of `time.monotonic()` from which `config.minutes` counts, seconds.
    """

    config: TrainConfig
    base: Path
    out: Path
    device: str = "auto"
    checkpoint: Path | None = None
    started: float = field(default_factory=time.monotonic)

    def train(self) -> Path | None:
        """Train, evaluate, and write the weights.

        Returns:
            The weights file; None in all processes but the first.

        Raises:
            PerceptionError: A signal stopped the run, or the configuration, the data or the device is faulty. `out` keeps the
                last checkpoint.
        """
        processes = Processes.join(self.device)
        try:
            return self._train(processes)
        finally:
            processes.leave()

    def check(self) -> dict[str, int]:
        """Read every file of the data sets once.

        Returns:
            Number of samples by data set.

        Raises:
            PerceptionError: A file or the configuration is invalid; the message names the first file.
        """
        sets, validation, held_out = self._open()
        datasets = (*(entry.dataset for entry in sets), *validation, *held_out)
        return {dataset.name: validate(dataset) for dataset in datasets}

    def write_pseudo_labels(self) -> Path:
        """Write the pseudo-labels of the training sets without training, for a run on a machine without the teacher.

        Returns:
            Their folder.

        Raises:
            PerceptionError: There is no teacher, or the configuration, the data or a network is faulty.
        """
        if not self.config.teacher.names:
            raise ConfigError("pseudo-labels need a teacher: set teacher.weights or teacher.onnx")
        self._teach(self._open()[0])
        return self._teacher_folder

    @property
    def _teacher_folder(self) -> Path:
        folder = self.config.teacher.folder
        return self.base / folder if folder else self.out / "teacher"

    def _teach(self, sets: list[TrainingSet]) -> list[TrainingSet]:
        return write_pseudo_labels(sets, self.config.teacher, self._teacher_folder, self.device, self.base)

    def _open(self) -> tuple[list[TrainingSet], list[Dataset], list[Dataset]]:
        """Open the training sets, the validation sets and the held-out sets."""
        sets = open_training_sets(self.config.sets, self.base)
        validation, held_out = (
            open_sets(list(entries), self.base, where=key) if (entries := getattr(self.config, key)) else []
            for key in ("validation", "held_out")
        )
        for dataset in (*(entry.dataset for entry in sets), *validation, *held_out):
            if dataset.classes.names != class_set(self.config).names:
                raise ConfigError(f"data set {dataset.name} has other classes than {self.config.classes!r}; give a `mapping:`")
        _refuse_trained_images(sets, (*validation, *held_out))
        return sets, validation, held_out

    def _train(self, processes: Processes) -> Path | None:
        config = self.config
        limit = TimeLimit(config.minutes, self.started)
        sets, validation, held_out = self._open()
        if config.teacher.names:
            if processes.first:
                self._teach(sets)
            processes.wait()
            sets = self._teach(sets)
        samples = TrainingSamples(config, class_set(config), sets)
        trainer = Trainer(config, initialize_network(config), samples, self.out, processes, limit)
        if processes.first:
            for weights in filter(None, (config.start, config.teacher.weights)):
                print(f"derived from {name_with_license(weights)}; check whether it covers the new weights", file=sys.stderr)
        first = trainer.resume(self.checkpoint)
        if first and processes.first:
            print(f"resumed at step {first} of {config.steps}", file=sys.stderr)
            for change in trainer.changes:
                print(f"different from the checkpoint: {change}", file=sys.stderr)

        def evaluate(network: MultiTaskRefineNet, step: int) -> None:
            self._evaluate_interim(network, step, validation or held_out)

        if not trainer.run(evaluate if validation or held_out else None):
            raise PerceptionError(
                f"stopped at step {trainer.step} of {config.steps}: run the same command again to resume from {self.out}; "
                f"the weights so far are in {self.out / LATEST.format(config.name)}"
            )
        if not processes.first:
            return None
        run = {"command": shlex.join(["mtl_perception", *sys.argv[1:]]), "hours": round(trainer.seconds / 3600, 2)}
        run |= {"steps": trainer.step, "batch": config.batch, "crop": list(config.crop), "processes": processes.world}
        return finalize(trainer.averaged(), config, sets, (validation, held_out), self.out, self.device, run, limit.end)

    def _evaluate_interim(self, network: MultiTaskRefineNet, step: int, sets: Sequence[Dataset]) -> None:
        """Add the metrics on these sets to `<out>/curve.jsonl`."""
        path = self.out / "interim.safetensors"
        save_weights(path, network.state_dict(), network.description)
        metrics = evaluate_weights(path, sets, self.device)
        curve = self.out / "curve.jsonl"
        with replacing(curve) as part:
            lines = curve.read_text(encoding="utf-8").splitlines(keepends=True) if curve.exists() else []
            # A resumed run repeats the evaluations after its checkpoint.
            kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] < step]
            part.write_text("".join([*kept, json.dumps({"step": step, **metrics}), "\n"]), encoding="utf-8")


def _refuse_trained_images(sets: Sequence[TrainingSet], unseen: Sequence[Dataset]) -> None:
    """Refuse validation and held-out sets with images of the training sets, whose metrics would be too good."""
    trained = {path: entry.dataset.name for entry in sets for path in image_files(entry.dataset)}
    for dataset in unseen:
        shared = [path for path in image_files(dataset) if path in trained]
        if shared:
            raise ConfigError(
                f"{len(shared)} of {len(dataset)} images of {dataset.name} are in the training set {trained[shared[0]]} too, "
                f"the first is {shared[0]}; select different ones (docs/data.md, select)"
            )
