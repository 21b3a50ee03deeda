"""The interface of all backends, and the choice of one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

import torch

from mtl_perception.config import Config
from mtl_perception.errors import ConfigError
from mtl_perception.inference.cuda.backend import CudaBackend
from mtl_perception.inference.cuda.runtime import CudaRuntime
from mtl_perception.inference.device import describe_unused_gpu, device_errors, select_device, select_precision
from mtl_perception.inference.host.backend import CpuBackend
from mtl_perception.inference.host.engine import Engine
from mtl_perception.inference.openvino.arithmetic import select_arithmetic
from mtl_perception.inference.openvino.engine import OpenVinoEngine
from mtl_perception.inference.request import Request
from mtl_perception.inference.torch.engine import TorchEngine
from mtl_perception.network.model import MultiTaskRefineNet
from mtl_perception.types import Outputs


class Backend(Protocol):
    """Everything between frames and results on one device. Not thread-safe.

    Where results are not copied, they are valid until `result_sets` more calls of `infer`.

    Attributes:
        precision: Arithmetic of the network: fp32, fp16, bf16, int8-bf16 or int8-fp32.
        result_sets: Number of calls whose results are valid at a time where they are not copied.
        batch_limit: Number of frames up to which processing them together is faster than one by one.
        warm_up_runs: Number of runs after which each run of the same kind is as fast as the next.
    """

    precision: str
    result_sets: int
    batch_limit: int
    warm_up_runs: int

    @property
    def device(self) -> torch.device:
        """Where the network runs."""
        ...

    @property
    def name(self) -> str:
        """Human-readable name of what runs the network."""
        ...

    @property
    def notes(self) -> Sequence[str]:
        """Remarks for the user, such as why the network runs slower than it could; usually empty."""
        ...

    def infer(self, requests: Sequence[Request]) -> list[list[Outputs]]:
        """Return the results of several requests, one list a request, one result a frame, in order.

        Raises:
            DeviceError: The device failed or is out of memory.
        """
        ...

    def stream(self, requests: Iterable[Request]) -> Iterator[list[Outputs]]:
        """Yield the results of each request in order.

        On a GPU the copies of a request overlap the work of its neighbors: one request is read ahead. Where results are not
        copied, they are valid until the next ones are taken.

        Raises:
            DeviceError: The device failed or is out of memory.
        """
        ...

    def release(self) -> None:
        """Free what can be rebuilt on demand."""
        ...


def create_backend(network: MultiTaskRefineNet, classes: tuple[int, int], config: Config, *, copies: bool = True) -> Backend:
    """Create the backend that the configuration asks for.

    Args:
        network: What `load_network` returns; it is copied, not changed.
        classes: First class and number of classes to choose among.
        config: Parameters `device`, `precision`, `backend`, `cpu_threads` and those of the GPU.
        copies: Results own their arrays; otherwise they lie in memory that later requests overwrite.

    Raises:
        DeviceError: The device is absent or out of memory.
        ConfigError: Precision, backend or `temporal_smoothing` do not fit the device, the requested backend is not installed,
            or the weights have no table for int8.
    """
    device = select_device(config.device)
    precision = select_precision(config.precision, device)
    if device.type != "cuda":
        arithmetic, note = select_arithmetic(network, precision, config.backend)
        engine = create_engine(network, arithmetic, config.cpu_threads, config.backend)
        note = "; ".join(filter(None, (describe_unused_gpu(config.device), note)))
        return CpuBackend(engine, classes, copies, note)
    if config.backend == "openvino":
        raise ConfigError(f"backend openvino runs on a CPU, not on device {device}: use backend auto or torch, or device cpu")
    if config.temporal_smoothing:
        raise ConfigError(
            f"parameter temporal_smoothing: {config.temporal_smoothing} runs on a CPU only, not on device {device}: "
            "set device cpu, or temporal_smoothing 0"
        )
    with device_errors(device, "initializing"):
        # Without TF32 for fp32, which would make it less precise than its name says.
        runtime = CudaRuntime(device, config.cudnn_benchmark, exact=precision == "fp32")
    return CudaBackend(network, runtime, precision, classes, use_graphs=config.cuda_graph, copies=copies)


def create_engine(network: MultiTaskRefineNet, arithmetic: str, threads: int = 0, backend: str = "auto") -> Engine:
    """Create what runs the network on a CPU: for backend auto, OpenVINO if it is installed, otherwise PyTorch.

    Args:
        network: What `load_network` returns; it is copied, not changed.
        arithmetic: What `cpu_arithmetic` returns; PyTorch computes int8 in fp32.
        threads: Number of threads; 0: all cores.
        backend: auto, torch or openvino.

    Raises:
        ConfigError: The requested backend is not installed.
    """
    floating = "fp32" if arithmetic.startswith("int8") else arithmetic
    if backend == "torch":
        return TorchEngine(network, floating, threads)
    try:
        return OpenVinoEngine(network, arithmetic, threads)
    except ConfigError as error:
        if backend == "openvino":
            raise
        note = f"PyTorch runs the network, several times slower than OpenVINO would: {error}"
        return TorchEngine(network, floating, threads, note)
