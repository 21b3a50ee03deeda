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

import mtl_perception
from mtl_perception.engine.artefacts import Artefacts
from mtl_perception.engine.preprocess import shrunk
from mtl_perception.engine.run import Engine
from mtl_perception.errors import ConfigError
from mtl_perception.net.model import MultiTaskRefineNet

KEPT_SIZES = 4
"""Picture sizes whose compiled networks stay in memory, each with its weights and its maps: about 150 MB at 1242 x 375."""
PRECISION_HINTS = {"fp32": "f32", "bf16": "bf16"}


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


class RuntimeEngine(Engine):
    """A network on the CPU, run by OpenVINO. Where OpenVINO fails, by PyTorch: the same results, and `notes` say so.

    Args:
        network: What `load_network` returns; it is copied, not changed.
        precision: auto, fp32 or bf16; fp32 is never computed in less.
        threads: 0: all cores.
        artefacts: Where compiled networks are kept.

    Raises:
        ConfigError: OpenVINO is not installed, or the precision does not fit a CPU.
    """

    def __init__(
        self, network: MultiTaskRefineNet, precision: str = "auto", threads: int = 0, artefacts: Artefacts | None = None
    ) -> None:
        self._openvino = openvino()
        super().__init__(network, "cpu", precision, threads)
        self._source = network
        self._core = self._openvino.Core()
        self._artefacts = artefacts or Artefacts()
        self._requests: dict[tuple[int, int], Any] = {}
        self._failure = ""
        # What does not depend on the picture's size.
        self._made_of = {
            "weights": _digest(network),
            "mtl_perception": mtl_perception.__version__,
            "openvino": self._openvino.get_version(),
            "hardware": f"{self._core.get_property('CPU', 'FULL_DEVICE_NAME')}, {_cpu_flags()}",
            "precision": self.precision,
            "threads": str(torch.get_num_threads()),
        }

    @property
    def backend(self) -> str:
        """What runs the network, with its version."""
        return super().backend if self._failure else f"openvino {self._openvino.__version__.partition('-')[0]}"

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know: that OpenVINO failed, or why compiled networks are not kept."""
        found = (
            f"OpenVINO failed, PyTorch runs instead, several times slower: {self._failure}" if self._failure else "",
            f"each start compiles anew: {self._artefacts.trouble}" if self._artefacts.trouble else "",
        )
        return tuple(filter(None, found))

    @torch.inference_mode()
    def forward(self, image: np.ndarray, input_scale: float = 1.0) -> tuple[Tensor, ...]:
        """One forward pass; see `Engine.forward`. The outputs are valid until the next one."""
        if not self._failure:
            try:
                return self._infer(np.ascontiguousarray(shrunk(image, input_scale)))
            except Exception as error:  # its errors have no common base
                self._failure = " ".join(str(error).split())[:300] or type(error).__name__
                self._requests.clear()
        return super().forward(image, input_scale)

    def _infer(self, image: np.ndarray) -> tuple[Tensor, ...]:
        size = image.shape[:2]
        request = self._requests.pop(size, None)
        if request is None:
            while len(self._requests) >= KEPT_SIZES:
                # The one that was not used for the longest time, as each use puts one last.
                del self._requests[next(iter(self._requests))]
            request = self._compiled(*size).create_infer_request()
        self._requests[size] = request
        request.infer({0: image[None]}, share_inputs=True, share_outputs=True)
        return tuple(torch.from_numpy(tensor.data)[0] for tensor in request.output_tensors)

    def _compiled(self, height: int, width: int) -> Any:
        made_of = {**self._made_of, "picture": f"{width}x{height}"}
        options = {
            # Named, because OpenVINO takes bfloat16 by itself where the CPU has it.
            "INFERENCE_PRECISION_HINT": PRECISION_HINTS[self.precision],
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            # The cores are shared with the node's own threads and with what else the machine does.
            "ENABLE_CPU_PINNING": False,
        }
        kept = self._artefacts.load(made_of)
        if kept is not None:
            try:
                return self._core.import_model(io.BytesIO(kept), "CPU", options)
            except Exception:  # its errors have no common base
                self._artefacts.discard(made_of)
        # Not at the top: it imports OpenVINO.
        from mtl_perception.engine.openvino_graph import openvino_model

        compiled = self._core.compile_model(openvino_model(self._source, height, width), "CPU", options)
        self._artefacts.store(made_of, compiled.export_model().getvalue())
        return compiled


def _digest(network: MultiTaskRefineNet) -> str:
    """Of all that a compiled network is made from: names, shapes and values of the parameters, and the normalisation."""
    description = network.description
    digest = hashlib.sha256(repr((description.mean, description.std, description.tasks)).encode())
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
