"""Jobs under way at once, programs kept and dropped, and what is done when a device cannot: with a stand-in for the device."""

from __future__ import annotations

import gc
import random
import weakref
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from support.images import noise_image

from mtl_perception import CameraModel, Frame, Pipeline, load_network
from mtl_perception.config import Config
from mtl_perception.errors import DeviceError
from mtl_perception.inference import backend
from mtl_perception.inference.cuda import backend as cuda_backend
from mtl_perception.inference.cuda.backend import SLOTS, CudaBackend
from mtl_perception.inference.cuda.runtime import CudaRuntime, HostRuntime, Lane, is_out_of_memory
from mtl_perception.inference.cuda.slots import pinned_bytes, spec_of
from mtl_perception.inference.request import Request
from mtl_perception.types import Result

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device")
HEIGHT, WIDTH = 6, 8
CAMERA = CameraModel(WIDTH, HEIGHT, 5.0, 6.0, 4.0, 3.0)


@dataclass(eq=False)
class Op:
    """Something that a lane has to do."""

    lane: Lane
    work: Any
    after: Any
    done: bool = False


class LateRuntime(HostRuntime):
    """A device that does nothing before it must, or at a moment drawn by chance: what a real one may do, at its worst."""

    can_capture = True

    def __init__(self, seed: int | None = None) -> None:
        super().__init__()
        self.lanes: dict[Lane, list[Op]] = {lane: [] for lane in Lane}
        self.captures = self.releases = 0
        self.faults: list[Exception] = []
        self._chance = None if seed is None else random.Random(seed)

    def run(self, lane, work, after=None):
        op = Op(lane, work, after)
        self.lanes[lane].append(op)
        if self._chance is not None:
            for queue in self._chance.sample(list(self.lanes.values()), 2):
                for pending in [op for op in queue if not op.done][: self._chance.randrange(3)]:
                    self.wait(pending)
        return op

    @torch.no_grad()
    def wait(self, mark):
        if mark.done:
            return
        queue = self.lanes[mark.lane]
        for op in queue[: queue.index(mark)]:
            self.wait(op)
        if mark.after is not None:
            self.wait(mark.after)
        mark.work()
        mark.done = True

    def make(self, build):
        for op in self.lanes[Lane.COMPUTE]:
            self.wait(op)
        return build()

    def capture(self, work):
        self.captures += 1
        if self.faults:
            raise self.faults.pop(0)
        return work

    def release(self):
        for queue in self.lanes.values():
            for op in queue:
                self.wait(op)
        self.releases += 1


class Arithmetic:
    """A program whose outputs tell what went in: labels are red, depth is made of green and the limits."""

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


@pytest.fixture(scope="module")
def network(weights_file):
    return load_network(weights_file)


@pytest.fixture
def make(network, monkeypatch):
    monkeypatch.setattr(cuda_backend, "DeviceProgram", Arithmetic)

    def path(runtime: HostRuntime, **options) -> CudaBackend:
        return CudaBackend(network, runtime, "fp32", (0, 12), **options)

    return path


def job(seed: int, size: tuple[int, int] = (HEIGHT, WIDTH), wanted: set[str] | None = None, count: int = 1) -> Request:
    """Noise, limits and a camera that all go with the seed."""
    camera = CameraModel(size[1], size[0], 5.0, 6.0, 4.0 + seed, 3.0)
    frames = [Frame(noise_image(*size, seed=10 * seed + i), camera) for i in range(count)]
    outputs = frozenset(wanted or {"labels", "depth", "cloud"})
    return Request(frames, [outputs] * count, [1.0 + seed] * count, size, "exact", 1.0, "bicubic", 0.5 * seed, 80.0, 0.0)


def assert_of(results: list[Result], done: Request) -> None:
    """They are that job's, all of it."""
    for frame, result, factor in zip(done.frames, results, done.depth_factors, strict=True):
        depth = frame.image[..., 1].astype(np.float32) * np.float32(factor) + np.float32(done.min_depth)
        np.testing.assert_array_equal(result.labels, frame.image[..., 0])
        np.testing.assert_allclose(result.depth, depth, rtol=1e-6)
        np.testing.assert_allclose(result.cloud["x"], frame.camera.rays()[..., 0] * depth, rtol=1e-5)


