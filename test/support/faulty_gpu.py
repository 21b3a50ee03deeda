"""A GPU that fails when told to, and a network that gives no numbers, where there is no GPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mtl_perception import pipeline
from mtl_perception.inference.backend import make_engine
from mtl_perception.inference.cuda import path as device_path
from mtl_perception.inference.cuda.runtime import HostRuntime
from mtl_perception.inference.openvino.engine import RuntimeEngine
from mtl_perception.inference.torch.engine import Engine, device_errors
from mtl_perception.network.model import MultiTaskRefineNet

LOST = "CUDA error: unspecified launch failure\nCUDA kernel errors might be reported later"


class Gpu:
    """Stands for a GPU, whose work CPU tensors do. `faults` are raised one by one by its next calls; `fault` by each."""

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


class OnGpu(Engine):
    """Says that it is on a GPU."""

    def __init__(self, *args) -> None:
        super().__init__(*args)
        self.device = torch.device("cuda", 0)


def faulty_gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    """Pipelines made from now on are on it, unless they are asked to be on the CPU."""
    gpu = Gpu()

    def engine(network: Any, device: str, *others: Any) -> Engine:
        return make_engine(network, device, *others) if device == "cpu" else OnGpu(network, "cpu", "fp32")

    monkeypatch.setattr(pipeline, "make_engine", engine)
    monkeypatch.setattr(pipeline, "CudaRuntime", gpu.runtime)
    monkeypatch.setattr(device_path, "device_errors", lambda _, doing: device_errors(torch.device("cuda", 0), doing))
    monkeypatch.setattr(pipeline, "device_errors", lambda _, doing: device_errors(torch.device("cuda", 0), doing))
    return gpu


def spoil_outputs(monkeypatch: pytest.MonkeyPatch, value: float) -> None:
    """The network's own outputs are `value` in their upper left corner, 5 x 5 of a fourth of the picture's size."""
    head = MultiTaskRefineNet.head

    def spoilt(outputs):
        outputs = tuple(output.clone() for output in outputs)
        for output in outputs:
            output[..., :5, :5] = value
        return outputs

    for kind in (Engine, RuntimeEngine):
        own = kind.forward
        monkeypatch.setattr(kind, "forward", lambda self, *given, own=own: spoilt(own(self, *given)))
    monkeypatch.setattr(MultiTaskRefineNet, "head", lambda self, *given: spoilt([head(self, *given)])[0])
