"""The loop: batches in, steps of the optimizer, and nothing lost when it is stopped."""

from __future__ import annotations

import json
import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mtl_perception.errors import ConfigError, PerceptionError
from mtl_perception.inference.torch.engine import DTYPES, device_errors
from mtl_perception.network.model import MultiTaskRefineNet
from mtl_perception.progress import progress_bar
from mtl_perception.training.batches import Examples, load
from mtl_perception.training.checkpoint import newest_checkpoint, read_checkpoint, save_checkpoint
from mtl_perception.training.config import Optimizer, TrainConfig
from mtl_perception.training.journal import Journal
from mtl_perception.training.learner import Batch, Learner
from mtl_perception.training.processes import Processes

FINAL_RATE = 0.01
"""Of the learning rate, at the end of the cosine."""


def select_dtype(precision: str, device: torch.device) -> torch.dtype:
    """The arithmetic of a run; `auto` is bfloat16 where the device computes it in hardware.

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
    """Without it oneDNN has no bfloat16 convolutions, and PyTorch's own are tens of times slower than float32."""
    probes = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(probe() for probe in probes if probe is not None)


def learning_rate(step: int, steps: int, how: Optimizer) -> float:
    """Factor on the learning rates: a linear warm-up, then half a cosine down to FINAL_RATE."""
    warm = min((step + 1) / max(how.warm_up, 1), 1.0)
    return warm * (FINAL_RATE + (1 - FINAL_RATE) * 0.5 * (1 + math.cos(math.pi * min(step / steps, 1.0))))


