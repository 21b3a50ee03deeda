"""The CUDA backend: one copy up, one captured program, one copy down; the next frame's copies overlap this one's work.

It decides which request uses which memory, how long programs are kept, and what happens when a capture fails or memory runs
out. All calls to CUDA are in `runtime`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from mtl_perception.camera.model import CameraModel
from mtl_perception.inference.cuda.prepare import prepare_network
from mtl_perception.inference.cuda.program import DeviceProgram, NetworkSpec, ProgramSpec
from mtl_perception.inference.cuda.runtime import HostRuntime, Stream
from mtl_perception.inference.cuda.slots import NetworkStage, Plan, Slot, pinned_bytes, results_of, spec_of
from mtl_perception.inference.device import DTYPES, device_errors, is_out_of_memory
from mtl_perception.inference.request import Request
from mtl_perception.network.model import MultiTaskRefineNet
from mtl_perception.types import Outputs

SLOTS = 2
"""Requests in progress at a time, and sets of results that are valid at a time: one computes while its neighbors are copied."""
PROGRAMS = 32
"""Programs kept; the least recently used goes first. Each holds its inputs and outputs on the host and on the device.
Eight unsynchronized cameras, one with other subscribers, make fifteen kinds of request."""
PINNED_BYTES = 2 << 30
"""Page-locked memory of all programs: the system cannot swap it out."""
CAPTURED_AT = 2
"""Number of the request at which the network is captured: an image size that comes only once is not worth a capture."""
CACHED_CAMERAS = 16
NOTES = 8
BATCH = 8
"""Images in one pass, as of eight cameras."""


class Ticket:
    """A request in progress.

    Args:
        backend: Where it was submitted.
        request: The request.
        slot: Its memory; None if nothing is computed.
        event: Occurs when the outputs are in the slot's memory.
    """

    def __init__(self, backend: CudaBackend, request: Request, slot: Slot | None = None, event: Any = None) -> None:
        self._backend, self._request = backend, request
        self._slot, self._event = slot, event
        self._results: list[Outputs] | None = None
        if slot is not None:
            slot.collect = lambda: self._take(copy=True)

    def result(self) -> list[Outputs]:
        """Wait for the results, one a frame, in order.

        Where the backend does not copy, their arrays are valid until `SLOTS` more requests of the same kind were submitted: one
        may be published while the next is computed.

        Raises:
            DeviceError: The device failed.
        """
        return self._take(self._backend.copies) if self._results is None else self._results

    def _take(self, copy: bool) -> list[Outputs]:
        slot = self._slot
        arrays = [{} for _ in self._request.frames] if slot is None else slot.arrays
        # Views of the arrays are made while the device still works.
        views = None if copy else results_of(self._request, arrays, copy=False)
        if slot is not None:
            with device_errors(self._backend.device, "waiting for results"):
                self._backend.runtime.wait(self._event)
            slot.collect = self._slot = None
        self._results = results_of(self._request, arrays, copy=True) if views is None else views
        return self._results


class CudaBackend:
    """Compute results on one GPU; see `Backend`. Not thread-safe.

    Args:
        network: What `load_network` returns; it is copied, not changed.
        runtime: The device.
        precision: fp32, fp16 or bf16.
        classes: First class and number of classes to choose among.
        use_graphs: Capture programs as CUDA graphs.
        copies: Results own their arrays; otherwise they lie in memory that later requests overwrite.
    """

    result_sets = SLOTS
    batch_limit = BATCH
    warm_up_runs = max(CAPTURED_AT, SLOTS)

    def __init__(
        self,
        network: MultiTaskRefineNet,
        runtime: HostRuntime,
        precision: str,
        classes: tuple[int, int],
        *,
        use_graphs: bool = True,
        copies: bool = True,
    ) -> None:
        self.runtime = runtime
        self.precision = precision
        self.copies = copies
        self.notes: list[str] = []
        self._classes = classes
        self._tasks = network.description.tasks
        self._use_graphs = use_graphs and runtime.can_capture
        self._plans: dict[ProgramSpec, Plan] = {}
        # Kept alive by the plans that use them.
        self._stages: WeakValueDictionary[NetworkSpec, NetworkStage] = WeakValueDictionary()
        self._rays: dict[tuple[CameraModel, int], Tensor] = {}
        # Without inference mode, here and below: its tensors cannot be changed outside of it, and a capture inside it spoils
        # the random generator for the graphs of others (PyTorch issue 166792).
        with device_errors(self.device, "loading the network"), torch.inference_mode(False):
            self._network, note = runtime.make(lambda: prepare_network(network, runtime.device, DTYPES[precision]))
        if note:
            self._note(note)

    @property
    def device(self) -> torch.device:
        """Where the network runs."""
        return self.runtime.device

    @property
    def name(self) -> str:
        """How the network runs: as a graph or step by step, and by which kernels."""
        return (
            f"{self.device.type} {'graph' if self._use_graphs else 'eager'}{', Triton' if self._network.uses_kernels else ''}"
        )

    @property
    def graphs(self) -> int:
        """Number of captured graphs."""
        return sum(stage.is_captured for stage in {plan.stage for plan in self._plans.values()})

    def infer(self, requests: Sequence[Request]) -> list[list[Outputs]]:
        """Return the results of several requests, in order; the copies of two or more overlap."""
        # A single request runs in one stream: events between streams cost it some microseconds.
        tickets = [self.submit(request, overlap=len(requests) > 1) for request in requests]
        return [ticket.result() for ticket in tickets]

    def stream(self, requests: Iterable[Request]) -> Iterator[list[Outputs]]:
        """Yield the results of each request in order, with the next one submitted before; see `Backend.stream`."""
        source, previous = iter(requests), None
        while True:
            ticket = failure = None
            try:
                request = next(source, None)
                ticket = None if request is None else self.submit(request)
            except Exception as error:
                # Raised after the results of the request before it, as on a device without overlap.
                failure = error
            if previous is not None:
                yield previous.result()
            if failure is not None:
                raise failure
            if ticket is None:
                return
            previous = ticket

    @torch.inference_mode(False)
    @torch.no_grad()
    def submit(self, request: Request, overlap: bool = True) -> Ticket:
        """Start a request and return before it is done.

        Args:
            request: Its images may change once this returns.
            overlap: Let its copies run beside the work of other requests.

        Raises:
            DeviceError: The device failed or is out of memory.
        """
        spec = spec_of(request, self._tasks, self._classes[1])
        if not spec.outputs:
            return Ticket(self, request)
        with device_errors(self.device, f"processing {_name(spec)}"):
            try:
                return self._start(spec, request, overlap, self._use_graphs)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
            # Outside of the handler: the error's traceback refers to memory that is to be freed.
            self._note(f"out of memory: programs and graphs were freed; {_name(spec)} now runs without a graph")
            self.release()
            return self._start(spec, request, overlap, False)

    @torch.inference_mode(False)
    @torch.no_grad()
    def release(self) -> None:
        """Free all programs, graphs and buffers; pending results are kept."""
        for plan in self._plans.values():
            plan.collect()
        self._plans.clear()
        self._rays.clear()
        self.runtime.release()

    def _start(self, spec: ProgramSpec, request: Request, overlap: bool, use_graph: bool) -> Ticket:
        plan = self._plan(spec, use_graph)
        slot = self._slot(plan)
        self._capture(plan)
        if plan.rays is not None:
            self._aim(plan, request)
        return Ticket(self, request, slot, slot.start(self.runtime, request, overlap))

    def _plan(self, spec: ProgramSpec, use_graph: bool) -> Plan:
        plan = self._plans.pop(spec, None)
        if plan is None:
            self._make_room(spec)
            program = self.runtime.make(lambda: DeviceProgram(self._network, self._classes, spec))
            stage = self._stages.get(spec.network)
            if stage is None:
                stage = self._stages[spec.network] = NetworkStage(self.runtime, program, use_graph)
            plan = Plan(self.runtime, program, stage)
        self._plans[spec] = plan
        return plan

    def _make_room(self, spec: ProgramSpec) -> None:
        """Drop the programs that were not used for the longest time, until another one fits in number and bytes."""
        room = PINNED_BYTES - pinned_bytes(spec, SLOTS)
        while self._plans and (len(self._plans) >= PROGRAMS or sum(pinned_bytes(kept, SLOTS) for kept in self._plans) > room):
            self._plans.pop(next(iter(self._plans))).collect()
            self._note(
                f"more than {PROGRAMS} kinds of request, or {PINNED_BYTES >> 20} MiB of page-locked memory: the oldest "
                "program was dropped; it is rebuilt when needed"
            )

    def _slot(self, plan: Plan) -> Slot:
        """Return the plan's next slot, emptied."""
        number = plan.next
        plan.next = (number + 1) % SLOTS
        if number >= len(plan.slots):
            plan.slots.append(Slot(self.runtime, plan))
        slot = plan.slots[number]
        if slot.collect is not None:
            slot.collect()
        return slot

    def _capture(self, plan: Plan) -> None:
        """Count a request of the plan's network, and capture it when its time has come."""
        stage = plan.stage
        stage.requests += 1
        if stage.requests != CAPTURED_AT or not stage.use_graph or not self._use_graphs:
            return
        try:
            stage.execute = self.runtime.capture(stage.work)
            stage.is_captured = True
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            # What cannot be captured once cannot be captured at another size.
            self._use_graphs = False
            reason = str(error).split("\n", 1)[0]
            self._note(f"no graph of {_name(plan.program.spec)}, and none from now on: {reason}")

    def _aim(self, plan: Plan, request: Request) -> None:
        """Copy the cameras' rays to the device where they are not those of the last request."""
        for index, camera in enumerate(request.cameras):
            if camera is None or camera == plan.cameras[index]:
                continue
            assert plan.rays is not None
            target, source = plan.rays[index], self._rays_of(camera, request.config.points_stride)
            # In the stream that reads them, after the requests that still need the old ones.
            self.runtime.run(Stream.COMPUTE, lambda target=target, source=source: target.copy_(source))  # type: ignore[misc]
            plan.cameras[index] = camera

    def _rays_of(self, camera: CameraModel, stride: int) -> Tensor:
        rays = self._rays.pop((camera, stride), None)
        if rays is None:
            while len(self._rays) >= CACHED_CAMERAS:
                self._rays.pop(next(iter(self._rays)))
            rays = self.runtime.make(lambda: torch.from_numpy(camera.rays(stride)).to(self.runtime.device))
        self._rays[camera, stride] = rays
        return rays

    def _note(self, text: str) -> None:
        self.notes[:] = [*(note for note in self.notes if note != text), text][-NOTES:]


def _name(spec: ProgramSpec) -> str:
    images = f"{spec.batch} images" if spec.batch > 1 else "an image"
    return f"{images} of {spec.size[1]}x{spec.size[0]} for {', '.join(spec.outputs)}"
