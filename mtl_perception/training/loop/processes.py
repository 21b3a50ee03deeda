"""The processes of one run: one alone, or those that torchrun starts."""

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

PATIENCE = timedelta(hours=12)


@dataclass(frozen=True)
class Processes:
    """This process among the others.

    Attributes:
        rank: Its number, from 0.
        world: How many there are.
        device: Where it computes.
    """

    rank: int
    world: int
    device: torch.device

    @classmethod
    def join(cls, device: str = "auto") -> Processes:
        """Join those that torchrun started, told by its environment variables; without them this process is alone.

        Args:
            device: auto, cpu, cuda or cuda:N; with several processes each takes the GPU of its local rank.

        Raises:
            DeviceError: The device is absent.
        """
        world, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
        chosen = select_device(device)
        if world == 1:
            return cls(0, 1, chosen)
        if chosen.type == "cuda":
            chosen = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
            torch.cuda.set_device(chosen)
        # The first process teaches and evaluates alone; the others wait for it.
        dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo", timeout=PATIENCE)
        return cls(rank, world, chosen)

    @property
    def first(self) -> bool:
        """Whether this is the one that writes files and speaks."""
        return self.rank == 0

    def check_batch(self, batch: int) -> None:
        """A batch must divide evenly.

        Raises:
            ConfigError: It does not.
        """
        if batch % self.world:
            raise ConfigError(f"batch {batch} does not divide by {self.world} processes: choose a multiple")

    def sum(self, values: Tensor) -> Tensor:
        """The sum of the processes' values, without a gradient."""
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
        """Until all are here."""
        if self.world > 1:
            dist.barrier()

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module with its gradients averaged over the processes."""
        if self.world == 1:
            return module
        devices = [self.device.index] if self.device.type == "cuda" else None
        return DistributedDataParallel(module, device_ids=devices)

    def leave(self) -> None:
        """End the group, if there is one."""
        if self.world > 1 and dist.is_initialized():
            dist.destroy_process_group()
