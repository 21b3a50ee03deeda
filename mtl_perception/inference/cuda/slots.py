"""Where requests for a device lie while they are under way: images and numbers up, outputs down."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mtl_perception.camera.model import CameraModel
from mtl_perception.inference.cuda.program import DeviceProgram, ProgramSpec
from mtl_perception.inference.cuda.runtime import HostRuntime, Lane
from mtl_perception.inference.request import Request
from mtl_perception.network.model import MultiTaskRefineNet
from mtl_perception.types import ALL_OUTPUTS, CLOUD_DTYPE, Result


def spec_of(request: Request, tasks: Sequence[str], classes: int) -> ProgramSpec:
    """Return the program that a request needs, of a network with these tasks and classes; without outputs: none."""
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


class Slot:
    """Memory for one request under way, on both sides, and the program bound to it.

    Args:
        runtime: The device.
        program: What to run.
        rays: Of the slot's plan.

    Attributes:
        arrays: The outputs on the host, by name, N first.
        work: The program on this slot's memory.
        execute: What the compute lane is given: `work`, or a graph of it.
        is_captured: Whether it is a graph.
        requests: How many it has had.
        settle: Takes the last request's results out of the slot's memory; None: there is nothing in it that anybody waits for.
    """

    def __init__(self, runtime: HostRuntime, program: DeviceProgram, rays: Tensor | None) -> None:
        above, below = program.spec.input_layout(), program.spec.output_layout()
        self._host_in, self._host_out = runtime.pinned(above.nbytes), runtime.pinned(below.nbytes)
        self._device_in, self._device_out = runtime.make(
            lambda: tuple(torch.zeros(n, dtype=torch.uint8, device=runtime.device) for n in (above.nbytes, below.nbytes))
        )
        staged = above.views(self._host_in)
        self._image, self._limits = staged["image"].numpy(), staged["limits"].numpy()
        self.arrays = {name: tensor.numpy() for name, tensor in below.views(self._host_out).items()}
        inputs, outputs = above.views(self._device_in), below.views(self._device_out)
        # No method of the slot's: a slot in a circle would keep its memory until the next garbage collection.
        self.work: Callable[[], None] = partial(program, inputs["image"], inputs["limits"], rays, outputs)
        self.execute = runtime.eager(self.work)
        self.is_captured = False
        self.requests = 0
        self.settle: Callable[[], object] | None = None

    def stage(self, request: Request) -> None:
        """Lay a request's images and limits where they can be copied from. The slot's last request must be done."""
        for place, frame in zip(self._image, request.frames, strict=True):
            np.copyto(place, frame.image)
        limits = request.min_depth, request.max_depth, request.min_confidence
        self._limits[:] = [(*limits, factor) for factor in request.depth_factors]

    def upload(self) -> None:
        """Host to device."""
        self._device_in.copy_(self._host_in, non_blocking=True)

    def download(self) -> None:
        """Device to host."""
        self._host_out.copy_(self._device_out, non_blocking=True)

    def start(self, runtime: HostRuntime, overlap: bool) -> Any:
        """Set off what was staged; returns the mark of its end."""
        if overlap:
            there = runtime.run(Lane.UP, self.upload)
            done = runtime.run(Lane.COMPUTE, self.execute, after=there)
            return runtime.run(Lane.DOWN, self.download, after=done)
        # In one lane, where nothing has to wait for an event: the least that a single frame can take.
        return runtime.run(Lane.COMPUTE, self._in_turn)

    def _in_turn(self) -> None:
        self.upload()
        self.execute()
        self.download()


class Plan:
    """A program with its slots, and the rays that they share.

    Args:
        runtime: The device.
        network: What `prepare_network` returns.
        classes: First class and number of classes to choose among.
        spec: What the program is for.
        use_graph: Whether to capture it.
    """

    def __init__(
        self,
        runtime: HostRuntime,
        network: MultiTaskRefineNet,
        classes: tuple[int, int],
        spec: ProgramSpec,
        use_graph: bool,
    ) -> None:
        self.program = runtime.make(lambda: DeviceProgram(network, classes, spec))
        self.use_graph = use_graph
        self.slots: list[Slot] = []
        self.next = 0
        self.cameras: list[CameraModel | None] = [None] * spec.batch
        self.rays: Tensor | None = None
        if "cloud" in spec.outputs:
            shape = (spec.batch, *spec.output_size, 2)
            self.rays = runtime.make(lambda: torch.zeros(shape, device=runtime.device))

    def settle(self) -> None:
        """Take all results out that are still to be fetched."""
        for slot in self.slots:
            if slot.settle is not None:
                slot.settle()


def results_of(request: Request, arrays: Mapping[str, np.ndarray], copy: bool) -> list[Result]:
    """One result a frame.

    Args:
        request: Done.
        arrays: What came of it; see `Slot.arrays`.
        copy: Give arrays of their own, not views.
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
        results.append(Result(**values, camera=camera))
    return results
