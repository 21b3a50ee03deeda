"""Streams, events, page-locked memory and graphs: all that the device path knows of CUDA, behind a few verbs.

`HostRuntime` has the same verbs for CPU tensors and does everything at once: with it, and with stand-ins made of it, the device
path is tested where there is no GPU.
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
"""Runs before a capture: libraries choose kernels and take memory in the first ones, which a graph must not hold."""
NO_ROOM = ("out of memory", "ALLOC_FAILED", "DefaultCPUAllocator", "unable to find an engine to execute this computation")
"""How libraries report a lack of memory; the last is cuDNN's way, when none of its algorithms finds room."""
Work = Callable[[], None]
T = TypeVar("T")
_cudnn_flags = threading.RLock()
"""cuDNN's flags are those of the process: pipelines of several threads set them one after the other."""


class Lane(Enum):
    """Work of one lane runs in order; lanes run beside each other."""

    UP = "up"
    COMPUTE = "compute"
    DOWN = "down"


class HostRuntime:
    """CPU tensors: work is done when `run` returns.

    Attributes:
        device: Where tensors lie that are made with `make`.
        can_capture: Whether `capture` makes a graph.
    """

    can_capture = False

    def __init__(self) -> None:
        self.device = torch.device("cpu")

    def pinned(self, nbytes: int) -> Tensor:
        """Bytes on the host that the device can reach."""
        return torch.zeros(nbytes, dtype=torch.uint8)

    def make(self, build: Callable[[], T]) -> T:
        """What `build` returns, its work on the device finished, so that any lane may use it."""
        return build()

    def run(self, lane: Lane, work: Work, after: Any = None) -> Any:
        """Give a lane something to do.

        Args:
            lane: Behind what the lane has to do already.
            work: Called at once; what it gives to the device may be done later.
            after: A mark of another lane that must be passed first; None: nothing.

        Returns:
            A mark that is passed when the work is done.
        """
        work()
        return None

    def wait(self, mark: Any) -> None:
        """Return when a mark is passed."""

    def eager(self, work: Work) -> Work:
        """`work` as the compute lane can take it, step by step."""
        return work

    def capture(self, work: Work) -> Work:
        """What does the same as `work` with one call to the device; to be given to the compute lane."""
        raise RuntimeError("there are no graphs on a CPU")

    def release(self) -> None:
        """Wait for all lanes, then give unused memory back."""


class CudaRuntime(HostRuntime):
    """One GPU.

    Args:
        device: Which.
        tuning: Let cuDNN time its kernels for each new size and keep the fastest. The choice, and with it the last bits of the
            outputs, may then differ from one process to the next.
        exact: Multiply float32 as such; without it convolutions of float32 use TF32, which has 10 bits of mantissa.
    """

    can_capture = True

    def __init__(self, device: torch.device, tuning: bool = False, exact: bool = True) -> None:
        super().__init__()
        self.device = torch.device("cuda", torch.cuda.current_device() if device.index is None else device.index)
        self._tuning, self._exact = tuning, exact
        self._streams = {lane: torch.cuda.Stream(self.device) for lane in Lane}  # type: ignore[no-untyped-call]
        self._pool: Any = None
        self._graphs: weakref.WeakSet[_Graph] = weakref.WeakSet()

    def pinned(self, nbytes: int) -> Tensor:
        """Page-locked: copies to and from it need not wait for the processor."""
        # On this device: on another one it would create a context.
        with torch.cuda.device(self.device):
            return torch.zeros(nbytes, dtype=torch.uint8, pin_memory=True)

    def make(self, build: Callable[[], T]) -> T:
        """See `HostRuntime.make`; the memory is the compute lane's."""
        stream = self._streams[Lane.COMPUTE]
        with torch.cuda.stream(stream):
            made = build()
        # Memory that is used again may still be read by work of the compute lane: a lane beside it must not write there yet.
        stream.synchronize()
        return made

    def run(self, lane: Lane, work: Work, after: Any = None) -> Any:
        """See `HostRuntime.run`."""
        stream = self._streams[lane]
        with torch.cuda.stream(stream):
            if after is not None:
                stream.wait_event(after)
            work()
            mark = torch.cuda.Event()  # type: ignore[no-untyped-call]
            mark.record(stream)
        return mark

    def wait(self, mark: Any) -> None:
        """Other Python threads go on meanwhile."""
        mark.synchronize()

    def eager(self, work: Work) -> Work:
        """With the choice of kernels that was asked for."""

        def flagged() -> None:
            with self._flags():
                work()

        return flagged

    def capture(self, work: Work) -> Work:
        """Run it a few times, then record it as a CUDA graph.

        All graphs share one pool of memory: they only ever run one after the other, on the compute lane, and none leaves
        anything there for another, for outputs go to memory of the caller's.

        Raises:
            RuntimeError: Something in `work` cannot be captured, or there is no room.
        """
        stream = self._streams[Lane.COMPUTE]
        if not self._graphs:
            # A pool dies with the last graph in it.
            self._pool = torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        # The stream around the capture, too: when a capture fails, torch.cuda.graph leaves its own as the current one. Without
        # inference mode: it would leave the random generator's state as inference tensors, on which the graphs of others fail
        # (PyTorch issue 166792).
        with torch.cuda.stream(stream), self._flags(), torch.inference_mode(False), torch.no_grad():
            for _ in range(WARM_UPS):
                work()
            stream.synchronize()
            try:
                # thread_local: what other threads of the process ask of CUDA meanwhile does no harm.
                with torch.cuda.graph(graph, pool=self._pool, stream=stream, capture_error_mode="thread_local"):
                    work()
            except BaseException:
                # What is left of the capture stays in that pool: the next one begins with another.
                self._graphs = weakref.WeakSet()
                raise
        captured = _Graph(graph)
        self._graphs.add(captured)
        return captured

    def release(self) -> None:
        """See `HostRuntime.release`; graphs that nobody holds give theirs, too."""
        for stream in self._streams.values():
            stream.synchronize()
        gc.collect()
        # After a capture that failed, PyTorch without its change 180395 (April 2026) thinks that it still goes on, and refuses.
        with suppress(RuntimeError):
            torch.cuda.empty_cache()
        # Page-locked memory, which has no public function. Its name may change with a version of PyTorch.
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
    """A captured graph; calling it gives it to the current stream."""

    def __init__(self, graph: torch.cuda.CUDAGraph) -> None:
        self._graph = graph

    def __call__(self) -> None:
        self._graph.replay()


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether it says, or comes of it, that a device or page-locked memory has no room: libraries say so in their own ways."""
    # A capture that runs out of memory ends with an error of its own, which knows the first one only as its context.
    while isinstance(error, RuntimeError):
        text = str(error)
        if isinstance(error, torch.cuda.OutOfMemoryError) or any(words in text for words in NO_ROOM):
            return True
        error = error.__cause__ or error.__context__
    return False
