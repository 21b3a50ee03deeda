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
from mtl_perception.inference.outputs import log_jump
from mtl_perception.inference.request import Request
from mtl_perception.types import ALL_OUTPUTS, CLOUD_DTYPE, Outputs


def spec_of(request: Request, tasks: Sequence[str], classes: int) -> ProgramSpec:
    """Return what a request needs computed by a network with these tasks and classes."""
    size, config = request.image_size, request.config
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
        "confidence" in wanted or (config.min_confidence > 0 and bool({"labels", "cloud"} & wanted)),
        classes if "scores" in wanted else 0,
        "cloud" in wanted and config.points_edge_filter > 0,
        config.points_stride if "cloud" in wanted else 1,
    )


class NetworkStage:
    """The network's part of all programs that differ in outputs only: its input, its maps, and at most one CUDA graph.

    It runs in the compute stream only, one request after the other, so that all slots share one input and one set of maps.

    Args:
        runtime: The device.
        program: Any of the programs.
        use_graph: Capture it.

    Attributes:
        block: Images and limits of the request that runs, on the device; see `ProgramSpec.input_layout`.
        image: The images in it, N x H x W x 3 uint8.
        limits: The limits in it.
        maps: What the network writes.
        work: The network on this memory.
        execute: `work`, or a graph of it, for the compute stream.
        is_captured: Whether `execute` is a graph.
        use_graph: Whether to capture it.
        requests: Number of requests so far.
    """

    def __init__(self, runtime: HostRuntime, program: DeviceProgram, use_graph: bool) -> None:
        layout = program.spec.input_layout()
        self.block = runtime.make(lambda: torch.zeros(layout.nbytes, dtype=torch.uint8, device=runtime.device))
        inputs = layout.views(self.block)
        self.image, self.limits = inputs["image"], inputs["limits"]
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
        arrays: The outputs on the host, by name, for each frame.
        collect: Copy the last request's results out of the slot's memory; None: no results are pending.
    """

    def __init__(self, runtime: HostRuntime, plan: Plan) -> None:
        program = plan.program
        above, below = program.spec.input_layout(), program.spec.output_layout()
        self._program, self._stage, self._rays = plan.program, plan.stage, plan.rays
        self._host_in, self._host_out = runtime.pinned(above.nbytes), runtime.pinned(below.nbytes)
        self._device_in, self._device_out = runtime.make(
            lambda: tuple(torch.zeros(n, dtype=torch.uint8, device=runtime.device) for n in (above.nbytes, below.nbytes))
        )
        staged = above.views(self._host_in)
        self._images, self._limits = staged["image"].numpy(), staged["limits"].numpy()
        # One copy an image, so that it is under way while the next image is staged; the last one takes the limits along.
        size = self._images[0].nbytes
        ends = [*range(size, size * program.spec.batch, size), above.nbytes]
        self._pieces = [slice(begin, end) for begin, end in zip([0, *ends], ends, strict=False)]
        outputs = {name: tensor.numpy() for name, tensor in below.views(self._host_out).items()}
        if "cloud" in outputs:
            outputs["cloud"] = outputs["cloud"].view(CLOUD_DTYPE)[..., 0]
        self.arrays = [{name: array[index] for name, array in outputs.items()} for index in range(program.spec.batch)]
        self._outputs = below.views(self._device_out)
        self.collect: Callable[[], object] | None = None

    def start(self, runtime: HostRuntime, request: Request, overlap: bool) -> Any:
        """Start a request, and return the event of its end. The slot's last request must have finished.

        Args:
            runtime: The device.
            request: Its images may change once this returns.
            overlap: Let its copies run beside the work of other requests.
        """
        config = request.config
        limits = config.min_depth, request.max_depth, config.min_confidence
        jump = log_jump(config.points_edge_filter)
        self._limits[:] = [(*limits, factor, jump) for factor in request.depth_factors]
        # Without overlap, all is in one stream: it waits for no events, and the images need no memory of their own.
        stream, last = Stream.UPLOAD if overlap else Stream.COMPUTE, len(self._pieces) - 1
        for index, (target, frame) in enumerate(zip(self._images, request.frames, strict=True)):
            np.copyto(target, frame.image)
            if index < last:
                runtime.run(stream, partial(self._upload, index, overlap))
        if not overlap:
            return runtime.run(Stream.COMPUTE, self._finish)
        uploaded = runtime.run(Stream.UPLOAD, partial(self._upload, last, overlap))
        computed = runtime.run(Stream.COMPUTE, self._take_and_execute, after=uploaded)
        return runtime.run(Stream.DOWNLOAD, self.download, after=computed)

    def upload(self) -> None:
        """Copy images and limits to the network's input."""
        for index in range(len(self._pieces)):
            self._upload(index, overlap=False)

    def execute(self) -> None:
        """Compute the outputs of the network's input, in the compute stream."""
        stage = self._stage
        stage.execute()
        self._program.write_outputs(stage.maps, stage.image, stage.limits, self._rays, self._outputs)

    def download(self) -> None:
        """Copy the outputs to the host."""
        self._host_out.copy_(self._device_out, non_blocking=True)

    def _upload(self, index: int, overlap: bool) -> None:
        piece = self._pieces[index]
        target = self._device_in if overlap else self._stage.block
        target[piece].copy_(self._host_in[piece], non_blocking=True)

    def _take_and_execute(self) -> None:
        self._stage.block.copy_(self._device_in)
        self.execute()

    def _finish(self) -> None:
        self._upload(len(self._pieces) - 1, overlap=False)
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
            shape = (spec.batch, *spec.cloud_size, 2)
            self.rays = runtime.make(lambda: torch.zeros(shape, device=runtime.device))

    def collect(self) -> None:
        """Copy all pending results out of the slots."""
        for slot in self.slots:
            if slot.collect is not None:
                slot.collect()


def pinned_bytes(spec: ProgramSpec, slots: int) -> int:
    """Return the page-locked memory that a program's slots take."""
    return slots * (spec.input_layout().nbytes + spec.output_layout().nbytes)


def results_of(request: Request, arrays: Sequence[Mapping[str, np.ndarray]], copy: bool) -> list[Outputs]:
    """Return the outputs of each frame.

    Args:
        request: The request; unless `copy`, it need not have finished.
        arrays: Its outputs; see `Slot.arrays`.
        copy: Copy the arrays instead of returning views.
    """
    results = []
    for index, (frame, camera) in enumerate(zip(request.frames, request.cameras, strict=True)):
        wanted = request.outputs(index)
        values = {name: array for name, array in arrays[index].items() if name in wanted}
        if copy:
            values = {name: array.copy() for name, array in values.items()}
        if "image" in wanted and request.output_size == request.image_size:
            values["image"] = frame.image
        results.append(Outputs(**values, camera=camera))
    return results
