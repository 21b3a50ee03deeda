"""Order of the calls to CUDA, recorded by a test double for `torch.cuda`."""

from __future__ import annotations

import contextlib
import threading
from types import SimpleNamespace

import pytest
import torch

from mtl_perception.inference.cuda.runtime import WARM_UPS, CudaRuntime, Stream
from mtl_perception.inference.device import is_out_of_memory


class FakeCuda:
    """Named streams, events and graphs; `calls` records their use."""

    OutOfMemoryError = torch.cuda.OutOfMemoryError

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.current = "default"
        self.counts = {"stream": 0, "event": 0, "pool": 0}
        self.fails = False

    def _number(self, kind: str) -> str:
        self.counts[kind] += 1
        return f"{kind} {self.counts[kind]}"

    def current_device(self) -> int:
        return 0

    def Stream(self, device):
        name = self._number("stream")
        return SimpleNamespace(
            name=name,
            device=device,
            wait_event=lambda event: self.calls.append(f"{name} waits for {event.name}"),
            synchronize=lambda: self.calls.append(f"{name} is idle"),
        )

    def Event(self):
        name = self._number("event")
        return SimpleNamespace(
            name=name,
            record=lambda stream: self.calls.append(f"{name} in {stream.name}"),
            synchronize=lambda: self.calls.append(f"host waits for {name}"),
        )

    @contextlib.contextmanager
    def stream(self, stream):
        before, self.current = self.current, stream.name
        try:
            yield
        finally:
            self.current = before

    def graph_pool_handle(self) -> str:
        return self._number("pool")

    def CUDAGraph(self):
        return SimpleNamespace(replay=lambda: self.calls.append(f"replay in {self.current}"))

    @contextlib.contextmanager
    def graph(self, graph, pool, stream, capture_error_mode):
        assert (stream.name, capture_error_mode) == (self.current, "thread_local")
        self.calls.append(f"capture into {pool}")
        try:
            yield
        finally:
            if self.fails:
                # In this case PyTorch leaves the stream of the capture as the current one.
                self.current = "capture's"
                raise RuntimeError("operation failed due to a previous error during capture")
        self.calls.append("captured")

    @contextlib.contextmanager
    def device(self, device):
        self.calls.append(f"on {device}")
        yield

    def empty_cache(self) -> None:
        self.calls.append("empty cache")


@pytest.fixture
def cuda(monkeypatch):
    fake = FakeCuda()
    monkeypatch.setattr(torch, "cuda", fake)
    monkeypatch.setattr(torch._C, "_host_emptyCache", lambda: fake.calls.append("empty host cache"), raising=False)
    return fake


@pytest.fixture
def runtime(cuda):
    return CudaRuntime(torch.device("cuda"))


def test_work_waits_for_the_events_of_other_streams(cuda, runtime):
    uploaded = runtime.run(Stream.UPLOAD, lambda: cuda.calls.append(f"copy in {cuda.current}"))
    done = runtime.run(Stream.COMPUTE, lambda: cuda.calls.append(f"work in {cuda.current}"), after=uploaded)
    runtime.wait(done)
    assert cuda.calls == [
        "copy in stream 1",
        "event 1 in stream 1",
        "stream 2 waits for event 1",
        "work in stream 2",
        "event 2 in stream 2",
        "host waits for event 2",
    ]
    assert cuda.current == "default" and runtime.device == torch.device("cuda:0")


def test_capture_is_warmed_up_and_replayed_in_the_same_stream(cuda, runtime):
    replay = runtime.capture(lambda: cuda.calls.append(f"work in {cuda.current}"))
    work = "work in stream 2"
    assert cuda.calls == [*[work] * WARM_UPS, "stream 2 is idle", "capture into pool 1", work, "captured"]
    cuda.calls.clear()
    runtime.run(Stream.COMPUTE, replay)
    assert cuda.calls == ["replay in stream 2", "event 1 in stream 2"]


