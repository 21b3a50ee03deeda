"""The training loop, with checkpoints and a time limit."""

from __future__ import annotations

import copy
import json
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mtl_perception.errors import ConfigError, PerceptionError
from mtl_perception.inference.device import DTYPES, device_errors
from mtl_perception.network.model import MultiTaskRefineNet
from mtl_perception.progress import progress_bar
from mtl_perception.training.config import TrainConfig
from mtl_perception.training.loader import TrainingSamples, batch_indices, load
from mtl_perception.training.loop.average import WeightAverage
from mtl_perception.training.loop.checkpoint import LATEST, newest_checkpoint, read_checkpoint, save_checkpoint
from mtl_perception.training.loop.journal import Journal, LoggedStep
from mtl_perception.training.loop.learner import Batch, Learner
from mtl_perception.training.loop.processes import Processes
from mtl_perception.training.loop.schedule import Schedule, TimeLimit, learning_rate
from mtl_perception.weights.files import save_weights

READ_STEPS = 10
"""Steps on a GPU between two reads of the losses: each read makes the CPU wait for the GPU."""


def select_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Return the arithmetic of a run; `auto` is bfloat16 if the device supports it in hardware.

    Raises:
        ConfigError: float16 on a CPU.
    """
    if precision == "auto":
        has_bf16 = torch.cuda.is_bf16_supported() if device.type == "cuda" else _cpu_has_bf16()
        precision = "bf16" if has_bf16 else "fp32"
    if precision == "fp16" and device.type == "cpu":
        raise ConfigError("precision fp16 needs a GPU; on a CPU use fp32 or bf16")
    return DTYPES[precision]


def _cpu_has_bf16() -> bool:
    """Return whether oneDNN has bfloat16 convolutions; those of PyTorch are tens of times slower than float32."""
    probes = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(probe() for probe in probes if probe is not None)


class Trainer:
    """The training loop of one run.

    `step` counts completed steps, `seconds` their time over all sessions; after `resume`, `changes` lists the keys in which
    the configuration differs from that of the checkpoint.

    Args:
        config: The run.
        network: Network to train, in place.
        samples: Training samples.
        out: Folder of the run.
        processes: This process among the others.
        limit: Time limit of this session.
    """

    def __init__(
        self,
        config: TrainConfig,
        network: MultiTaskRefineNet,
        samples: TrainingSamples,
        out: Path,
        processes: Processes,
        limit: TimeLimit | None = None,
    ) -> None:
        processes.check_batch(config.batch)
        self.config, self.out, self.processes = config, out, processes
        self.limit = limit or TimeLimit(config.minutes)
        self.dtype = select_dtype(config.precision, processes.device)
        # All batches have the same size, so searching for the fastest kernels pays.
        torch.backends.cudnn.benchmark = processes.device.type == "cuda"
        self._layout = torch.channels_last if config.channels_last else torch.contiguous_format
        self.step, self.seconds = 0, 0.0
        self.changes: list[str] = []
        self._samples = samples
        self._progress, self._time_share = 0.0, 0.0
        self._pending: list[tuple[int, Tensor, float, float]] = []
        description = network.description
        self._mean, self._std = (
            torch.tensor(values, device=processes.device).view(1, 3, 1, 1) for values in (description.mean, description.std)
        )
        with device_errors(processes.device, "loading the network"):
            self.learner = Learner(network, config, processes).to(processes.device)
            self.learner.to(memory_format=self._layout)  # type: ignore[call-overload]
            self._average = WeightAverage(network, config.optimizer.ema)
        if config.optimizer.batch_norm == "train" and processes.world > 1:
            self.learner = nn.SyncBatchNorm.convert_sync_batchnorm(self.learner)  # type: ignore[no-untyped-call]
        self._optimizer = torch.optim.AdamW(self._groups(), weight_decay=config.optimizer.weight_decay, fused=True)
        self._rates = [float(group["lr"]) for group in self._optimizer.param_groups]
        self._scaler = torch.amp.GradScaler(processes.device.type, enabled=self.dtype == torch.float16)
        self._wrapped = processes.wrap(self.learner)
        self._stop = False

    @property
    def network(self) -> MultiTaskRefineNet:
        """The network in training."""
        return self.learner.network

    def averaged(self) -> MultiTaskRefineNet:
        """Return a copy of the averaged network, on the CPU, for inference."""
        return copy.deepcopy(self._average.network).cpu()

    def resume(self, checkpoint: Path | None = None) -> int:
        """Continue from a checkpoint; without one from the newest of the run, if there is any.

        Returns:
            Number of steps done.

        Raises:
            ConfigError: The checkpoint cannot be used.
        """
        path = checkpoint or newest_checkpoint(self.out)
        if path is None:
            return 0
        state = read_checkpoint(path)
        try:
            self.network.load_state_dict(state["network"])
            self._average.network.load_state_dict(state["ema"])
            self._optimizer.load_state_dict(state["optimizer"])
            self.learner.balance.load_state_dict(state["balance"])
            self._scaler.load_state_dict(state["scaler"])
        except (RuntimeError, ValueError, KeyError) as error:
            raise ConfigError(f"{path}: does not match this run: {str(error).splitlines()[0]}") from error
        for group in self._optimizer.param_groups:
            # Loading replaces it by that of the checkpoint.
            group["weight_decay"] = self.config.optimizer.weight_decay
        self.step, self.seconds = int(state["step"]), float(state["seconds"])
        self._progress = float(state.get("progress", 0.0))
        now = json.loads(json.dumps(asdict(self.config)))
        before = state["config"] if isinstance(state.get("config"), dict) else {}
        self.changes = [f"{key} was {before[key]}, is {now[key]}" for key in now if before.get(key, now[key]) != now[key]]
        return self.step

    def run(self, evaluate: Callable[[MultiTaskRefineNet, int], None] | None = None) -> bool:
        """Train to the last step, or until the time limit.

        Args:
            evaluate: Called every `config.evaluate` steps with the averaged network and the step, in the first process.

        Returns:
            Whether the run is complete; False after SIGINT or SIGTERM. Both leave a checkpoint.

        Raises:
            PerceptionError: The loss is not finite, no time is left, or data or device failed.
        """
        schedule = Schedule(self.config.steps, self.limit, self._progress)
        self._time_share = schedule.time_share()
        self._progress = schedule.progress(self.step, self._time_share)
        if self._progress >= 1:
            return True
        indices = batch_indices(self.config, self.step, self.processes.rank, self.processes.world, lambda: self._progress)
        batches = load(self._samples, indices, self.config, pin=self.processes.device.type == "cuda")
        journal = Journal(self.out, self.config, self.step) if self.processes.first else None
        hidden = None if self.processes.first else True
        self.learner.train()
        bar = progress_bar(total=self.config.steps, initial=self.step, unit="step", disable=hidden)
        with closing(batches), self._stoppable(), bar:
            return self._loop(batches, schedule, journal, bar, evaluate)

    def _loop(
        self,
        loader: Iterable[dict[str, Tensor]],
        schedule: Schedule,
        journal: Journal | None,
        bar: Any,
        evaluate: Callable[[MultiTaskRefineNet, int], None] | None,
    ) -> bool:
        began, before = time.monotonic(), self.seconds
        checkpoint_due = began + 60 * self.config.checkpoint_minutes
        interval = READ_STEPS if self.processes.device.type == "cuda" else 1
        for loaded in loader:
            self._progress = schedule.progress(self.step, self._time_share)
            with device_errors(self.processes.device, f"training step {self.step}"):
                losses = self._learn(Batch.of(loaded, self._mean, self._std, self._layout))
            self.step += 1
            self.seconds = before + time.monotonic() - began
            self._pending.append((self.step, losses, self._optimizer.param_groups[-1]["lr"], self.seconds))
            stop, self._time_share = self._agree(schedule, interval)
            last = schedule.progress(self.step, self._time_share) >= 1
            epoch = self.step % self.config.epoch == 0 or last
            save = epoch or stop or time.monotonic() >= checkpoint_due
            if save or self.step % interval == 0:
                self._read_losses(journal)
                bar.set_postfix_str(journal.line if journal else "", refresh=False)
            bar.update()
            if save:
                self._progress = schedule.progress(self.step, self._time_share)
                self._save()
                checkpoint_due = time.monotonic() + 60 * self.config.checkpoint_minutes
            if stop and not last:
                return False
            if epoch and journal is not None:
                journal.write_samples(self.step, self._average.network, loaded, self.dtype)
            if last:
                return True
            if evaluate and self.config.evaluate and self.step % self.config.evaluate == 0:
                if self.processes.first:
                    evaluate(self.averaged(), self.step)
                self.processes.wait()
        return True

    def _agree(self, schedule: Schedule, interval: int) -> tuple[bool, float]:
        """Return whether any process shall stop, and the largest time share: the same values in all processes."""
        if self.processes.world > 1 and self.step % interval:
            return False, self._time_share
        stop, share = self.processes.maximum(float(self._stop), schedule.time_share())
        return stop > 0, share

    def _learn(self, batch: Batch) -> Tensor:
        """Take one optimizer step without waiting for the device.

        Returns:
            3 float32 on the device: losses of the whole batch.
        """
        factor = learning_rate(self.step, self._progress, self.config.optimizer)
        for group, rate in zip(self._optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * factor
        loss, logged = self._wrapped(batch, self.dtype)
        losses = self.processes.sum(logged)
        self._optimizer.zero_grad(set_to_none=True)
        self._scaler.scale(loss).backward()
        self._scaler.unscale_(self._optimizer)
        nn.utils.clip_grad_norm_(self.learner.parameters(), self.config.optimizer.clip)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._average.update(self.step)
        return losses

    def _read_losses(self, journal: Journal | None) -> None:
        """Fetch the losses of the steps since the last call in one copy, and log them."""
        if not self._pending:
            return
        steps, losses, rates, seconds = zip(*self._pending, strict=True)
        self._pending.clear()
        with device_errors(self.processes.device, f"training step {self.step}"):
            values = torch.stack(losses).cpu().numpy()
        logged = [LoggedStep(*entry) for entry in zip(steps, values, rates, seconds, strict=True)]
        for entry in logged:
            if not np.isfinite(entry.losses).all():
                raise PerceptionError(
                    f"training step {entry.step - 1}: the loss is {entry.losses.tolist()}; the last checkpoint is in "
                    f"{self.out}; try a lower learning rate, or precision fp32"
                )
        if journal is not None:
            journal.write(logged)

    def _groups(self) -> list[dict[str, Any]]:
        parts: dict[str, list[nn.Parameter]] = {"encoder": [], "decoder": []}
        for name, parameter in self.network.named_parameters():
            if parameter.requires_grad:
                parts["encoder" if name.startswith("layer") else "decoder"].append(parameter)
        parts["decoder"] += list(self.learner.balance.parameters())
        how = self.config.optimizer
        return [{"params": parts["encoder"], "lr": how.encoder}, {"params": parts["decoder"], "lr": how.decoder}]

    def _save(self) -> None:
        if not self.processes.first:
            return
        state = {
            "network": self.network.state_dict(),
            "ema": self._average.network.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "balance": self.learner.balance.state_dict(),
            "scaler": self._scaler.state_dict(),
            "seconds": self.seconds,
            "progress": self._progress,
            "config": json.loads(json.dumps(asdict(self.config))),
        }
        save_checkpoint(self.out, self.step, state)
        network = self._average.network
        description = replace(network.description, card={"step": self.step, "complete": False})
        save_weights(self.out / LATEST.format(self.config.name), network.state_dict(), description)

    @contextmanager
    def _stoppable(self) -> Iterator[None]:
        """Let SIGINT and SIGTERM end the run after the current step."""

        def stop(*_: object) -> None:
            self._stop = True

        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
