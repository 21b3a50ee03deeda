"""Processes of a run: a single one, or those that torchrun starts."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mtl_perception.errors import ConfigError
from mtl_perception.inference.device import select_device

TIMEOUT = timedelta(hours=12)
"""Longest wait for the first process, which alone writes pseudo-labels and evaluates."""


@dataclass(frozen=True)
class Processes:
    """This process among the others.

    Attributes:
        rank: Number of this process, from 0.
        world: Number of processes.
        device: Device of this process.
    """

    rank: int
    world: int
    device: torch.device

    @classmethod
    def join(cls, device: str = "auto") -> Processes:
        """Join the processes that the environment variables of torchrun describe; without them there is only this one.

        Args:
            device: auto, cpu, cuda or cuda:N; with several processes each uses the GPU of its local rank.

        Raises:
            DeviceError: The device does not exist.
        """
        world, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
        selected = select_device(device)
        if world == 1:
            return cls(0, 1, selected)
        if selected.type == "cuda":
            selected = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
            torch.cuda.set_device(selected)
        dist.init_process_group("nccl" if selected.type == "cuda" else "gloo", timeout=TIMEOUT)
        return cls(rank, world, selected)

    @property
    def first(self) -> bool:
        """Whether this process writes files and messages."""
        return self.rank == 0

    def check_batch(self, batch: int) -> None:
        """Check that a batch can be split evenly.

        Raises:
            ConfigError: It cannot.
        """
        if batch % self.world:
            raise ConfigError(f"batch {batch} is not divisible by {self.world} processes; choose a multiple")

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum of the values of all processes, without a gradient."""
        values = values.detach().clone()
        if self.world > 1:
            dist.all_reduce(values)
        return values

    def maximum(self, *values: float) -> list[float]:
        """Return the element-wise maximum over all processes. With several processes the CPU waits for the device."""
        if self.world == 1:
            return list(values)
        shared = torch.tensor(values, device=self.device, dtype=torch.float64)
        dist.all_reduce(shared, dist.ReduceOp.MAX)
        return [float(value) for value in shared.tolist()]

    def wait(self) -> None:
        """Wait for all processes."""
        if self.world > 1:
            dist.barrier()

    def wrap(self, module: nn.Module) -> nn.Module:
        """Return the module with gradients averaged over the processes."""
        if self.world == 1:
            return module
        devices = [self.device.index] if self.device.type == "cuda" else None
        return DistributedDataParallel(module, device_ids=devices)

    def leave(self) -> None:
        """Leave the process group, if there is one."""
        if self.world > 1 and dist.is_initialized():
            dist.destroy_process_group()
