"""The training loop: no waiting for the device within a step, time limit, checkpoints, loader workers."""

from __future__ import annotations

import subprocess
import sys
import time
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from support.training import datasets_fixture, read_log, train, write_config
from torch.utils._python_dispatch import TorchDispatchMode

from mtl_perception.errors import PerceptionError, SourceError
from mtl_perception.labels import STREET
from mtl_perception.training import loader as loader_module
from mtl_perception.training.config import TrainConfig
from mtl_perception.training.config_file import read_config
from mtl_perception.training.data.training_set import open_training_sets
from mtl_perception.training.initialize import initialize_network
from mtl_perception.training.loader import TrainingSamples, batch_indices, load
from mtl_perception.training.loop import schedule as schedule_module
from mtl_perception.training.loop.checkpoint import newest_checkpoint, save_checkpoint
from mtl_perception.training.loop.journal import Journal, LoggedStep
from mtl_perception.training.loop.learner import Batch
from mtl_perception.training.loop.processes import Processes
from mtl_perception.training.loop.schedule import FINAL_RATE, Schedule, TimeLimit, learning_rate
from mtl_perception.training.loop.trainer import Trainer
from mtl_perception.weights.files import load_network

data = datasets_fixture()

WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "item", "equal")
"""Operations whose result or shape the CPU must know, so that it waits for the GPU."""