class Trainer:
    """One run.

    `step` counts the steps done, `seconds` their time over all sessions; `changes` tells, after `resume`, in what the
    configuration differs from that of the checkpoint.

    Args:
        config: What is to be done.
        network: At step 0; it learns in place.
        examples: What it learns from.
        out: The run's folder.
        processes: This process among the others.
    """

    def __init__(
        self, config: TrainConfig, network: MultiTaskRefineNet, examples: Examples, out: Path, processes: Processes
    ) -> None:
        processes.check_batch(config.batch)
        self.config, self.out, self.processes = config, out, processes
        self.dtype = select_dtype(config.precision, processes.device)
        # Every batch has the same size, so the search for the fastest kernels pays.
        torch.backends.cudnn.benchmark = processes.device.type == "cuda"
        self.step, self.seconds = 0, 0.0
        self.changes: list[str] = []
        self._examples = examples
        description = network.description
        self._mean, self._std = (
            torch.tensor(values, device=processes.device).view(1, 3, 1, 1) for values in (description.mean, description.std)
        )
        with device_errors(processes.device, "loading the network"):
            self.learner = Learner(network, config, processes).to(processes.device)
            self.learner.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if config.optimizer.batch_norm == "train" and processes.world > 1:
            self.learner = nn.SyncBatchNorm.convert_sync_batchnorm(self.learner)  # type: ignore[no-untyped-call]
        self._ema = {name: value.detach().clone() for name, value in self.network.state_dict().items()}
        self._optimizer = torch.optim.AdamW(self._groups(), weight_decay=config.optimizer.weight_decay)
        self._rates = [float(group["lr"]) for group in self._optimizer.param_groups]
        self._scaler = torch.amp.GradScaler(processes.device.type, enabled=self.dtype == torch.float16)
        self._wrapped = processes.wrap(self.learner)
        self._stop = False

    @property
    def network(self) -> MultiTaskRefineNet:
        """The network as it learns."""
        return self.learner.network

    def averaged(self) -> MultiTaskRefineNet:
        """A copy of the network with the running average of its weights, on the CPU, for inference."""
        copy = MultiTaskRefineNet(self.network.description)
        copy.load_state_dict({name: value.cpu() for name, value in self._ema.items()})
        return copy.eval().requires_grad_(False)

    def resume(self, checkpoint: Path | None = None) -> int:
        """Go on from a checkpoint; without one from the run's newest, if there is any.

        Returns:
            The step that comes next.

        Raises:
            ConfigError: The checkpoint cannot be used.
        """
        path = checkpoint or newest_checkpoint(self.out)
        if path is None:
            return 0
        state = read_checkpoint(path)
        try:
            self.network.load_state_dict(state["network"])
            self._ema = {name: value.to(self.processes.device) for name, value in state["ema"].items()}
            self._optimizer.load_state_dict(state["optimizer"])
            self.learner.balance.load_state_dict(state["balance"])
            self._scaler.load_state_dict(state["scaler"])
        except (RuntimeError, ValueError, KeyError) as error:
            raise ConfigError(f"{path}: does not fit this run: {str(error).splitlines()[0]}") from error
        self.step, self.seconds = int(state["step"]), float(state["seconds"])
        now = json.loads(json.dumps(asdict(self.config)))
        before = state["config"] if isinstance(state.get("config"), dict) else {}
        self.changes = [f"{key} was {before[key]}, is {now[key]}" for key in now if before.get(key, now[key]) != now[key]]
        return self.step

    def run(self, evaluate: Callable[[MultiTaskRefineNet, int], None] | None = None) -> bool:
        """Train to the last step.

        Args:
            evaluate: Called every `config.evaluate` steps with the averaged network and the step, in the first process.

        Returns:
            Whether the last step was reached; not so when SIGINT or SIGTERM asked to stop. Both leave a checkpoint.

        Raises:
            PerceptionError: The loss is no longer a number, or data or device failed.
        """
        pin = self.processes.device.type == "cuda"
        loader = load(self._examples, self.config, self.step, self.processes.rank, self.processes.world, pin)
        journal = Journal(self.out, self.config, self.step) if self.processes.first else None
        began, before = time.monotonic(), self.seconds
        hidden = None if self.processes.first else True
        with self._stoppable(), progress_bar(total=self.config.steps, initial=self.step, unit="step", disable=hidden) as bar:
            for loaded in loader:
                batch = Batch.of(loaded, self._mean, self._std)
                with device_errors(self.processes.device, f"training step {self.step}"):
                    losses = self._learn(batch)
                self.step += 1
                self.seconds = before + time.monotonic() - began
                if journal is not None:
                    journal.step(self.step, losses, self._optimizer.param_groups[-1]["lr"], self.seconds)
                    bar.set_postfix_str(journal.line, refresh=False)
                bar.update()
                if self.processes.any(self._stop):
                    self._save()
                    return False
                if self.step % self.config.epoch == 0 or self.step == self.config.steps:
                    self._save()
                    if journal is not None:
                        journal.epoch(self.step, self.averaged(), loaded)
                if (
                    evaluate
                    and self.config.evaluate
                    and self.step % self.config.evaluate == 0
                    and self.step < self.config.steps
                ):
                    if self.processes.first:
                        evaluate(self.averaged(), self.step)
                    self.processes.wait()
        return True

    def _learn(self, batch: Batch) -> Tensor:
        """One step of the optimizer; the losses of the whole batch."""
        self.learner.train()
        factor = learning_rate(self.step, self.config.steps, self.config.optimizer)
        for group, rate in zip(self._optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * factor
        loss, logged = self._wrapped(batch, self.dtype)
        losses = self.processes.sum(logged)
        if not bool(torch.isfinite(losses).all()):
            raise PerceptionError(
                f"training step {self.step}: the loss is {losses.tolist()}; the last checkpoint is in {self.out}; "
                "try a lower learning rate, or precision fp32"
            )
        self._optimizer.zero_grad(set_to_none=True)
        self._scaler.scale(loss).backward()
        self._scaler.unscale_(self._optimizer)
        nn.utils.clip_grad_norm_(self.learner.parameters(), self.config.optimizer.clip)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        # A young average would remember the start for long.
        decay = min(self.config.optimizer.ema, (self.step + 1) / (self.step + 20))
        with torch.no_grad():
            for name, value in self.network.state_dict().items():
                if value.is_floating_point():
                    self._ema[name].lerp_(value, 1 - decay)
                else:
                    self._ema[name].copy_(value)
        return losses

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
            "ema": self._ema,
            "optimizer": self._optimizer.state_dict(),
            "balance": self.learner.balance.state_dict(),
            "scaler": self._scaler.state_dict(),
            "seconds": self.seconds,
            "config": json.loads(json.dumps(asdict(self.config))),
        }
        save_checkpoint(self.out, self.step, state)

    @contextmanager
    def _stoppable(self) -> Iterator[None]:
        """SIGINT and SIGTERM end the run after the step in work."""

        def stop(*_: object) -> None:
            self._stop = True

        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