def test_graphs_share_a_pool_while_one_exists(cuda, runtime):
    def pool_of_a_capture() -> tuple[object, str]:
        cuda.calls.clear()
        graph = runtime.capture(lambda: None)
        return graph, next(call for call in cuda.calls if call.startswith("capture into"))

    first, pool = pool_of_a_capture()
    second, same = pool_of_a_capture()
    assert pool == same == "capture into pool 1"
    del first
    assert pool_of_a_capture()[1] == "capture into pool 1"
    del second
    runtime.release()
    assert pool_of_a_capture()[1] == "capture into pool 2", "a pool is freed with its last graph"


def test_failed_capture_restores_the_stream_and_abandons_the_pool(cuda, runtime):
    kept = runtime.capture(lambda: None)
    cuda.fails = True
    with pytest.raises(RuntimeError, match="previous error during capture"):
        runtime.capture(lambda: None)
    assert cuda.current == "default"
    cuda.fails = False
    cuda.calls.clear()
    runtime.capture(lambda: None)
    assert "capture into pool 2" in cuda.calls
    del kept


def test_capture_that_runs_out_of_memory_is_recognized(cuda, runtime):
    """The error of the capture does not mention memory; unrecognized, it would disable graphs for all sizes."""

    def large() -> None:
        if "capture into pool 1" in cuda.calls:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 3 GiB")

    cuda.fails = True
    with pytest.raises(RuntimeError, match="previous error during capture") as found:
        runtime.capture(large)
    assert is_out_of_memory(found.value)
    with pytest.raises(RuntimeError, match="previous error during capture") as found:
        runtime.capture(lambda: None)
    assert not is_out_of_memory(found.value)


def test_memory_is_synchronized_when_built_and_freed_on_release(cuda, runtime):
    assert runtime.make(lambda: cuda.current) == "stream 2"
    assert cuda.calls == ["stream 2 is idle"]
    cuda.calls.clear()
    runtime.release()
    assert cuda.calls == ["stream 1 is idle", "stream 2 is idle", "stream 3 is idle", "empty cache", "empty host cache"]


def test_page_locked_memory_is_allocated_on_the_runtimes_device(cuda, monkeypatch):
    """Allocating it on another device would create a context of hundreds of megabytes."""
    monkeypatch.setattr(torch, "zeros", lambda *size, **options: cuda.calls.append(f"zeros {size} {options['pin_memory']}"))
    CudaRuntime(torch.device("cuda:1")).pinned(5)
    assert cuda.calls == ["on cuda:1", "zeros (5,) True"]


def test_captures_run_without_inference_mode(runtime):
    """Otherwise the state of the random generator would become inference tensors, on which other graphs fail."""
    seen = []
    with torch.inference_mode():
        runtime.capture(lambda: seen.append((torch.is_inference_mode_enabled(), torch.is_grad_enabled())))
    assert set(seen) == {(False, False)}


def test_flags_of_two_threads_do_not_mix(runtime):
    """Flags are global to the process, so the second thread waits for the first."""
    inside, leave, order = threading.Event(), threading.Event(), []

    def first() -> None:
        inside.set()
        assert leave.wait(30)
        order.append("first")

    thread = threading.Thread(target=runtime.eager(first))
    thread.start()
    assert inside.wait(30)
    other = threading.Thread(target=CudaRuntime(torch.device("cuda"), tuning=True).eager(lambda: order.append("second")))
    other.start()
    other.join(0.2)
    leave.set()
    for each in (thread, other):
        each.join(30)
    assert order == ["first", "second"]


@pytest.mark.parametrize(
    "text",
    [
        "CUDA out of memory. Tried to allocate 3 GiB",
        "GET was unable to find an engine to execute this computation",
        "FIND was unable to find an engine to execute this computation",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    ],
)
def test_out_of_memory_of_each_library_is_recognized(text):
    assert is_out_of_memory(RuntimeError(text))


@pytest.mark.parametrize("tuning", [False, True])
def test_cudnn_flags_are_set_and_restored(cuda, tuning):
    runtime = CudaRuntime(torch.device("cuda:1"), tuning=tuning, exact=True)
    seen = []
    cudnn = torch.backends.cudnn

    def record() -> None:
        seen.append((cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32))

    before = (cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32)
    runtime.run(Stream.COMPUTE, runtime.eager(record))
    runtime.capture(record)
    assert set(seen) == {(tuning, not tuning, False)}
    record()
    assert seen[-1] == before
