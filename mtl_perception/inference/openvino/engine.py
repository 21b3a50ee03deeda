"""The network on the CPU in OpenVINO, compiled for each image size, with PyTorch as the fallback."""

from __future__ import annotations

import hashlib
import io
import platform
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mtl_perception.errors import ConfigError, one_line
from mtl_perception.inference.host.preprocess import downsample
from mtl_perception.inference.machine import read_cpu_flags
from mtl_perception.inference.memory import trim_heap
from mtl_perception.inference.openvino.cache import ModelCache
from mtl_perception.inference.openvino.runtime import import_openvino, shared_core
from mtl_perception.inference.torch.engine import ALL_THREADS, TorchEngine
from mtl_perception.network.digest import network_digest
from mtl_perception.network.model import MultiTaskRefineNet
from mtl_perception.network.quantization import Quantization
from mtl_perception.version import __version__

KEPT_SIZES = 4
"""Image sizes whose compiled networks stay in memory, each with its weights and feature maps: about 150 MB at 1242 x 375."""
KEPT_PIXELS = 2**25
"""Pixels of all these sizes together: one 8K image, whose feature maps take 2 GB, or four 4K images."""
STORED_AT = 2
"""Number of the image of a size at which its compiled network is stored on disk: a size that comes once is not worth 12 MB."""
ATTEMPTS = 2
"""Consecutive failures of OpenVINO at a size after which PyTorch runs it."""
PRECISION_HINTS = {"fp32": "f32", "bf16": "bf16", "int8-fp32": "f32", "int8-bf16": "bf16"}
"""OpenVINO's precision, by arithmetic, of everything that is not int8."""
GRAPH_VERSION = 5
"""Increase it with each change of `graph.py` that changes its models: networks compiled from others are not reused."""