@pytest.mark.parametrize("copies", [True, False])
@pytest.mark.parametrize("seed", [None, *range(6)])
def test_jobs_do_not_mix_however_late_the_device_is(make, seed, copies):
    path = make(LateRuntime(seed), copies=copies)
    order = random.Random(seed)
    waiting: list[tuple[Any, Request]] = []
    for number in range(16):
        new = job(number, count=1 + number // 12)
        if order.random() < 0.3:
            assert_of(path.infer([new])[0], new)
        else:
            ticket = path.submit(new)
            waiting.append((ticket, new))
            # The picture may be overwritten as soon as it was handed over.
            given = [replace(frame, image=frame.image.copy()) for frame in new.frames]
            for frame in new.frames:
                frame.image[:] = 0
            waiting[-1] = (ticket, replace(new, frames=given))
        while len(waiting) >= SLOTS or (waiting and order.random() < 0.4):
            ticket, done = waiting.pop(0)
            assert_of(ticket.result(), done)
    for ticket, done in waiting:
        assert_of(ticket.result(), done)


def test_results_that_nobody_fetched_are_kept(make):
    path = make(LateRuntime(), copies=False)
    jobs = [job(number) for number in range(5)]
    tickets = [path.submit(each) for each in jobs]
    for ticket, done in zip(tickets, jobs, strict=True):
        assert_of(ticket.result(), done)
        assert ticket.result() is ticket.result()


def test_whose_memory(make):
    for copies in (True, False):
        path = make(LateRuntime(), copies=copies)
        first = path.infer([job(1)])[0][0]
        before = first.labels.copy()
        assert_of(path.infer([job(2)])[0], job(2))
        assert (first.labels == before).all(), "it may be published while the next is computed"
        third = path.infer([job(3)])[0][0]
        assert np.shares_memory(first.labels, third.labels) != copies
        assert (first.labels == before).all() == copies


def test_what_changes_from_frame_to_frame_needs_no_new_graph(make):
    runtime = LateRuntime()
    path = make(runtime)
    path.infer([job(0)])
    assert runtime.captures == 0, "what comes only once is not worth it"
    for number in range(4):
        path.infer([job(number)])
    tickets = [path.submit(job(number)) for number in range(4)]
    assert runtime.captures == path.graphs == 1
    for ticket in tickets:
        ticket.result()
    # Other subscribers need another program, but no other graph: none of their frames is late.
    for other in (job(1, wanted={"labels", "depth"}), job(1, wanted={"cloud"}), replace(job(1), upsampling="bilinear")):
        for _ in range(5):
            path.infer([other])
        assert runtime.captures == path.graphs == 1
    for other in (job(1, wanted={"depth"}), job(1, size=(4, 4)), job(1, count=3)):
        before = runtime.captures
        for _ in range(5):
            path.infer([other])
        assert runtime.captures == before + 1


def test_the_least_recently_used_program_goes(make):
    runtime = LateRuntime()
    path = make(runtime, programs=2)
    one, two, three = (job(1, size=(4, width)) for width in (4, 5, 6))
    path.infer([one])
    kept = path.submit(one, overlap=False)
    path.infer([two])
    path.infer([one])[0]
    assert path.graphs == 1
    path.infer([three])
    assert [spec.size for spec in path._plans] == [(4, 4), (4, 6)]
    kept_too = path.submit(one, overlap=False)
    for _ in range(4):
        path.infer([three])
    # The stand-in remembers what it did, and with it the dropped networks.
    runtime.release()
    runtime.lanes = {lane: [] for lane in Lane}
    assert_of(path.infer([two])[0], two)
    assert path.graphs == 1, "that of the first went with its program, the third has its own"
    assert_of(kept.result(), one)
    assert_of(kept_too.result(), one)
    assert len(path.notes) == 1 and path.notes[0].startswith("more than 2 kinds of request")


def test_page_locked_memory_is_bounded(make, monkeypatch):
    path = make(LateRuntime())
    requests = [job(1, size=(40, 10 + width)) for width in range(4)]
    monkeypatch.setattr(cuda_backend, "PINNED_BYTES", 3 * pinned_bytes(spec_of(requests[-1], ("segm", "depth"), 12), SLOTS))
    for each in requests:
        assert_of(path.infer([each])[0], each)
    assert [spec.size for spec in path._plans] == [(40, 11), (40, 12), (40, 13)]
    assert len(path.notes) == 1 and "the oldest program was dropped" in path.notes[0]


def test_tensors_are_plain_whatever_mode_the_caller_is_in(make):
    """Tensors of inference mode cannot be changed outside of it, and a capture inside it spoils others' graphs."""
    runtime, modes = LateRuntime(), []
    capture = runtime.capture
    runtime.capture = lambda work: modes.append(torch.is_inference_mode_enabled()) or capture(work)
    path = make(runtime)
    with torch.inference_mode():
        for number in range(3):
            assert_of(path.infer([job(number)])[0], job(number))
    assert modes == [False]
    plan = next(iter(path._plans.values()))
    assert not any(tensor.is_inference() for tensor in (plan.rays, plan.stage.image, plan.stage.maps))
    plan.slots[0].upload()
    assert_of(path.infer([job(5)])[0], job(5))


def test_without_capture_it_goes_on_and_says_so(make):
    runtime = LateRuntime()
    path = make(runtime)
    assert path.name == "cpu graph"
    runtime.faults.append(RuntimeError("operation not permitted when stream is capturing\nmore"))
    for number in (1, 2, 3):
        assert_of(path.infer([job(number)])[0], job(number))
    assert path.name == "cpu eager"
    assert path.notes == [
        "no graph of an image of 8x6 for labels, depth, cloud, and none from now on: "
        "operation not permitted when stream is capturing"
    ]
    for number in (1, 2, 3):
        assert_of(path.infer([job(number, size=(5, 5))])[0], job(number, size=(5, 5)))
    assert (runtime.captures, path.graphs) == (1, 0)
    assert make(LateRuntime(), use_graphs=False).name == make(HostRuntime()).name == "cpu eager"


@pytest.mark.parametrize(
    "fault", [torch.cuda.OutOfMemoryError("CUDA out of memory"), RuntimeError("CUDA error: out of memory")]
)
def test_out_of_memory_frees_everything_and_goes_on_without_a_graph(make, fault):
    runtime = LateRuntime()
    path = make(runtime, copies=False)
    large = job(3, size=(20, 30))
    assert_of(path.infer([large])[0], large)
    under_way = [path.submit(job(number)) for number in (1, 2)]
    runtime.faults.append(fault)
    assert_of(path.infer([large])[0], large)
    assert runtime.releases == 1
    assert [spec.size for spec in path._plans] == [(20, 30)]
    for number, ticket in zip((1, 2), under_way, strict=True):
        assert_of(ticket.result(), job(number))
    for _ in range(3):
        assert_of(path.infer([large])[0], large)
    assert path.graphs == 0, "this one stays without"
    for number in (4, 5, 6):
        path.infer([job(number)])
    assert path.graphs == 1, "others have theirs"
    assert path.notes == [
        "out of memory: programs and graphs were freed; an image of 30x20 for labels, depth, cloud now runs without a graph"
    ]


def test_no_room_even_then(make, monkeypatch):
    runtime = LateRuntime()
    path = make(runtime)
    path.infer([job(1)])

    def full(nbytes):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 3 GiB")

    with monkeypatch.context() as context:
        context.setattr(runtime, "pinned", full)
        with pytest.raises(
            DeviceError, match="out of memory while processing an image of 50x40 for labels.*Tried to allocate 3 GiB"
        ):
            path.infer([job(2, size=(40, 50))])
    assert_of(path.infer([job(3)])[0], job(3))


def test_other_errors_are_not_taken_for_a_lack_of_memory(make, monkeypatch):
    path = make(LateRuntime())
    monkeypatch.setattr(Arithmetic, "write_outputs", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        path.infer([job(1)])
    texts = ("CUDA error: out of memory", "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")
    assert all(is_out_of_memory(RuntimeError(text)) for text in texts)
    assert not is_out_of_memory(RuntimeError("CUDA error: an illegal memory access was encountered"))
    assert not is_out_of_memory(ValueError("out of memory"))


def test_several_sizes_at_once(make):
    path = make(LateRuntime(3), copies=False)
    jobs = [job(1), job(2, size=(4, 5), count=2), job(3, wanted={"labels", "depth", "cloud", "image"}, size=(9, 9))]
    for results, done in zip(path.infer(jobs), jobs, strict=True):
        assert_of(results, done)


@pytest.mark.parametrize("use_graphs", [True, False])
def test_what_is_dropped_is_gone_at_once(make, use_graphs):
    path = make(LateRuntime(), programs=1, use_graphs=use_graphs)
    path.infer([job(1)])
    path.runtime.release()
    path.runtime.lanes = {lane: [] for lane in Lane}
    slot = weakref.ref(next(iter(path._plans.values())).slots[0])
    gc.disable()
    try:
        path.infer([job(2, size=(4, 4))])
        assert slot() is None
    finally:
        gc.enable()


def test_the_preset_is_one_that_a_node_takes():
    preset = yaml.safe_load((Path(__file__).parents[2] / "config" / "gpu.yaml").read_text())["/**"]["ros__parameters"]
    assert replace(Config(), **preset).device == "cuda"


@pytest.mark.parametrize(("precision", "exact"), [("fp32", True), ("bf16", False)])
def test_a_pipeline_on_a_gpu_uses_this_backend(weights_file, monkeypatch, precision, exact):
    runtime, asked = LateRuntime(), []

    monkeypatch.setattr(cuda_backend, "DeviceProgram", Arithmetic)
    monkeypatch.setattr(backend, "select_device", lambda name: torch.device("cuda", 0))
    monkeypatch.setattr(backend, "CudaRuntime", lambda *args, **named: asked.append((args, named)) or runtime)
    pipe = Pipeline(weights=weights_file, device="cpu", precision=precision, cudnn_benchmark=True, reuse_outputs=True)
    assert asked == [((torch.device("cuda", 0), True), {"exact": exact})]
    assert runtime.captures == pipe._backend.graphs == 1, "the warm-up ends with a graph"
    frames = [Frame(noise_image(HEIGHT, WIDTH, seed), CAMERA) for seed in range(4)]
    for frame, result in zip(frames, pipe.stream(frames, {"labels"}), strict=True):
        np.testing.assert_array_equal(result.labels, frame.image[..., 0])
    results = [pipe(frame, {"labels"}) for frame in frames]
    for result, frame in zip(results[-SLOTS:], frames[-SLOTS:], strict=True):
        np.testing.assert_array_equal(result.labels, frame.image[..., 0])
    assert np.shares_memory(results[0].labels, results[SLOTS].labels)
    for result, frame in zip(pipe.batch(frames[:3], [{"labels"}] * 3), frames, strict=False):
        np.testing.assert_array_equal(result.labels, frame.image[..., 0])
    assert (pipe.result_sets, pipe.batch_limit) == (SLOTS, 8)
    assert pipe.backend == "cpu graph" and pipe.notes == ()
    off = Pipeline(weights=weights_file, device="cpu", precision="fp32", cuda_graph=False, warm_up=False)
    assert off.backend == "cpu eager"


def test_stream_keeps_the_order_and_submits_one_request_ahead(make):
    runtime = LateRuntime()
    path = make(runtime, copies=False)
    read = []

    def requests():
        for number in range(5):
            read.append(number)
            yield job(number)

    for number, results in enumerate(path.stream(requests())):
        assert_of(results, job(number))
        assert read == list(range(min(number + 2, 5)))
    assert list(path.stream([])) == []


def test_stream_yields_what_came_before_an_error_and_then_raises_it(make, monkeypatch):
    path = make(LateRuntime())

    def requests():
        yield job(1)
        raise ValueError("no more frames")

    found = path.stream(requests())
    assert_of(next(found), job(1))
    with pytest.raises(ValueError, match="no more frames"):
        next(found)


def test_other_requests_between_those_of_a_stream_do_not_mix(make):
    path = make(LateRuntime(5), copies=False)
    for number, results in enumerate(path.stream(job(number) for number in range(4))):
        assert_of(results, job(number))
        for other in (10, 11, 12):
            assert_of(path.infer([job(other + number)])[0], job(other + number))


@needs_cuda
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_graph_and_eager_give_the_same_bytes_on_a_gpu(network, precision):
    device = torch.device("cuda")
    answers = []
    for use_graphs in (True, False):
        path = CudaBackend(network, CudaRuntime(device, exact=True), precision, (0, 12), use_graphs=use_graphs)
        jobs = [job(number, size=(61, 90)) for number in range(5)]
        tickets = [path.submit(each) for each in jobs]
        answers.append([ticket.result()[0].cloud.tobytes() for ticket in tickets])
        assert [path.infer([each])[0][0].cloud.tobytes() for each in jobs] == answers[-1]
        assert path.name == f"cuda {'graph' if use_graphs else 'eager'}" and path.notes == []
    assert answers[0] == answers[1]


@needs_cuda
def test_a_capture_that_fails_on_a_gpu_does_no_harm(network):
    class Unlucky(CudaRuntime):
        def capture(self, work):
            return super().capture(lambda: (work(), torch.zeros(1, device=self.device).item()))

    path = CudaBackend(network, Unlucky(torch.device("cuda")), "fp32", (0, 12))
    eager = CudaBackend(network, CudaRuntime(torch.device("cuda")), "fp32", (0, 12), use_graphs=False)
    for number in range(3):
        each = job(number, size=(61, 90))
        assert path.infer([each])[0][0].cloud.tobytes() == eager.infer([each])[0][0].cloud.tobytes()
    assert path.name == "cuda eager" and "none from now on" in path.notes[0]
