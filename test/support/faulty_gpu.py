"""A fake GPU that raises given errors, and networks with non-finite outputs."""

from __future__ import annotations

import pytest
import torch

from mtl_perception.inference import backend
from mtl_perception.inference.cuda.backend import CudaBackend
from mtl_perception.inference.cuda.runtime import HostRuntime
from mtl_perception.inference.openvino.engine import OpenVinoEngine
from mtl_perception.inference.torch.engine import TorchEngine
from mtl_perception.network.model import MultiTaskRefineNet

LOST = "CUDA error: unspecified launch failure\nCUDA kernel errors might be reported later"


class Gpu:
    """Fake GPU that computes on CPU tensors; its next calls raise `faults` one by one, and each call raises `fault`."""

    def __init__(self) -> None:
        self.fault: Exception | None = None
        self.faults: list[Exception] = []
        self.made = 0

    def fail(self) -> None:
        if self.faults:
            raise self.faults.pop(0)
        if self.fault is not None:
            raise self.fault

    def runtime(self, *_, **__) -> HostRuntime:
        gpu = self
        gpu.made += 1

        class Runtime(HostRuntime):
            def make(self, build):
                gpu.fail()
                return build()

            def run(self, lane, work, after=None):
                gpu.fail()
                return super().run(lane, work, after)

        return Runtime()


class FakeCudaBackend(CudaBackend):
    """CUDA backend that reports a GPU as its device and computes on CPU tensors."""

    device = torch.device("cuda", 0)


def faulty_gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    """Install a fake GPU that new pipelines use unless their device is cpu."""
    gpu = Gpu()

    monkeypatch.setattr(backend, "select_device", lambda name: torch.device("cpu") if name == "cpu" else FakeCudaBackend.device)
    monkeypatch.setattr(backend, "CudaRuntime", gpu.runtime)
    # CPU tensors compute in float32, whatever precision is requested.
    monkeypatch.setattr(
        backend, "CudaBackend", lambda *given, **named: FakeCudaBackend(*given[:2], "fp32", *given[3:], **named)
    )
    return gpu


def spoil_outputs(monkeypatch: pytest.MonkeyPatch, value: float) -> None:
    """Set the upper left 5 x 5 cells of the network's own outputs to `value`."""
    head = MultiTaskRefineNet.head

    def with_value(outputs):
        outputs = tuple(output.clone() for output in outputs)
        for output in outputs:
            output[..., :5, :5] = value
        return outputs

    for kind in (TorchEngine, OpenVinoEngine):
        own = kind.forward
        monkeypatch.setattr(kind, "forward", lambda self, *given, own=own: with_value(own(self, *given)))
    monkeypatch.setattr(MultiTaskRefineNet, "head", lambda self, *given: with_value([head(self, *given)])[0])
