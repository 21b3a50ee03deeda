"""The network on a CPU by OpenVINO: compiled for each picture size, and PyTorch where that cannot be."""

from __future__ import annotations

import hashlib
import io
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mtl_perception.errors import ConfigError
from mtl_perception.inference.host.preprocess import downsample
from mtl_perception.inference.memory import trim_heap
from mtl_perception.inference.openvino.artifacts import Artifacts
from mtl_perception.inference.torch.engine import TorchEngine
from mtl_perception.network.model import MultiTaskRefineNet
from mtl_perception.version import __version__

KEPT_SIZES = 4
"""Picture sizes whose compiled networks stay in memory, each with its weights and its maps: about 150 MB at 1242 x 375."""
KEPT_FROM = 2
"""Which picture of a size has its compiled network kept on the disk: a size that comes only once is not worth 12 MB."""
ATTEMPTS = 2
"""So often in a row OpenVINO may fail at a size before it is not asked again."""
PRECISION_HINTS = {"fp32": "f32", "bf16": "bf16"}
GRAPH_VERSION = 1
"""Increase it with each change of `graph.py` that changes its models: networks compiled from others are not reused."""


def openvino() -> Any:
    """The package.

    Raises:
        ConfigError: It is not installed, or does not load.
    """
    try:
        import openvino
    except ImportError as error:
        raise ConfigError(
            f"backend openvino: it cannot be loaded ({error}): pip install openvino, or use backend auto or torch"
        ) from error
    return openvino


