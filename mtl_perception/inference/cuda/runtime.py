"""Streams, events, page-locked memory and CUDA graphs: the only module that calls CUDA's runtime.

`HostRuntime` has the same interface for CPU tensors and does everything at once. With it, and with test doubles derived from
it, the backend is tested without a GPU.
"""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from enum import Enum
from typing import Any, TypeVar

import torch
from torch import Tensor

WARM_UPS = 3
"""Runs before a capture: in the first ones, libraries choose algorithms, compile kernels and allocate workspaces."""
Work = Callable[[], None]
T = TypeVar("T")
_cudnn_flags = threading.RLock()
"""cuDNN's flags are global: pipelines in several threads set them one at a time."""


class Stream(Enum):
    """CUDA streams: work of one stream runs in order, streams run concurrently."""

    UPLOAD = "upload"
    COMPUTE = "compute"
    DOWNLOAD = "download"


class HostRuntime:
    """Runtime for CPU tensors: work is done when `run` returns.

    Attributes:
        device: Device of the tensors.
        can_capture: Whether `capture` is supported.
    """

    can_capture = False

    def __init__(self) -> None:
        self.device = torch.device("cpu")

    def pinned(self, nbytes: int) -> Tensor:
        """Allocate `nbytes` uint8 in host memory that the device can access."""
        return torch.zeros(nbytes, dtype=torch.uint8)

    def make(self, build: Callable[[], T]) -> T:
        """Return the result of `build` after its work on the device has finished, so that any stream may use it."""
        return build()

    def run(self, stream: Stream, work: Work, after: Any = None) -> Any:
        """Enqueue work in a stream.

        Args:
            stream: Where to enqueue it.
            work: Called at once; what it enqueues on the device may run later.
            after: An event of another stream to wait for; None: no wait.

        Returns:
            An event that is recorded after the work.
        """
        work()
        return None

    def wait(self, event: Any) -> None:
        """Block until an event has occurred."""

    def eager(self, work: Work) -> Work:
        """Return `work` with the flags of this runtime, for the compute stream."""
        return work

    def capture(self, work: Work) -> Work:
        """Return a function that replays `work` as a CUDA graph, for the compute stream."""
        raise RuntimeError("there are no graphs on a CPU")

    def release(self) -> None:
        """Synchronize all streams and free unused memory."""


class CudaRuntime(HostRuntime):
    """Runtime for one GPU.

    Args:
        device: The GPU.
        tuning: Let cuDNN time its algorithms for each new size and keep the fastest. The choice, and with it the last bits of
            the outputs, may differ from process to process.
        exact: Compute float32 convolutions in float32; otherwise in TF32, which has 10 bits of mantissa.
    """

    can_capture = True

    def __init__(self, device: torch.device, tuning: bool = False, exact: bool = True) -> None:
        super().__init__()
        self.device = torch.device("cuda", torch.cuda.current_device() if device.index is None else device.index)
        self._tuning, self._exact = tuning, exact
        self._streams = {stream: torch.cuda.Stream(self.device) for stream in Stream}  # type: ignore[no-untyped-call]
        self._pool: Any = None
        self._graphs: weakref.WeakSet[_Graph] = weakref.WeakSet()

    def pinned(self, nbytes: int) -> Tensor:
        """Allocate page-locked memory, whose copies are asynchronous."""
        # On this device: on another one it would create a context.
        with torch.cuda.device(self.device):
            return torch.zeros(nbytes, dtype=torch.uint8, pin_memory=True)

    def make(self, build: Callable[[], T]) -> T:
        """See `HostRuntime.make`; the memory belongs to the compute stream."""
        stream = self._streams[Stream.COMPUTE]
        with torch.cuda.stream(stream):
            made = build()
        # Reused memory may still be read by work in the compute stream, while another stream is about to write to it.
        stream.synchronize()
        return made

    def run(self, stream: Stream, work: Work, after: Any = None) -> Any:
        """See `HostRuntime.run`."""
        queue = self._streams[stream]
        with torch.cuda.stream(queue):
            if after is not None:
                queue.wait_event(after)
            work()
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record(queue)
        return event

    def wait(self, event: Any) -> None:
        """See `HostRuntime.wait`; the GIL is released meanwhile."""
        event.synchronize()

    def eager(self, work: Work) -> Work:
        """See `HostRuntime.eager`."""

        def flagged() -> None:
            with self._flags():
                work()

        return flagged

    def capture(self, work: Work) -> Work:
        """Run `work` a few times, then capture it as a CUDA graph.

        All graphs share one memory pool: they run one after the other in the compute stream, and write their results to memory
        of the caller.

        Raises:
            RuntimeError: An operation cannot be captured, or memory runs out.
        """
        stream = self._streams[Stream.COMPUTE]
        if not self._graphs:
            # A pool is freed with its last graph.
            self._pool = torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        # The stream is set around the capture as well: torch.cuda.graph does not restore it when a capture fails. Inference
        # mode would leave the random generator's state as inference tensors, on which other graphs of the process fail
        # (PyTorch issue 166792).
        with torch.cuda.stream(stream), self._flags(), torch.inference_mode(False), torch.no_grad():
            for _ in range(WARM_UPS):
                work()
            stream.synchronize()
            try:
                # thread_local: CUDA calls of other threads do not invalidate the capture.
                with torch.cuda.graph(graph, pool=self._pool, stream=stream, capture_error_mode="thread_local"):
                    work()
            except BaseException:
                # The pool keeps the memory of the failed capture: the next one starts with a new pool.
                self._graphs = weakref.WeakSet()
                raise
        captured = _Graph(graph)
        self._graphs.add(captured)
        return captured

    def release(self) -> None:
        """See `HostRuntime.release`; the memory of unreferenced graphs is freed as well."""
        for stream in self._streams.values():
            stream.synchronize()
        gc.collect()
        # After a failed capture PyTorch without its change 180395 (April 2026) takes it for unfinished, and raises.
        with suppress(RuntimeError):
            torch.cuda.empty_cache()
        # Page-locked memory has no public function; this one may be renamed in a later version.
        empty_host_cache = getattr(torch._C, "_host_emptyCache", None)
        if empty_host_cache is not None:
            with suppress(RuntimeError):
                empty_host_cache()

    @contextmanager
    def _flags(self) -> Iterator[None]:
        with (
            _cudnn_flags,
            torch.backends.cudnn.flags(
                enabled=True, benchmark=self._tuning, deterministic=not self._tuning, allow_tf32=not self._exact
            ),
        ):
            yield


class _Graph:
    """A captured graph; a call launches it in the current stream."""

    def __init__(self, graph: torch.cuda.CUDAGraph) -> None:
        self._graph = graph

    def __call__(self) -> None:
        self._graph.replay()
