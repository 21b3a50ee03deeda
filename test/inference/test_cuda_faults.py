"""CUDA backend with a test double for the device: failed captures and lack of memory."""

from __future__ import annotations

import pytest
import torch
from support.late_device import Arithmetic, LateRuntime, assert_results_of, backend_fixtures, needs_cuda, request_of

from mtl_perception.errors import DeviceError
from mtl_perception.inference.cuda.backend import CudaBackend
from mtl_perception.inference.cuda.runtime import CudaRuntime, HostRuntime
from mtl_perception.inference.device import is_out_of_memory

network, make = backend_fixtures()


def test_failed_capture_falls_back_to_eager_with_a_note(make):
    runtime = LateRuntime()
    backend = make(runtime)
    assert backend.name == "cpu graph"
    runtime.faults.append(RuntimeError("operation not permitted when stream is capturing\nmore"))
    for number in (1, 2, 3):
        assert_results_of(backend.infer([request_of(number)])[0], request_of(number))
    assert backend.name == "cpu eager"
    assert backend.notes == [
        "no graph of an image of 8x6 for labels, depth, cloud, and none from now on: "
        "operation not permitted when stream is capturing"
    ]
    for number in (1, 2, 3):
        assert_results_of(backend.infer([request_of(number, size=(5, 5))])[0], request_of(number, size=(5, 5)))
    assert (runtime.captures, backend.graphs) == (1, 0)
    assert make(LateRuntime(), use_graphs=False).name == make(HostRuntime()).name == "cpu eager"


@pytest.mark.parametrize(
    "fault", [torch.cuda.OutOfMemoryError("CUDA out of memory"), RuntimeError("CUDA error: out of memory")]
)
def test_out_of_memory_frees_everything_and_continues_without_a_graph(make, fault):
    runtime = LateRuntime()
    backend = make(runtime, copies=False)
    large = request_of(3, size=(20, 30))
    assert_results_of(backend.infer([large])[0], large)
    pending = [backend.submit(request_of(number)) for number in (1, 2)]
    runtime.faults.append(fault)
    assert_results_of(backend.infer([large])[0], large)
    assert runtime.releases == 1
    assert [spec.size for spec in backend._plans] == [(20, 30)]
    for number, ticket in zip((1, 2), pending, strict=True):
        assert_results_of(ticket.result(), request_of(number))
    for _ in range(3):
        assert_results_of(backend.infer([large])[0], large)
    assert backend.graphs == 0, "no graph of this size after running out of memory"
    for number in (4, 5, 6):
        backend.infer([request_of(number)])
    assert backend.graphs == 1, "other sizes still have graphs"
    assert backend.notes == [
        "out of memory: programs and graphs were freed; an image of 30x20 for labels, depth, cloud now runs without a graph"
    ]


def test_out_of_memory_twice_raises_a_device_error(make, monkeypatch):
    runtime = LateRuntime()
    backend = make(runtime)
    backend.infer([request_of(1)])

    def full(nbytes):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 3 GiB")

    with monkeypatch.context() as context:
        context.setattr(runtime, "pinned", full)
        with pytest.raises(
            DeviceError, match="out of memory while processing an image of 50x40 for labels.*Tried to allocate 3 GiB"
        ):
            backend.infer([request_of(2, size=(40, 50))])
    assert_results_of(backend.infer([request_of(3)])[0], request_of(3))


def test_other_errors_are_not_mistaken_for_out_of_memory(make, monkeypatch):
    backend = make(LateRuntime())
    monkeypatch.setattr(Arithmetic, "write_outputs", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        backend.infer([request_of(1)])
    texts = ("CUDA error: out of memory", "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")
    assert all(is_out_of_memory(RuntimeError(text)) for text in texts)
    assert not is_out_of_memory(RuntimeError("CUDA error: an illegal memory access was encountered"))
    assert not is_out_of_memory(ValueError("out of memory"))


@needs_cuda
def test_a_failed_capture_on_a_gpu_falls_back_to_eager_with_the_same_results(network):
    class FailingCapture(CudaRuntime):
        def capture(self, work):
            return super().capture(lambda: (work(), torch.zeros(1, device=self.device).item()))

    backend = CudaBackend(network, FailingCapture(torch.device("cuda")), "fp32", (0, 12))
    eager = CudaBackend(network, CudaRuntime(torch.device("cuda")), "fp32", (0, 12), use_graphs=False)
    for number in range(3):
        each = request_of(number, size=(61, 90))
        assert backend.infer([each])[0][0].cloud.tobytes() == eager.infer([each])[0][0].cloud.tobytes()
    assert backend.name == "cuda eager" and "none from now on" in backend.notes[0]
