"""Frames through a GPU: one copy up, one program, one copy down, and the next frame's copies beside this one's work.

Which job goes where, what is kept and for how long, and what is done when the device cannot: no word of CUDA, which is in
`device_runtime`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mtl_perception.camera.model import CameraModel
from mtl_perception.inference.cuda.program import ProgramSpec, prepare_network
from mtl_perception.inference.cuda.runtime import HostRuntime, Lane, is_out_of_memory
from mtl_perception.inference.cuda.slots import Plan, Slot, results_of, spec_of
from mtl_perception.inference.request import Job
from mtl_perception.inference.torch.engine import DTYPES, device_errors
from mtl_perception.network.model import MultiTaskRefineNet
from mtl_perception.types import Result

SLOTS = 2
"""Jobs under way at once: one computes while the next goes up and the last comes down. Also for how many jobs results stay."""
PROGRAMS = 32
"""Programs kept; the least recently used goes first. Each holds its inputs and outputs, here and on the device.
Eight cameras out of step, one with other subscribers, make fifteen kinds of job."""
CAPTURED_AT = 2
"""Which job in a slot has its program captured: a picture whose size comes only once is not worth it."""
CACHED_CAMERAS = 16
NOTES = 8
BATCH = 8
"""Pictures in one pass, as of so many cameras."""


class Ticket:
    """A job under way."""

    def __init__(self, path: DevicePath, job: Job) -> None:
        self._path, self._job = path, job
        self._mark: Any = None
        self._slot: Slot | None = None
        self._results: list[Result] | None = None

    def result(self) -> list[Result]:
        """One result a frame, in order; waits until they are there.

        Where the path does not copy, their arrays are valid until `SLOTS` more jobs of the same kind are begun: one may be
        published while the next is computed.

        Raises:
            DeviceError: The device failed.
        """
        return self._take(self._path.copies) if self._results is None else self._results

    def _start(self, slot: Slot, overlap: bool) -> None:
        self._mark = slot.start(self._path.runtime, overlap)
        self._slot = slot
        slot.settle = lambda: self._take(copy=True)

    def _take(self, copy: bool) -> list[Result]:
        slot = self._slot
        if slot is not None:
            with device_errors(self._path.device, "waiting for results"):
                self._path.runtime.wait(self._mark)
            slot.settle = self._slot = None
        self._results = results_of(self._job, {} if slot is None else slot.arrays, copy)
        return self._results


class DevicePath:
    """Everything between frames and results on one device. Not for two threads at once.

    Args:
        network: What `load_network` returns; it is copied, not changed.
        runtime: The device.
        precision: fp32, fp16 or bf16.
        classes: First class and number of classes to choose among.
        use_graphs: Capture programs as graphs, where the device can.
        copies: Results own their arrays; without it they lie in memory that later jobs overwrite.
        programs: How many programs to keep.

    Attributes:
        notes: What was not as it should be, newest last.
        result_sets: How many calls' results are valid at a time where they are not copied.
        batch_limit: How many frames are taken together at most.
    """

    result_sets = SLOTS
    batch_limit = BATCH

    def __init__(
        self,
        network: MultiTaskRefineNet,
        runtime: HostRuntime,
        precision: str,
        classes: tuple[int, int],
        *,
        use_graphs: bool = True,
        copies: bool = True,
        programs: int = PROGRAMS,
    ) -> None:
        self.runtime = runtime
        self.copies = copies
        self.notes: list[str] = []
        self._classes = classes
        self._tasks = network.description.tasks
        self._programs = programs
        self._use_graphs = use_graphs and runtime.can_capture
        self._plans: dict[ProgramSpec, Plan] = {}
        self._rays: dict[CameraModel, Tensor] = {}
        with device_errors(self.device, "loading the network"):
            self._network = runtime.make(lambda: prepare_network(network, runtime.device, DTYPES[precision]))

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.runtime.device

    @property
    def backend(self) -> str:
        """How programs are run, for people."""
        return f"{self.device.type} graph" if self._use_graphs else f"{self.device.type} eager"

    @property
    def warm_up_jobs(self) -> int:
        """How many jobs of a kind it takes until each is the replay of a graph."""
        return CAPTURED_AT * SLOTS

    @property
    def graphs(self) -> int:
        """How many graphs there are."""
        return sum(slot.is_captured for plan in self._plans.values() for slot in plan.slots)

    def run(self, job: Job) -> list[Result]:
        """One result a frame, in order, in the least time.

        Raises:
            DeviceError: The device failed or has no room.
        """
        return self.submit(job, overlap=False).result()

    def run_all(self, jobs: Sequence[Job]) -> list[list[Result]]:
        """The results of several jobs of different kinds; where there are two or more, their copies overlap.

        Raises:
            DeviceError: The device failed or has no room.
        """
        if len(jobs) == 1:
            return [self.run(jobs[0])]
        tickets = [self.submit(job) for job in jobs]
        return [ticket.result() for ticket in tickets]

    @torch.inference_mode()
    def submit(self, job: Job, overlap: bool = True) -> Ticket:
        """Set a job off and return before it is done.

        Args:
            job: What to do. Its pictures may change once this returns.
            overlap: Let its copies run beside other jobs' work, which costs a lone job some microseconds.

        Raises:
            DeviceError: The device failed or has no room.
        """
        spec = spec_of(job, self._tasks)
        ticket = Ticket(self, job)
        if not spec.outputs:
            return ticket
        with device_errors(self.device, f"processing {_name(spec)}"):
            try:
                self._start(ticket, spec, job, overlap, self._use_graphs)
                return ticket
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
            # Out of the handler, so that the error's traceback holds nothing of what is to be freed.
            self._note(f"out of memory: programs and graphs were freed; {_name(spec)} now runs without a graph")
            self.free()
            self._start(ticket, spec, job, overlap, False)
        return ticket

    @torch.inference_mode()
    def free(self) -> None:
        """Let go of all programs, graphs and buffers; results that are still to be fetched are kept."""
        for plan in self._plans.values():
            plan.settle()
        self._plans.clear()
        self._rays.clear()
        self.runtime.release()

    def _start(self, ticket: Ticket, spec: ProgramSpec, job: Job, overlap: bool, use_graph: bool) -> None:
        plan = self._plan(spec, use_graph)
        slot = self._slot(plan)
        slot.stage(job)
        if plan.rays is not None:
            self._aim(plan, job)
        ticket._start(slot, overlap)

    def _plan(self, spec: ProgramSpec, use_graph: bool) -> Plan:
        plan = self._plans.pop(spec, None)
        if plan is None:
            while len(self._plans) >= self._programs:
                self._plans.pop(next(iter(self._plans))).settle()
                self._note(
                    f"more than {self._programs} kinds of job: the oldest program was dropped, and is made anew if needed"
                )
            plan = Plan(self.runtime, self._network, self._classes, spec, use_graph)
        self._plans[spec] = plan
        return plan

    def _slot(self, plan: Plan) -> Slot:
        """The next in turn, with nothing in it."""
        number = plan.next
        plan.next = (number + 1) % SLOTS
        if number >= len(plan.slots):
            plan.slots.append(Slot(self.runtime, plan.program, plan.rays))
        slot = plan.slots[number]
        if slot.settle is not None:
            slot.settle()
        slot.jobs += 1
        if slot.jobs == CAPTURED_AT and plan.use_graph and self._use_graphs:
            self._capture(plan, slot)
        return slot

    def _capture(self, plan: Plan, slot: Slot) -> None:
        try:
            slot.execute = self.runtime.capture(slot.work)
            slot.is_captured = True
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            # What cannot be captured once cannot be captured at another size.
            self._use_graphs = False
            reason = str(error).split("\n", 1)[0]
            self._note(f"no graph of {_name(plan.program.spec)}, and none from now on: {reason}")

    def _aim(self, plan: Plan, job: Job) -> None:
        """Put the cameras' rays in place, where they are not those of the last job."""
        for index, camera in enumerate(job.cameras):
            if camera is None or camera == plan.cameras[index]:
                continue
            assert plan.rays is not None
            target, source = plan.rays[index], self._rays_of(camera)
            # In the lane that reads them, behind the jobs that still need the old ones.
            self.runtime.run(Lane.COMPUTE, lambda target=target, source=source: target.copy_(source))  # type: ignore[misc]
            plan.cameras[index] = camera

    def _rays_of(self, camera: CameraModel) -> Tensor:
        rays = self._rays.pop(camera, None)
        if rays is None:
            while len(self._rays) >= CACHED_CAMERAS:
                self._rays.pop(next(iter(self._rays)))
            rays = self.runtime.make(lambda: torch.from_numpy(camera.rays()).to(self.device))
        self._rays[camera] = rays
        return rays

    def _note(self, text: str) -> None:
        self.notes[:] = [*(note for note in self.notes if note != text), text][-NOTES:]


def _name(spec: ProgramSpec) -> str:
    pictures = f"{spec.batch} pictures" if spec.batch > 1 else "a picture"
    return f"{pictures} of {spec.size[1]}x{spec.size[0]} for {', '.join(spec.outputs)}"
