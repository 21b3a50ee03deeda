"""The network on the CPU in PyTorch."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor

from mtl_perception.inference.device import DTYPES, device_errors
from mtl_perception.inference.host.preprocess import Preprocessor
from mtl_perception.network.model import MultiTaskRefineNet
from mtl_perception.threads import available_cores

ALL_THREADS = min(torch.get_num_threads(), available_cores())
"""PyTorch's own choice, which follows affinity and OMP_NUM_THREADS, within the CPU quota of a container."""


class TorchEngine:
    """Run the network on the CPU in PyTorch.

    Args:
        network: What `load_network` returns; it is copied, not changed.
        precision: fp32 or bf16.
        threads: Number of threads; 0 leaves PyTorch's choice. This is one setting for the whole process.
        note: A remark for `notes` on why this engine was chosen; empty for none.

    Raises:
        DeviceError: There is not enough memory.
    """

    device = torch.device("cpu")

    def __init__(self, network: MultiTaskRefineNet, precision: str = "fp32", threads: int = 0, note: str = "") -> None:
        self._note = note
        self.precision = precision
        self.description = network.description
        torch.set_num_threads(threads or ALL_THREADS)
        dtype = DTYPES[precision]
        with device_errors(self.device, "loading the network"):
            self._network = copy.deepcopy(network).to(dtype).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            self._preprocess = Preprocessor(self.description, dtype)

    @property
    def name(self) -> str:
        """The library that runs the network, with its version."""
        return f"torch {torch.__version__}"

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks for the user on how the network runs."""
        return (self._note,) if self._note else ()

    def release(self) -> None:
        """Free what can be rebuilt on demand."""

    @torch.inference_mode()
    def forward(self, image: np.ndarray, input_scale: float = 1.0) -> tuple[Tensor, ...]:
        """Run one forward pass; see `Engine.forward`."""
        outputs = self._network(self._preprocess(image, input_scale))
        return tuple(output[0].float() for output in outputs)