class OpenVinoEngine:
    """Run the network on the CPU in OpenVINO; where OpenVINO fails, PyTorch gives the same results and `notes` say so.

    Args:
        network: What `load_network` returns; it is not changed.
        arithmetic: What `cpu_arithmetic` returns; fp32 never uses less precise arithmetic.
        threads: Number of threads; 0: all cores.
        cache: Cache of compiled networks.

    Raises:
        ConfigError: OpenVINO is not installed or does not work on this machine.
        WeightsError: The arithmetic is int8, and the weights have no valid table.
    """

    device = torch.device("cpu")

    def __init__(
        self, network: MultiTaskRefineNet, arithmetic: str = "fp32", threads: int = 0, cache: ModelCache | None = None
    ) -> None:
        self._openvino = import_openvino()
        self._quantization = Quantization.of(network) if arithmetic.startswith("int8") else None
        self.precision = arithmetic
        self.description = network.description
        torch.set_num_threads(threads or ALL_THREADS)
        self._network = network
        self._fallback: TorchEngine | None = None
        try:
            self._core = shared_core()
            processor = self._core.get_property("CPU", "FULL_DEVICE_NAME")
            version = self._openvino.get_version()
        except Exception as error:  # OpenVINO has no common base of errors
            raise ConfigError(f"backend openvino does not work here: {one_line(error)}; use backend auto or torch") from error
        self._cache = cache or ModelCache()
        self._requests: dict[tuple[int, int], Any] = {}
        self._unstored: dict[tuple[int, int], tuple[int, Any]] = {}
        # Number of consecutive failures and the last one, for each size at which OpenVINO does not work at present.
        self._failures: dict[tuple[int, int], tuple[int, str]] = {}
        self._fell_back = False
        self._options = {
            # Explicit, because OpenVINO chooses bfloat16 where the CPU has it.
            "INFERENCE_PRECISION_HINT": PRECISION_HINTS[self.precision],
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            # The cores are shared with the node's own threads and with other processes.
            "ENABLE_CPU_PINNING": False,
        }
        self._key = {
            "weights": network_digest(network),
            "ranges": repr(sorted(self._quantization.ranges.items())) if self._quantization else "",
            "mtl_perception": __version__,
            "graph": str(GRAPH_VERSION),
            "openvino": version,
            "hardware": f"{processor}, {_cpu_flags()}",
            "options": repr(sorted(self._options.items())),
        }

    @property
    def name(self) -> str:
        """The library that runs the network, with its version."""
        if self._fell_back and self._fallback is not None:
            return self._fallback.name
        return f"openvino {self._openvino.__version__.partition('-')[0]}"

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks for the user: that OpenVINO failed, or why compiled networks are not stored."""
        exact = " in fp32" if self._quantization else ""
        found = [
            f"OpenVINO failed {text}; PyTorch runs the network{exact}, several times slower"
            for _, text in list(self._failures.values())[-1:]
        ]
        if self._cache.problem:
            found.append(f"each start compiles the network again: {self._cache.problem}")
        return tuple(found)

    def release(self) -> None:
        """Free all compiled networks, and forget where OpenVINO failed."""
        self._requests.clear()
        self._unstored.clear()
        self._failures.clear()
        trim_heap()

    @torch.inference_mode()
    def forward(self, image: np.ndarray, input_scale: float = 1.0) -> tuple[Tensor, ...]:
        """Run one forward pass; see `Engine.forward`. The outputs are valid until the next one."""
        seen = np.ascontiguousarray(downsample(image, input_scale))
        size = (seen.shape[0], seen.shape[1])
        failures, _ = self._failures.get(size, (0, ""))
        self._fell_back = failures >= ATTEMPTS
        if not self._fell_back:
            try:
                request = self._request(size)
                request.infer({0: seen[None]}, share_inputs=True, share_outputs=True)
                if size in self._unstored:
                    self._store(size)
                outputs = tuple(torch.from_numpy(tensor.data)[0] for tensor in request.output_tensors)
            except Exception as error:  # OpenVINO has no common base of errors
                # For this size only: an image that is too large must not slow down the others.
                self._failures[size] = failures + 1, f"for {size[1]}x{size[0]} images: {one_line(error)}"
                self._drop(size)
                self._fell_back = True
            else:
                self._failures.pop(size, None)
                return outputs
        if self._fallback is None:
            precision = "fp32" if self._quantization else self.precision
            self._fallback = TorchEngine(self._network, precision, torch.get_num_threads())
        return self._fallback.forward(image, input_scale)

    def _request(self, size: tuple[int, int]) -> Any:
        """Return what runs the network on images of this height and width, compiled if it is not in memory."""
        request = self._requests.pop(size, None)
        if request is None:
            pixels = size[0] * size[1]
            while self._requests and (
                len(self._requests) >= KEPT_SIZES or sum(h * w for h, w in self._requests) + pixels > KEPT_PIXELS
            ):
                # The first is the least recently used, as each use reinserts a size last.
                self._drop(next(iter(self._requests)))
            request = self._compile(size).create_infer_request()
            # Compiling and the network that was dropped leave much free memory.
            trim_heap()
        self._requests[size] = request
        return request

    def _drop(self, size: tuple[int, int]) -> None:
        self._requests.pop(size, None)
        self._unstored.pop(size, None)

    def _compile(self, size: tuple[int, int]) -> Any:
        key = self._key_of(size)
        stored = self._cache.load(key)
        if stored is not None:
            try:
                return self._core.import_model(io.BytesIO(stored), "CPU", self._options)
            except Exception:  # OpenVINO has no common base of errors
                self._cache.discard(key)
        # Not at module level, because it imports OpenVINO.
        from mtl_perception.inference.openvino.convolutions import Int8Convolutions
        from mtl_perception.inference.openvino.graph import openvino_model

        int8 = Int8Convolutions(self._quantization) if self._quantization else None
        compiled = self._core.compile_model(openvino_model(self._network, *size, int8), "CPU", self._options)
        self._unstored[size] = (0, compiled)
        return compiled

    def _store(self, size: tuple[int, int]) -> None:
        """Store a compiled network on disk once its size has come again."""
        uses, compiled = self._unstored[size]
        if uses + 1 < STORED_AT:
            self._unstored[size] = (uses + 1, compiled)
            return
        del self._unstored[size]
        if self._cache.problem:
            return
        try:
            body = compiled.export_model().getvalue()
        except Exception as error:  # OpenVINO has no common base of errors
            self._cache.problem = f"OpenVINO cannot export compiled networks: {one_line(error)}"
        else:
            self._cache.store(self._key_of(size), body)
            del body
            trim_heap()

    def _key_of(self, size: tuple[int, int]) -> dict[str, str]:
        return {**self._key, "image": f"{size[1]}x{size[0]}"}


def _cpu_flags() -> str:
    """Identify the processor's instruction sets: a virtual machine may migrate to a processor of the same name without some."""
    flags = read_cpu_flags()
    return hashlib.sha256(flags.encode()).hexdigest()[:16] if flags else platform.machine()
