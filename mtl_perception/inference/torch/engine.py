"""Running the network: device and precision."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import cv2
import numpy as np
import torch
from torch import Tensor

from mtl_perception.errors import ConfigError, DeviceError
from mtl_perception.inference.cuda.runtime import is_out_of_memory
from mtl_perception.inference.host.preprocess import Preprocessor
from mtl_perception.network.model import MultiTaskRefineNet

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
GPU_ERRORS = ("CUDA error", "CUDA driver", "CUDA unknown error", "No CUDA GPUs", "CUDNN_STATUS", "CUBLAS_STATUS", "NVML")
"""One of them is in what is said where a GPU fails; errors of the program name cuda, too, such as tensors of two devices."""
ALL_THREADS = torch.get_num_threads()
"""PyTorch's own choice for this machine."""


def select_device(name: str) -> torch.device:
    """The device that a parameter value means.

    Args:
        name: auto, cpu, cuda or cuda:N.

    Raises:
        DeviceError: CUDA is asked for and this machine, or this build of PyTorch, has none.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise DeviceError(f"device {name!r}: {_first_line(error)}") from error
    if device.type == "cuda":
        if not torch.backends.cuda.is_built():  # type: ignore[no-untyped-call]
            raise DeviceError(
                f"device {name!r}: this PyTorch ({torch.__version__}) is built without CUDA; "
                "install a CUDA build, or use device cpu"
            )
        count = torch.cuda.device_count()
        if not torch.cuda.is_available() or (device.index or 0) >= count:
            raise DeviceError(
                f"device {name!r}: PyTorch sees {count} CUDA devices here (nvidia-smi tells more); use device cpu"
            )
    return device


def select_precision(name: str, device: torch.device) -> str:
    """The precision that a parameter value means on a device: fp32, fp16 or bf16.

    Raises:
        ConfigError: fp16 on a CPU, which computes it slower than fp32.
    """
    if name == "auto":
        return "fp16" if device.type == "cuda" else "fp32"
    if name == "fp16" and device.type == "cpu":
        raise ConfigError("precision fp16 needs a GPU; on a CPU use fp32 or bf16")
    return name


@contextmanager
def device_errors(device: torch.device, doing: str) -> Iterator[None]:
    """Turns what PyTorch raises of a failing device into DeviceError.

    Args:
        device: Where the block computes.
        doing: What it does, for the message.
    """
    try:
        yield
    except (RuntimeError, MemoryError, cv2.error) as error:
        if _has_no_room(error):
            raise DeviceError(f"device {device}: out of memory while {doing}: {_first_line(error)}") from error
        if device.type == "cpu" or not _is_of_gpu(error):
            raise
        raise DeviceError(f"device {device} failed while {doing}: {_first_line(error)}") from error


def _is_of_gpu(error: BaseException) -> bool:
    return isinstance(error, torch.AcceleratorError) or any(words in str(error) for words in GPU_ERRORS)


def _has_no_room(error: BaseException) -> bool:
    """On whatever device: PyTorch, NumPy and OpenCV say so in their own ways."""
    if isinstance(error, cv2.error):
        return bool(error.code == cv2.Error.StsNoMem)
    return isinstance(error, MemoryError) or is_out_of_memory(error)


def _first_line(error: BaseException) -> str:
    return str(error).split("\n", 1)[0]


class Engine:
    """A network on a device.

    Args:
        network: What `load_network` returns; it is copied, not changed.
        device: auto, cpu, cuda or cuda:N.
        precision: auto, fp32, fp16 or bf16.
        threads: Threads on a CPU; 0 leaves PyTorch's choice. This is one setting for the whole process.
        note: What a user should know of this choice of engine; empty: nothing.

    Raises:
        DeviceError: The device is absent or has no room.
        ConfigError: The precision does not fit the device.
    """

    def __init__(
        self,
        network: MultiTaskRefineNet,
        device: str = "auto",
        precision: str = "auto",
        threads: int = 0,
        note: str = "",
    ) -> None:
        self._note = note
        self.device = select_device(device)
        self.precision = select_precision(precision, self.device)
        self.description = network.description
        if self.device.type == "cpu":
            torch.set_num_threads(threads or ALL_THREADS)
        dtype = DTYPES[self.precision]
        with device_errors(self.device, "loading the network"):
            self._network = copy.deepcopy(network).to(self.device, dtype).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            self._preprocess = Preprocessor(self.description, self.device, dtype)

    @property
    def backend(self) -> str:
        """What runs the network, with its version."""
        return f"torch {torch.__version__}"

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of how the network is run."""
        return (self._note,) if self._note else ()

    def free(self) -> None:
        """Let go of what can be made again when it is needed."""

    @torch.inference_mode()
    def forward(self, image: np.ndarray, input_scale: float = 1.0) -> tuple[Tensor, ...]:
        """One forward pass.

        Args:
            image: H x W x 3 uint8, RGB.
            input_scale: The picture is shrunk to this part of its size first.

        Returns:
            The network's outputs for the one picture, in float32 on the device: C x h x w logits, 1 x h x w raw depth and,
            for three tasks, 3 x h x w normals.
        """
        outputs = self._network(self._preprocess(image, input_scale))
        return tuple(output[0].float() for output in outputs)
