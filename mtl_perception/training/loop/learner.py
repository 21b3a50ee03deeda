"""Forward pass and total loss of a batch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mtl_perception.network.grid import STRIDE, upsample
from mtl_perception.network.model import MultiTaskRefineNet
from mtl_perception.training.augmentation.sample import PSEUDO_DEPTH, PSEUDO_LABELS
from mtl_perception.training.config import TASKS, TrainConfig
from mtl_perception.training.loop.losses import TaskBalance, depth_loss, overlap_loss, overlap_sums, segmentation_loss, sky_loss
from mtl_perception.training.loop.processes import Processes

SKY_WEIGHT = 0.1


@dataclass(frozen=True)
class Batch:
    """A batch on the device.

    Attributes:
        image: N x 3 x H x W float32, normalized.
        labels: N x H x W int64, 255 = unknown.
        depth: N x H x W float32, m, NaN = unknown, +Inf = the sky.
        pseudo: N x H x W uint8, see `TrainingSample`.
    """

    image: Tensor
    labels: Tensor
    depth: Tensor
    pseudo: Tensor

    @classmethod
    def of(
        cls, loaded: dict[str, Tensor], mean: Tensor, std: Tensor, layout: torch.memory_format = torch.channels_last
    ) -> Batch:
        """Copy a loaded batch to the device of `mean` and normalize it there, so that bytes and not floats are copied."""
        device = mean.device
        moved = {name: value.to(device, non_blocking=True) for name, value in loaded.items()}
        image = moved["image"].permute(0, 3, 1, 2).to(torch.float32, memory_format=layout)
        image = image.div_(255).sub_(mean).div_(std)
        return cls(image, moved["labels"].long(), moved["depth"], moved["pseudo"])


class Learner(nn.Module):
    """The network with its losses, as the one module that DistributedDataParallel wraps.

    Args:
        network: Network to train, in place.
        config: The run.
        processes: Losses are means over the pixels of all processes, so the result does not depend on their number.
    """

    def __init__(self, network: MultiTaskRefineNet, config: TrainConfig, processes: Processes) -> None:
        super().__init__()
        self.network = network
        weights = {task: weight for task, weight in zip(TASKS, config.task_weights, strict=True) if task in config.tasks}
        self.balance = TaskBalance(config.balance, tuple(weights.values()))
        self._config = config
        self._processes = processes
        classes = network.description.classes
        class_weights = torch.tensor([config.class_weights.get(name, 1.0) for name in classes])
        self.register_buffer("class_weights", class_weights, persistent=False)
        self._sky = classes.index("sky") if "sky" in classes else -1
        for task, head in zip(TASKS, ("segm", "depth"), strict=True):
            if task not in config.tasks:
                for part in (network.get_submodule(head), network.get_submodule(f"pre_{head}")):
                    part.requires_grad_(False)

    def train(self, mode: bool = True) -> Learner:
        """Set the mode. Frozen batch norm keeps its statistics, which small batches estimate badly."""
        super().train(mode)
        if mode and self._config.optimizer.batch_norm == "frozen":
            for module in self.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self

    def forward(self, batch: Batch, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Compute the loss.

        Args:
            batch: Batch of this process.
            dtype: Arithmetic of the network; losses are computed in float32.

        Returns:
            The loss, whose gradient, averaged over the processes, is that of one process with the whole batch. And 3 float32:
            the share of this process in the mean losses of segmentation, depth and sky.
        """
        with torch.autocast(batch.image.device.type, dtype, enabled=dtype != torch.float32):
            logits, raw = self.network(batch.image)[:2]
        size = batch.labels.shape[1:]
        grid = self.network.description.grid
        pseudo_weight = self._config.teacher.weight
        sums: dict[str, tuple[Tensor, Tensor]] = {}
        if "segmentation" in self._config.tasks:
            upsampled = upsample(STRIDE, logits.float(), size, grid)
            weight = torch.where((batch.pseudo & PSEUDO_LABELS) > 0, pseudo_weight, 1.0)
            sums["segmentation"] = segmentation_loss(upsampled, batch.labels, weight, self.get_buffer("class_weights"))
            overlap = self._overlap(upsampled, batch.labels, weight)
        if "depth" in self._config.tasks:
            target = self._config.depth
            log_depth = upsample(STRIDE, raw.float(), size, grid)[:, 0]
            pseudo = (batch.pseudo & PSEUDO_DEPTH) > 0
            weight = torch.where(pseudo, pseudo_weight, 1.0)
            sums["depth"] = depth_loss(log_depth, batch.depth, weight, target, pseudo)
            if target.sky > 0:
                sky = (batch.labels == self._sky) | torch.isinf(batch.depth)
                sums["sky"] = sky_loss(log_depth, sky, target.sky)
        totals = self._processes.sum(torch.stack([weight for _, weight in sums.values()]))
        means = {name: total / weight.clamp(min=1e-9) for (name, (total, _)), weight in zip(sums.items(), totals, strict=True)}
        if "segmentation" in means:
            means["segmentation"] = means["segmentation"] + overlap
        zero = logits.new_zeros((), dtype=torch.float32)
        logged = torch.stack([means.get(name, zero).detach() for name in ("segmentation", "depth", "sky")])
        if "sky" in means:
            means["depth"] = means["depth"] + SKY_WEIGHT * means.pop("sky")
        # DistributedDataParallel averages gradients; the factor turns the average into the sum.
        return self.balance(list(means.values())) * self._processes.world, logged

    def _overlap(self, logits: Tensor, labels: Tensor, weight: Tensor) -> Tensor:
        """Return the share of this process in the weighted overlap loss."""
        if self._config.overlap <= 0:
            return logits.new_zeros(())
        sums = overlap_sums(logits, labels, weight)
        return self._config.overlap * overlap_loss(sums, self._processes.sum(sums), self._processes.world)
