"""Host and device memory of requests in progress."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mtl_perception.camera.model import CameraModel
from mtl_perception.inference.cuda.program import DeviceProgram, ProgramSpec
from mtl_perception.inference.cuda.runtime import HostRuntime, Stream
from mtl_perception.inference.request import Request
from mtl_perception.types import ALL_OUTPUTS, CLOUD_DTYPE, Outputs


def spec_of(request: Request, tasks: Sequence[str], classes: int) -> ProgramSpec:
    """Return what a request needs computed by a network with these tasks and classes."""
    size = request.image_size
    wanted = frozenset[str]().union(*(request.outputs(index) for index in range(len(request.frames))))
    if request.output_size == size:
        wanted -= {"image"}
    if "normals" not in tasks:
        wanted -= {"normals"}
    return ProgramSpec(
        len(request.frames),
        size,
        tuple(name for name in ALL_OUTPUTS if name in wanted),
        request.network_size,
        request.resize_spec,
        "confidence" in wanted or (request.min_confidence > 0 and bool({"labels", "cloud"} & wanted)),
        classes if "scores" in wanted else 0,
    )


class NetworkStage:
    """The network's part of all programs that differ in outputs only: its input, its maps, and at most one CUDA graph.

    It runs in the compute stream only, one request after the other, so that all slots share one input and one set of maps.

    Args:
        runtime: The device.
        program: Any of the programs.
        use_graph: Capture it.

    Attributes:
        image: N x H x W x 3 uint8 on the device.
        maps: What the network writes.
        work: The network on this memory.
        execute: `work`, or a graph of it, for the compute stream.
        is_captured: Whether `execute` is a graph.
        use_graph: Whether to capture it.
        requests: Number of requests so far.
    """

    def __init__(self, runtime: HostRuntime, program: DeviceProgram, use_graph: bool) -> None:
        shape = (program.spec.batch, *program.spec.size, 3)
        self.image = runtime.make(lambda: torch.zeros(shape, dtype=torch.uint8, device=runtime.device))
        self.maps = runtime.make(program.allocate_maps)
        # Not a method of this object: a reference cycle would keep its memory until the next garbage collection.
        self.work: Callable[[], None] = partial(program.compute_maps, self.image, self.maps)
        self.execute = runtime.eager(self.work)
        self.is_captured = False
        self.use_graph = use_graph
        self.requests = 0


class Slot:
    """Host and device memory of one request in progress.

    Args:
        runtime: The device.
        plan: The slot's plan.

    Attributes:
        arrays: The outputs on the host, by name, N first.
        execute: Compute the outputs of the uploaded images, in the compute stream.
        collect: Copy the last request's results out of the slot's memory; None: no results are pending.
    """

    def __init__(self, runtime: HostRuntime, plan: Plan) -> None:
        program, stage, rays = plan.program, plan.stage, plan.rays
        above, below = program.spec.input_layout(), program.spec.output_layout()
        self._host_in, self._host_out = runtime.pinned(above.nbytes), runtime.pinned(below.nbytes)
        self._device_in, self._device_out = runtime.make(
            lambda: tuple(torch.zeros(n, dtype=torch.uint8, device=runtime.device) for n in (above.nbytes, below.nbytes))
        )
        staged = above.views(self._host_in)
        self._image, self._limits = staged["image"].numpy(), staged["limits"].numpy()
        self.arrays = {name: tensor.numpy() for name, tensor in below.views(self._host_out).items()}
        inputs, outputs = above.views(self._device_in), below.views(self._device_out)

        def execute() -> None:
            stage.image.copy_(inputs["image"])
            stage.execute()
            program.write_outputs(stage.maps, inputs["image"], inputs["limits"], rays, outputs)

        self.execute = execute
        self.collect: Callable[[], object] | None = None

    def stage(self, request: Request) -> None:
        """Copy a request's images and limits to page-locked memory. The slot's last request must have finished."""
        for place, frame in zip(self._image, request.frames, strict=True):
            np.copyto(place, frame.image)
        limits = request.min_depth, request.max_depth, request.min_confidence
        self._limits[:] = [(*limits, factor) for factor in request.depth_factors]

    def upload(self) -> None:
        """Copy images and limits to the device."""
        self._device_in.copy_(self._host_in, non_blocking=True)

    def download(self) -> None:
        """Copy the outputs to the host."""
        self._host_out.copy_(self._device_out, non_blocking=True)

    def start(self, runtime: HostRuntime, overlap: bool) -> Any:
        """Start what was staged, and return the event of its end."""
        if overlap:
            uploaded = runtime.run(Stream.UPLOAD, self.upload)
            computed = runtime.run(Stream.COMPUTE, self.execute, after=uploaded)
            return runtime.run(Stream.DOWNLOAD, self.download, after=computed)
        # One stream has no events to wait for: the lowest latency of a single frame.
        return runtime.run(Stream.COMPUTE, self._run_in_order)

    def _run_in_order(self) -> None:
        self.upload()
        self.execute()
        self.download()


class Plan:
    """A program with its slots, and the camera rays that they share.

    Args:
        runtime: The device.
        program: What is computed.
        stage: The network's part of it.
    """

    def __init__(self, runtime: HostRuntime, program: DeviceProgram, stage: NetworkStage) -> None:
        spec = program.spec
        self.program, self.stage = program, stage
        self.slots: list[Slot] = []
        self.next = 0
        self.cameras: list[CameraModel | None] = [None] * spec.batch
        self.rays: Tensor | None = None
        if "cloud" in spec.outputs:
            shape = (spec.batch, *spec.output_size, 2)
            self.rays = runtime.make(lambda: torch.zeros(shape, device=runtime.device))

    def collect(self) -> None:
        """Copy all pending results out of the slots."""
        for slot in self.slots:
            if slot.collect is not None:
                slot.collect()


def pinned_bytes(spec: ProgramSpec, slots: int) -> int:
    """Return the page-locked memory that a program's slots take."""
    return slots * (spec.input_layout().nbytes + spec.output_layout().nbytes)


def results_of(request: Request, arrays: Mapping[str, np.ndarray], copy: bool) -> list[Outputs]:
    """Return the outputs of each frame.

    Args:
        request: The finished request.
        arrays: Its outputs; see `Slot.arrays`.
        copy: Copy the arrays instead of returning views.
    """
    results = []
    for index, (frame, camera) in enumerate(zip(request.frames, request.cameras, strict=True)):
        wanted = request.outputs(index)
        values = {name: array[index] for name, array in arrays.items() if name in wanted}
        if copy:
            values = {name: array.copy() for name, array in values.items()}
        if "cloud" in values:
            values["cloud"] = values["cloud"].view(CLOUD_DTYPE)[..., 0]
        if "image" in wanted and request.output_size == frame.image.shape[:2]:
            values["image"] = frame.image
        results.append(Outputs(**values, camera=camera))
    return results