class Operations(TorchDispatchMode):
    """Records the name of each operation, and of indexing by a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.overloadpacket.__name__
        masks = name.startswith("index") and any(
            isinstance(index, torch.Tensor) and index.dtype in (torch.bool, torch.uint8)
            for index in (args[1] if len(args) > 1 and isinstance(args[1], list | tuple) else ())
        )
        self.names.append("nonzero" if masks else name)
        return function(*args, **(kwargs or {}))


def make_trainer(data: Path, out: Path, **changes: object) -> tuple[Trainer, dict[str, torch.Tensor]]:
    """Return a trainer and a batch."""
    config = read_config(write_config(data, "loop", **changes))
    examples = TrainingSamples(config, STREET, open_training_sets(config.sets, data))
    trainer = Trainer(config, initialize_network(config), examples, out, Processes(0, 1, torch.device("cpu")))
    trainer.learner.train()
    [batch] = [batch for batch, _ in zip(loader_of(examples, config), range(1), strict=False)]
    return trainer, batch


def loader_of(examples: Any, config: TrainConfig, first_step: int = 0) -> Any:
    return load(examples, batch_indices(config, first_step, 0, 1, lambda: 0.0), config, pin=False)


@pytest.mark.parametrize("loss", ["log_l1", "berhu", "silog"])
def test_step_never_waits_for_the_device(data: Path, tmp_path: Path, loss: str) -> None:
    changes = {"depth": {"loss": loss, "focal_length": 100.0}, "overlap": 0.5, "balance": "uncertainty"}
    trainer, loaded = make_trainer(data, tmp_path, **changes)
    trainer._learn(Batch.of(loaded, trainer._mean, trainer._std))
    with Operations() as operations:
        trainer._learn(Batch.of(loaded, trainer._mean, trainer._std))
    assert len(operations.names) > 500
    assert [name for name in operations.names if name in WAITING] == []


def test_the_loss_does_not_depend_on_the_order_of_the_tasks(data: Path, tmp_path: Path) -> None:
    losses = []
    for tasks in (["segmentation"], ["depth"], ["segmentation", "depth"], ["depth", "segmentation"]):
        trainer, loaded = make_trainer(data, tmp_path, tasks=tasks, task_weights=[1, 3])
        loss, _ = trainer.learner(Batch.of(loaded, trainer._mean, trainer._std), trainer.dtype)
        losses.append(float(loss.detach()))
    # Each task has its own weight, alone as with the other.
    assert losses[2] == pytest.approx(losses[0] + losses[1])
    assert losses[3] == pytest.approx(losses[2])


def test_optimizer_and_weight_average_take_few_calls(data: Path, tmp_path: Path) -> None:
    trainer, _ = make_trainer(data, tmp_path)
    assert trainer._optimizer.defaults["fused"]
    with Operations() as operations:
        trainer._average.update(5)
    assert 1 <= len(operations.names) <= 2


def test_weight_average_is_exponential_and_shares_nothing_with_the_network(data: Path, tmp_path: Path) -> None:
    trainer, _ = make_trainer(data, tmp_path, optimizer={"ema": 0.5})
    live, average = (network.get_parameter("depth.bias") for network in (trainer.network, trainer._average.network))
    before = float(average)
    with torch.no_grad():
        live += 1.0
    trainer._average.update(1000)
    assert float(average) == pytest.approx(before + 0.5)
    trainer._average.update(0)
    # At step 0 the average keeps 1 / 20 of its value.
    assert float(average) == pytest.approx(before + 1.0 - 0.5 / 20)
    assert float(trainer.averaged().get_parameter("depth.bias")) == float(average)
    assert not any(parameter.requires_grad for parameter in trainer.averaged().parameters())


def test_mixed_precision_keeps_parameters_and_losses_in_float32(data: Path, tmp_path: Path) -> None:
    trainer, loaded = make_trainer(data, tmp_path, precision="bf16")
    assert trainer.dtype == torch.bfloat16
    loss, logged = trainer.learner(Batch.of(loaded, trainer._mean, trainer._std), trainer.dtype)
    assert (loss.dtype, logged.dtype) == (torch.float32, torch.float32)
    assert {parameter.dtype for parameter in trainer.learner.parameters()} == {torch.float32}
    assert trainer.network.get_parameter("conv8.weight").is_contiguous(memory_format=torch.channels_last)


def test_losses_are_read_together_and_a_non_finite_one_names_its_step(data: Path, tmp_path: Path) -> None:
    trainer, _ = make_trainer(data, tmp_path)
    for step in (1, 2, 3):
        trainer._pending.append((step, torch.tensor([step, 0.0, 0.0 if step < 3 else float("nan")]), 0.1, 1.0))
    with pytest.raises(PerceptionError, match=r"training step 2: the loss is \[3.0, 0.0, nan\]"):
        trainer._read_losses(None)


def test_workers_use_one_thread_and_ignore_signals_to_the_run(data: Path) -> None:
    import signal

    class Probe:
        def __getitem__(self, index: tuple[int, bool]) -> list[int]:
            return [cv2.getNumThreads(), int(signal.getsignal(signal.SIGTERM) == signal.SIG_IGN), index[0]]

    config = read_config(write_config(data, "probe", workers=1, batch=1, steps=2))
    values = [[int(value) for value in row] for row in loader_of(Probe(), config)]
    assert values == [[1, 1, 0], [1, 1, 1]]


def test_processes_share_the_batch_and_mark_samples_of_the_late_part() -> None:
    config = TrainConfig("x", ({"path": "y"},), steps=10, batch=4)
    parts = [list(batch_indices(config, 6, rank, 2, lambda: 0.0)) for rank in (0, 1)]
    assert [a + b for a, b in zip(*parts, strict=True)] == [
        [(number, step >= 7) for number in range(4 * step, 4 * step + 4)] for step in range(6, 10)
    ]
    # In a time-limited run, the elapsed time marks the late part as well.
    assert all(late for batch in batch_indices(config, 0, 0, 1, lambda: 0.7) for _, late in batch)


def test_schedule_follows_steps_or_time_whichever_is_further(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(schedule_module.time, "monotonic", lambda: now)
    limit = TimeLimit(minutes=10, started=900.0)
    assert (limit.end, limit.last_step) == (1500.0, 1455.0)
    plan = Schedule(100, limit)
    assert plan.progress(50, plan.time_share()) == 0.5
    now = 1000 + 0.8 * 455
    assert plan.progress(50, plan.time_share()) == pytest.approx(0.8)
    assert learning_rate(50, plan.progress(50, plan.time_share()), TrainConfig("x", ({"path": "y"},)).optimizer) < 0.12
    now = 1456.0
    assert plan.progress(50, plan.time_share()) == 1.0
    with pytest.raises(PerceptionError, match=r"no time is left to train: preparations took 9.3 of 10 min"):
        Schedule(100, limit)
    assert Schedule(100, TimeLimit(), 0.9).progress(25, 0.0) == 0.25
    # A resumed run spreads the remaining progress over its own time limit.
    now = 900.0
    resumed = Schedule(100, limit, progress=0.5)
    now = 900 + 555 / 2
    assert resumed.time_share() == pytest.approx(0.75)


def test_time_limited_run_anneals_and_writes_its_weights(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Each step takes half a second of this clock.
    clock = count(time.monotonic(), 0.5)
    monkeypatch.setattr(schedule_module, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    path = write_config(data, "limited", steps=100000, epoch=100000, held_out=[{"path": "unseen", "format": "folder"}])
    train(path, tmp_path, "--minutes", "0.2")
    rows = read_log(tmp_path)
    rates = [float(row["rate"]) for row in rows]
    assert rates[-1] < 0.5 * max(rates)
    assert len(rows) < 1000 and float(rows[-1]["seconds"]) < 60
    card = load_network(tmp_path / "tiny.safetensors").description.card
    assert card["steps"] == len(rows)


def test_weights_have_a_card_if_the_final_evaluation_is_interrupted(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*arguments: object) -> None:
        raise PerceptionError("interrupted")

    monkeypatch.setattr("mtl_perception.training.finalize.evaluate_weights", interrupt)
    train(write_config(data, "interrupted", steps=1, held_out=[{"path": "unseen", "format": "folder"}]), tmp_path, code=1)
    card = load_network(tmp_path / "tiny.safetensors").description.card
    assert (card["steps"], card["held_out"], card["metrics"]) == (1, ["unseen: 4 images"], {})


def test_learning_rate_ends_at_its_lowest_at_the_time_limit() -> None:
    optimizer = TrainConfig("x", ({"path": "y"},)).optimizer
    assert learning_rate(1000, 1.0, optimizer) == pytest.approx(FINAL_RATE)


def test_a_log_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    journal = Journal(tmp_path, TrainConfig("run", sets=({"path": "data"},)), 0)
    (tmp_path / "log.csv").unlink()
    (tmp_path / "log.csv").mkdir()
    with pytest.raises(SourceError, match=r"cannot write .*log\.csv: Is a directory"):
        journal.write([LoggedStep(1, np.zeros(3, np.float32), 1e-3, 0.5)])


def test_checkpoints_are_written_by_time_with_usable_weights(data: Path, tmp_path: Path) -> None:
    path = write_config(data, "timed", steps=3, epoch=1000, checkpoint_minutes=1e-6)
    train(path, tmp_path)
    assert [file.name for file in sorted(tmp_path.glob("*.checkpoint"))] == [
        "step-0000002.checkpoint",
        "step-0000003.checkpoint",
    ]
    latest = load_network(tmp_path / "tiny-latest.safetensors")
    assert latest.description.card == {"step": 3, "complete": False}
    assert latest.description.classes == STREET.names


def test_a_run_that_resumed_from_an_older_checkpoint_keeps_its_own_checkpoints(tmp_path: Path) -> None:
    for step in (100, 200, 300):
        save_checkpoint(tmp_path, step, {})
    assert sorted(file.name for file in tmp_path.iterdir()) == ["step-0000200.checkpoint", "step-0000300.checkpoint"]
    save_checkpoint(tmp_path, 250, {})
    assert sorted(file.name for file in tmp_path.iterdir()) == ["step-0000200.checkpoint", "step-0000250.checkpoint"]
    assert newest_checkpoint(tmp_path) == tmp_path / "step-0000250.checkpoint"


def test_a_resumed_run_uses_the_optimizer_of_its_own_configuration(data: Path, tmp_path: Path) -> None:
    before, batch = make_trainer(data, tmp_path, optimizer={"decoder": 1e-3, "weight_decay": 1e-4, "warm_up": 0})
    before._save()
    after, _ = make_trainer(data, tmp_path, optimizer={"decoder": 2e-3, "weight_decay": 0.5, "warm_up": 0})
    after.resume()
    after._learn(Batch.of(batch, after._mean, after._std))
    assert [group["weight_decay"] for group in after._optimizer.param_groups] == [0.5, 0.5]
    assert after._optimizer.param_groups[-1]["lr"] == 2e-3


def test_a_resumed_log_keeps_the_complete_lines_until_its_step(tmp_path: Path) -> None:
    config = TrainConfig("run", sets=({"path": "data"},))
    Journal(tmp_path, config, 0).write([LoggedStep(step, np.ones(3, np.float32), 1e-3, 0.5) for step in (1, 2, 30)])
    with (tmp_path / "log.csv").open("a") as log:
        log.write("1")  # The line of step 12 of a process that was killed while it wrote.
    Journal(tmp_path, config, 2)
    assert [row["step"] for row in read_log(tmp_path)] == ["1", "2"]


def test_both_memory_layouts_compute_the_same_step(data: Path, tmp_path: Path) -> None:
    losses = {}
    for channels_last in (True, False):
        trainer, loaded = make_trainer(data, tmp_path, start="street", channels_last=channels_last)
        batch = Batch.of(loaded, trainer._mean, trainer._std, trainer._layout)
        assert batch.image.is_contiguous(memory_format=torch.channels_last) == channels_last
        losses[channels_last] = trainer._learn(batch)
    assert torch.allclose(losses[True], losses[False], rtol=1e-4)


def test_workers_send_the_same_batches_with_little_shared_memory(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = read_config(write_config(data, "shared", steps=3, workers=2))
    samples = TrainingSamples(config, STREET, open_training_sets(config.sets, data))
    shared = list(loader_of(samples, config))
    monkeypatch.setattr(loader_module, "_free_shared_memory", lambda: 64 * 1024.0)
    copied = list(loader_of(samples, config))
    assert len(shared) == len(copied) == 3
    for one, other in zip(shared, copied, strict=True):
        assert one["image"].is_shared() and not other["image"].is_shared()
        for name, values in one.items():
            assert values.dtype == other[name].dtype and torch.equal(values.nan_to_num(), other[name].nan_to_num()), name


def test_sample_sheet_shows_few_images(data: Path, tmp_path: Path) -> None:
    trainer, batch = make_trainer(data, tmp_path, batch=6)
    Journal(tmp_path, trainer.config, 0).write_samples(1, trainer.averaged(), batch, trainer.dtype)
    sheet = cv2.imread(str(tmp_path / "samples/step-0000001.jpg"))
    assert sheet.shape == (3 * 64, 5 * 128, 3)
    assert 0 < float(np.mean(sheet)) < 255


def test_training_runs_without_optional_packages() -> None:
    absent = ("open3d", "rosbags", "av", "openvino", "rclpy", "pydantic", "h5py", "pooch", "mcap", "matplotlib", "torchmetrics")
    program = f"""
import sys
sys.modules.update(dict.fromkeys({absent!r}))
import mtl_perception.cli.train, mtl_perception.training.run
from mtl_perception.__main__ import main
main(["train", "--help"])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--minutes" in done.stdout
