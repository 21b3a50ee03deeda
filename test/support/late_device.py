"""A test double for a GPU, and requests whose results identify them."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from mtl_perception import CameraModel, Frame, load_network
from mtl_perception.config import Config
from mtl_perception.inference.cuda import backend as cuda_backend
from mtl_perception.inference.cuda.backend import CudaBackend
from mtl_perception.inference.cuda.runtime import HostRuntime, Stream
from mtl_perception.inference.request import Request
from mtl_perception.types import Outputs
from support.images import noise_image

HEIGHT, WIDTH = 6, 8
CAMERA = CameraModel(WIDTH, HEIGHT, 5.0, 6.0, 4.0, 3.0)

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device")


@dataclass(eq=False)
class Op:
    """Work that was submitted to a stream."""

    stream: Stream
    work: Any
    after: Any
    done: bool = False


class LateRuntime(HostRuntime):
    """A device that defers work until it is waited for, or runs some of it at random: the worst case of a real one."""

    can_capture = True

    def __init__(self, seed: int | None = None) -> None:
        super().__init__()
        self.queues: dict[Stream, list[Op]] = {stream: [] for stream in Stream}
        self.captures = self.releases = 0
        self.faults: list[Exception] = []
        self._chance = None if seed is None else random.Random(seed)

    def run(self, stream, work, after=None):
        op = Op(stream, work, after)
        self.queues[stream].append(op)
        if self._chance is not None:
            for queue in self._chance.sample(list(self.queues.values()), 2):
                for pending in [op for op in queue if not op.done][: self._chance.randrange(3)]:
                    self.wait(pending)
        return op

    @torch.no_grad()
    def wait(self, mark):
        if mark.done:
            return
        queue = self.queues[mark.stream]
        for op in queue[: queue.index(mark)]:
            self.wait(op)
        if mark.after is not None:
            self.wait(mark.after)
        mark.work()
        mark.done = True

    def make(self, build):
        for op in self.queues[Stream.COMPUTE]:
            self.wait(op)
        return build()

    def capture(self, work):
        self.captures += 1
        if self.faults:
            raise self.faults.pop(0)
        return work

    def release(self):
        for queue in self.queues.values():
            for op in queue:
                self.wait(op)
        self.releases += 1


class Arithmetic:
    """A program whose outputs identify the input: labels are the red channel, depth combines green and the limits."""

    def __init__(self, network, classes, spec) -> None:
        self.spec = spec

    def allocate_maps(self):
        return torch.zeros(self.spec.batch, *self.spec.size, 2)

    def compute_maps(self, image, maps) -> None:
        maps.copy_(image[..., :2])

    def write_outputs(self, maps, image, limits, rays, out) -> None:
        assert torch.equal(maps[..., 0], image[..., 0].float()), "maps of another request"
        if "labels" in out:
            out["labels"].copy_(maps[..., 0])
        depth = maps[..., 1] * limits[:, 3, None, None] + limits[:, 0, None, None]
        if "depth" in out:
            out["depth"].copy_(depth)
        if "cloud" in out:
            out["cloud"][..., :2] = rays * depth[..., None]
            out["cloud"][..., 2:] = depth[..., None]


def request_of(seed: int, size: tuple[int, int] = (HEIGHT, WIDTH), wanted: set[str] | None = None, count: int = 1) -> Request:
    """Return a request whose images, limits and camera depend on the seed."""
    camera = CameraModel(size[1], size[0], 5.0, 6.0, 4.0 + seed, 3.0)
    frames = [Frame(noise_image(*size, seed=10 * seed + i), camera) for i in range(count)]
    outputs = frozenset(wanted or {"labels", "depth", "cloud"})
    config = Config(min_depth=0.5 * seed, points_edge_filter=0.0)
    return Request(frames, [outputs] * count, [1.0 + seed] * count, "exact", 80.0, config)


def assert_results_of(results: list[Outputs], done: Request) -> None:
    """Check that all results belong to the request."""
    for frame, result, factor in zip(done.frames, results, done.depth_factors, strict=True):
        depth = frame.image[..., 1].astype(np.float32) * np.float32(factor) + np.float32(done.config.min_depth)
        np.testing.assert_array_equal(result.labels, frame.image[..., 0])
        np.testing.assert_allclose(result.depth, depth, rtol=1e-6)
        np.testing.assert_allclose(result.cloud["x"], frame.camera.rays()[..., 0] * depth, rtol=1e-5)


def backend_fixtures() -> tuple[Any, Any]:
    """Create the fixtures `network` and `make`, which returns a backend on a runtime, with `Arithmetic` as its program."""

    @pytest.fixture(scope="module")
    def network(weights_file):
        return load_network(weights_file)

    @pytest.fixture
    def make(network, monkeypatch):
        monkeypatch.setattr(cuda_backend, "DeviceProgram", Arithmetic)

        def backend(runtime: HostRuntime, **options) -> CudaBackend:
            return CudaBackend(network, runtime, "fp32", (0, 12), **options)

        return backend

    return network, make
