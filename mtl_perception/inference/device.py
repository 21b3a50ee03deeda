"""Selection of the device and the precision, and translation of device errors."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import torch

from mtl_perception.errors import ConfigError, DeviceError

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
GPU_ERRORS = ("CUDA error", "CUDA driver", "CUDA unknown error", "No CUDA GPUs", "CUDNN_STATUS", "CUBLAS_STATUS", "NVML")
"""Parts of messages that tell a failed GPU from a programming error that mentions CUDA, such as tensors on two devices."""
OUT_OF_MEMORY = ("out of memory", "ALLOC_FAILED", "DefaultCPUAllocator", "unable to find an engine to execute this computation")
"""Parts of messages that report a lack of memory; the last is cuDNN's, when no algorithm has enough workspace."""
GPU_FILES = tuple(map(Path, ("/dev/nvidia0", "/dev/nvhost-gpu", "/dev/nvgpu")))
"""Files of NVIDIA's drivers where a GPU can be used: of desktops and servers, and of Jetsons."""


def select_device(name: str) -> torch.device:
    """Return the device that a parameter value names.

    Args:
        name: auto, cpu, cuda or cuda:N.

    Raises:
        DeviceError: CUDA is requested and this machine, or this build of PyTorch, has none.
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


def describe_unused_gpu(name: str) -> str:
    """Describe that the device auto is the CPU although there is an NVIDIA GPU; empty if that is not so.

    Args:
        name: As for `select_device`.
    """
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    if name != "auto" or hidden or torch.cuda.is_available() or not any(file.exists() for file in GPU_FILES):
        return ""
    reason = (
        "finds no usable driver (nvidia-smi tells more)"
        if torch.backends.cuda.is_built()  # type: ignore[no-untyped-call]
        else "is built without CUDA; install a CUDA build (on a Jetson, NVIDIA's)"
    )
    return (
        f"the network runs on the CPU although there is an NVIDIA GPU: this PyTorch ({torch.__version__}) {reason}; or set "
        "device to cpu"
    )


def select_precision(name: str, device: torch.device) -> str:
    """Return the precision that a parameter value names on a device: fp32, fp16, bf16, int8, or still auto on a CPU.

    Raises:
        ConfigError: fp16 on a CPU, which computes it slower than fp32, or int8 on a GPU.
    """
    if name == "auto" and device.type == "cuda":
        return "fp16"
    if name == "fp16" and device.type == "cpu":
        raise ConfigError("precision fp16 needs a GPU; on a CPU use fp32, bf16 or int8")
    if name == "int8" and device.type != "cpu":
        raise ConfigError(f"precision int8 runs on a CPU, not on device {device}; use fp16, bf16 or fp32, or device cpu")
    return name


def plain_precision(device: str) -> str:
    """Return the `precision` with which results do not depend on the instruction sets of a CPU; auto on a GPU.

    Args:
        device: Value of parameter `device`.

    Raises:
        DeviceError: CUDA is requested and absent.
    """
    return "fp32" if select_device(device).type == "cpu" else "auto"


@contextmanager
def device_errors(device: torch.device, doing: str) -> Iterator[None]:
    """Convert the exceptions that PyTorch, NumPy and OpenCV raise for a failing device to DeviceError.

    Args:
        device: Where the block computes.
        doing: What the block does, for the message.
    """
    try:
        yield
    except (RuntimeError, MemoryError, cv2.error) as error:
        if is_out_of_memory(error):
            raise DeviceError(f"device {device}: out of memory while {doing}: {_first_line(error)}") from error
        if device.type == "cpu" or not _is_gpu_error(error):
            raise
        raise DeviceError(f"device {device} failed while {doing}: {_first_line(error)}") from error


def _is_gpu_error(error: BaseException) -> bool:
    return isinstance(error, torch.AcceleratorError) or any(words in str(error) for words in GPU_ERRORS)


def is_out_of_memory(error: BaseException | None) -> bool:
    """Return whether an error, or the error that caused it, reports a lack of memory, of the device or of the host."""
    # A capture that runs out of memory raises an error of its own, whose context is the first one.
    while isinstance(error, RuntimeError):
        text = str(error)
        if isinstance(error, torch.cuda.OutOfMemoryError) or any(words in text for words in OUT_OF_MEMORY):
            return True
        error = error.__cause__ or error.__context__
    return isinstance(error, MemoryError) or (isinstance(error, cv2.error) and error.code == cv2.Error.StsNoMem)


def _first_line(error: BaseException) -> str:
    return str(error).split("\n", 1)[0]