class OpenVinoEngine(TorchEngine):
    """A network on the CPU, run by OpenVINO. Where OpenVINO fails, by PyTorch: the same results, and `notes` say so.

    Args:
        network: What `load_network` returns; it is copied, not changed.
        precision: fp32 or bf16; fp32 is never computed in less.
        threads: 0: all cores.
        artifacts: Where compiled networks are kept.

    Raises:
        ConfigError: OpenVINO is not installed or does not work here, or the precision does not fit a CPU.
    """

    def __init__(
        self, network: MultiTaskRefineNet, precision: str = "fp32", threads: int = 0, artifacts: Artifacts | None = None
    ) -> None:
        self._openvino = openvino()
        super().__init__(network, precision, threads)
        self._source = network
        try:
            self._core = self._openvino.Core()
            processor = self._core.get_property("CPU", "FULL_DEVICE_NAME")
            version = self._openvino.get_version()
        except Exception as error:  # its errors have no common base
            raise ConfigError(
                f"backend openvino: it does not work here ({_one_line(error)}): use backend auto or torch"
            ) from error
        self._artifacts = artifacts or Artifacts()
        self._requests: dict[tuple[int, int], Any] = {}
        self._unkept: dict[tuple[int, int], tuple[int, Any]] = {}
        self._failures: dict[tuple[int, int], int] = {}
        self._failure = ""
        self._fell_back = False
        self._options = {
            # Named, because OpenVINO takes bfloat16 by itself where the CPU has it.
            "INFERENCE_PRECISION_HINT": PRECISION_HINTS[self.precision],
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            # The cores are shared with the node's own threads and with what else the machine does.
            "ENABLE_CPU_PINNING": False,
        }
        # What does not depend on the picture's size.
        self._made_of = {
            "weights": _digest(network),
            "mtl_perception": __version__,
            "graph": str(GRAPH_VERSION),
            "openvino": version,
            "hardware": f"{processor}, {_cpu_flags()}",
            "options": repr(sorted(self._options.items())),
        }

    @property
    def name(self) -> str:
        """The library that runs the network, with its version."""
        return super().name if self._fell_back else f"openvino {self._openvino.__version__.partition('-')[0]}"

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know: that OpenVINO failed, or why compiled networks are not kept."""
        found = (
            f"OpenVINO failed, PyTorch runs instead, several times slower: {self._failure}" if self._failure else "",
            f"each start compiles anew: {self._artifacts.trouble}" if self._artifacts.trouble else "",
        )
        return tuple(filter(None, found))

    def release(self) -> None:
        """Free all compiled networks, and forget where OpenVINO failed."""
        self._requests.clear()
        self._unkept.clear()
        self._failures.clear()
        self._failure = ""
        trim_heap()

    @torch.inference_mode()
    def forward(self, image: np.ndarray, input_scale: float = 1.0) -> tuple[Tensor, ...]:
        """One forward pass; see `TorchEngine.forward`. The outputs are valid until the next one."""
        seen = np.ascontiguousarray(downsample(image, input_scale))
        size = (seen.shape[0], seen.shape[1])
        self._fell_back = self._failures.get(size, 0) >= ATTEMPTS
        if not self._fell_back:
            try:
                outputs = self._infer(seen, size)
            except Exception as error:  # its errors have no common base
                # Only this size: one picture too large is no reason to be slow with the others.
                self._failures[size] = self._failures.get(size, 0) + 1
                self._failure = f"for pictures of {size[1]}x{size[0]}: {_one_line(error)}"
                self._drop(size)
                self._fell_back = True
            else:
                self._failures.pop(size, None)
                return outputs
        return super().forward(image, input_scale)

    def _infer(self, image: np.ndarray, size: tuple[int, int]) -> tuple[Tensor, ...]:
        request = self._requests.pop(size, None)
        if request is None:
            while len(self._requests) >= KEPT_SIZES:
                # The one that was not used for the longest time, as each use puts one last.
                self._drop(next(iter(self._requests)))
            request = self._compiled(size).create_infer_request()
            # What compiling took, and the network that had to go.
            trim_heap()
        self._requests[size] = request
        request.infer({0: image[None]}, share_inputs=True, share_outputs=True)
        if size in self._unkept:
            self._keep(size)
        return tuple(torch.from_numpy(tensor.data)[0] for tensor in request.output_tensors)

    def _drop(self, size: tuple[int, int]) -> None:
        self._requests.pop(size, None)
        self._unkept.pop(size, None)

    def _compiled(self, size: tuple[int, int]) -> Any:
        made_of = self._made_for(size)
        kept = self._artifacts.load(made_of)
        if kept is not None:
            try:
                return self._core.import_model(io.BytesIO(kept), "CPU", self._options)
            except Exception:  # its errors have no common base
                self._artifacts.discard(made_of)
        # Not at the top: it imports OpenVINO.
        from mtl_perception.inference.openvino.graph import openvino_model

        compiled = self._core.compile_model(openvino_model(self._source, *size), "CPU", self._options)
        self._unkept[size] = (0, compiled)
        return compiled

    def _keep(self, size: tuple[int, int]) -> None:
        """Write a compiled network to the disk once its size has come again."""
        uses, compiled = self._unkept[size]
        if uses + 1 < KEPT_FROM:
            self._unkept[size] = (uses + 1, compiled)
            return
        del self._unkept[size]
        if self._artifacts.trouble:
            return
        try:
            body = compiled.export_model().getvalue()
        except Exception as error:  # its errors have no common base
            self._artifacts.trouble = f"OpenVINO gives no compiled network away: {_one_line(error)}"
        else:
            self._artifacts.store(self._made_for(size), body)
            del body
            trim_heap()

    def _made_for(self, size: tuple[int, int]) -> dict[str, str]:
        return {**self._made_of, "picture": f"{size[1]}x{size[0]}"}


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def _digest(network: MultiTaskRefineNet) -> str:
    """Of all that a compiled network is made from: names, shapes and values of the parameters, normalization, grid."""
    description = network.description
    digest = hashlib.sha256(repr((description.mean, description.std, description.tasks, description.grid)).encode())
    state: Mapping[str, Tensor] = network.state_dict()
    for name, tensor in state.items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _cpu_flags() -> str:
    """What the processor can do, as far as the system tells: a virtual machine may move to another of the same name."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith(("flags", "Features")):
                return hashlib.sha256(line.encode()).hexdigest()[:16]
    except OSError:
        pass
    return platform.machine()
