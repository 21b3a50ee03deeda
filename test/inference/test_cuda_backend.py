"""CUDA backend with a test double for the device: concurrent requests, programs and streams."""

from __future__ import annotations

import gc
import random
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from support.images import noise_image
from support.late_device import (
    CAMERA,
    HEIGHT,
    WIDTH,
    Arithmetic,
    LateRuntime,
    assert_results_of,
    backend_fixtures,
    needs_cuda,
    request_of,
)

from mtl_perception import Frame, Pipeline
from mtl_perception.config import Config
from mtl_perception.inference import backend as selection
from mtl_perception.inference.cuda import backend as cuda_backend
from mtl_perception.inference.cuda.backend import SLOTS, CudaBackend
from mtl_perception.inference.cuda.runtime import CudaRuntime, Stream
from mtl_perception.inference.cuda.slots import pinned_bytes, spec_of
from mtl_perception.inference.request import Request

network, make = backend_fixtures()


@pytest.mark.parametrize("copies", [True, False])
@pytest.mark.parametrize("seed", [None, *range(6)])
def test_requests_do_not_mix_whenever_the_device_runs_them(make, seed, copies):
    backend = make(LateRuntime(seed), copies=copies)
    order = random.Random(seed)
    waiting: list[tuple[Any, Request]] = []
    for number in range(16):
        new = request_of(number, count=1 + number // 12)
        if order.random() < 0.3:
            assert_results_of(backend.infer([new])[0], new)
        else:
            ticket = backend.submit(new)
            waiting.append((ticket, new))
            # The image may be overwritten as soon as the request is submitted.
            given = [replace(frame, image=frame.image.copy()) for frame in new.frames]
            for frame in new.frames:
                frame.image[:] = 0
            waiting[-1] = (ticket, replace(new, frames=given))
        while len(waiting) >= SLOTS or (waiting and order.random() < 0.4):
            ticket, done = waiting.pop(0)
            assert_results_of(ticket.result(), done)
    for ticket, done in waiting:
        assert_results_of(ticket.result(), done)


def test_pending_results_are_kept(make):
    backend = make(LateRuntime(), copies=False)
    requests = [request_of(number) for number in range(5)]
    tickets = [backend.submit(each) for each in requests]
    for ticket, done in zip(tickets, requests, strict=True):
        assert_results_of(ticket.result(), done)
        assert ticket.result() is ticket.result()


def test_results_stay_valid_for_one_more_request_or_with_copies_for_good(make):
    for copies in (True, False):
        backend = make(LateRuntime(), copies=copies)
        first = backend.infer([request_of(1)])[0][0]
        before = first.labels.copy()
        assert_results_of(backend.infer([request_of(2)])[0], request_of(2))
        assert (first.labels == before).all(), "a result may be published while the next one is computed"
        third = backend.infer([request_of(3)])[0][0]
        assert np.shares_memory(first.labels, third.labels) != copies
        assert (first.labels == before).all() == copies


def test_requests_with_the_same_network_input_share_a_graph(make):
    runtime = LateRuntime()
    backend = make(runtime)
    backend.infer([request_of(0)])
    assert runtime.captures == 0, "a request that comes once is not captured"
    for number in range(4):
        backend.infer([request_of(number)])
    tickets = [backend.submit(request_of(number)) for number in range(4)]
    assert runtime.captures == backend.graphs == 1
    for ticket in tickets:
        ticket.result()
    # Other outputs need another program but the same graph, so that a new subscriber causes no delay.
    for other in (
        request_of(1, wanted={"labels", "depth"}),
        request_of(1, wanted={"cloud"}),
        replace(request_of(1), config=Config(min_depth=0.5, points_edge_filter=0.0, upsampling="bilinear")),
    ):
        for _ in range(5):
            backend.infer([other])
        assert runtime.captures == backend.graphs == 1
    for other in (request_of(1, wanted={"depth"}), request_of(1, size=(4, 4)), request_of(1, count=3)):
        before = runtime.captures
        for _ in range(5):
            backend.infer([other])
        assert runtime.captures == before + 1


def test_least_recently_used_program_is_dropped(make, monkeypatch):
    monkeypatch.setattr(cuda_backend, "PROGRAMS", 2)
    runtime = LateRuntime()
    backend = make(runtime)
    one, two, three = (request_of(1, size=(4, width)) for width in (4, 5, 6))
    backend.infer([one])
    kept = backend.submit(one, overlap=False)
    backend.infer([two])
    backend.infer([one])[0]
    assert backend.graphs == 1
    backend.infer([three])
    assert [spec.size for spec in backend._plans] == [(4, 4), (4, 6)]
    kept_too = backend.submit(one, overlap=False)
    for _ in range(4):
        backend.infer([three])
    # The test double holds references to executed work, which would keep dropped programs alive.
    runtime.release()
    runtime.queues = {stream: [] for stream in Stream}
    assert_results_of(backend.infer([two])[0], two)
    assert backend.graphs == 1, "the graph of the first program was dropped, that of the third is left"
    assert_results_of(kept.result(), one)
    assert_results_of(kept_too.result(), one)
    assert len(backend.notes) == 1 and backend.notes[0].startswith("more than 2 kinds of request")


def test_page_locked_memory_is_bounded(make, monkeypatch):
    backend = make(LateRuntime())
    requests = [request_of(1, size=(40, 10 + width)) for width in range(4)]
    monkeypatch.setattr(cuda_backend, "PINNED_BYTES", 3 * pinned_bytes(spec_of(requests[-1], ("segm", "depth"), 12), SLOTS))
    for each in requests:
        assert_results_of(backend.infer([each])[0], each)
    assert [spec.size for spec in backend._plans] == [(40, 11), (40, 12), (40, 13)]
    assert len(backend.notes) == 1 and "the oldest program was dropped" in backend.notes[0]


def test_uploads_of_a_batch_begin_before_all_its_images_are_staged(make, monkeypatch):
    runtime, events = LateRuntime(), []
    run, copy = runtime.run, np.copyto
    monkeypatch.setattr(np, "copyto", lambda *pair: events.append("stage") or copy(*pair))
    runtime.run = lambda stream, work, after=None: events.append(stream.value) or run(stream, work, after)
    backend = make(runtime)
    for overlap, uploads, rest in ((True, "upload", ["compute", "download"]), (False, "compute", [])):
        backend.submit(request_of(1, count=3), overlap).result()
        del events[:]
        batch = request_of(2, count=3)
        ticket = backend.submit(batch, overlap)
        aims = ["compute"] * 3
        assert events == [*aims, "stage", uploads, "stage", uploads, "stage", uploads, *rest]
        assert_results_of(ticket.result(), batch)


def test_views_are_made_while_the_device_works(make, monkeypatch):
    runtime, events = LateRuntime(), []
    wait, views = runtime.wait, cuda_backend.results_of
    runtime.wait = lambda event: events.append("wait") or wait(event)
    monkeypatch.setattr(cuda_backend, "results_of", lambda *given, **named: events.append("results") or views(*given, **named))
    for copies, order in ((False, ["results", "wait"]), (True, ["wait", "results"])):
        backend = make(runtime, copies=copies)
        ticket = backend.submit(request_of(1))
        del events[:]
        assert_results_of(ticket.result(), request_of(1))
        assert [event for event in events if event == "results"] == ["results"]
        assert [events[0], events[-1]] == order


def test_tensors_are_never_created_in_inference_mode(make):
    """Inference tensors cannot be modified outside inference mode, and a capture within it breaks other graphs."""
    runtime, modes = LateRuntime(), []
    capture = runtime.capture
    runtime.capture = lambda work: modes.append(torch.is_inference_mode_enabled()) or capture(work)
    backend = make(runtime)
    with torch.inference_mode():
        for number in range(3):
            assert_results_of(backend.infer([request_of(number)])[0], request_of(number))
    assert modes == [False]
    plan = next(iter(backend._plans.values()))
    assert not any(tensor.is_inference() for tensor in (plan.rays, plan.stage.block, plan.stage.maps))
    plan.slots[0].upload()
    assert_results_of(backend.infer([request_of(5)])[0], request_of(5))


def test_requests_of_several_sizes_do_not_mix(make):
    backend = make(LateRuntime(3), copies=False)
    requests = [
        request_of(1),
        request_of(2, size=(4, 5), count=2),
        request_of(3, wanted={"labels", "depth", "cloud", "image"}, size=(9, 9)),
    ]
    for results, done in zip(backend.infer(requests), requests, strict=True):
        assert_results_of(results, done)


@pytest.mark.parametrize("use_graphs", [True, False])
def test_dropped_programs_are_freed_at_once(make, monkeypatch, use_graphs):
    monkeypatch.setattr(cuda_backend, "PROGRAMS", 1)
    backend = make(LateRuntime(), use_graphs=use_graphs)
    backend.infer([request_of(1)])
    backend.runtime.release()
    backend.runtime.queues = {stream: [] for stream in Stream}
    slot = weakref.ref(next(iter(backend._plans.values())).slots[0])
    gc.disable()
    try:
        backend.infer([request_of(2, size=(4, 4))])
        assert slot() is None
    finally:
        gc.enable()


def test_gpu_preset_is_valid():
    preset = yaml.safe_load((Path(__file__).parents[2] / "config" / "gpu.yaml").read_text())["/**"]["ros__parameters"]
    assert replace(Config(), **preset).device == "cuda"


@pytest.mark.parametrize(("precision", "exact"), [("fp32", True), ("bf16", False)])
def test_a_pipeline_on_a_gpu_uses_this_backend(weights_file, monkeypatch, precision, exact):
    runtime, arguments = LateRuntime(), []

    monkeypatch.setattr(cuda_backend, "DeviceProgram", Arithmetic)
    monkeypatch.setattr(selection, "select_device", lambda name: torch.device("cuda", 0))
    monkeypatch.setattr(selection, "CudaRuntime", lambda *args, **named: arguments.append((args, named)) or runtime)
    pipe = Pipeline(weights=weights_file, device="cpu", precision=precision, cudnn_benchmark=True, reuse_outputs=True)
    assert arguments == [((torch.device("cuda", 0), True), {"exact": exact})]
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
    backend = make(runtime, copies=False)
    read = []

    def requests():
        for number in range(5):
            read.append(number)
            yield request_of(number)

    for number, results in enumerate(backend.stream(requests())):
        assert_results_of(results, request_of(number))
        assert read == list(range(min(number + 2, 5)))
    assert list(backend.stream([])) == []


def test_stream_yields_results_before_an_error_and_then_raises_it(make, monkeypatch):
    backend = make(LateRuntime())

    def requests():
        yield request_of(1)
        raise ValueError("no more frames")

    found = backend.stream(requests())
    assert_results_of(next(found), request_of(1))
    with pytest.raises(ValueError, match="no more frames"):
        next(found)


def test_other_requests_between_those_of_a_stream_do_not_mix(make):
    backend = make(LateRuntime(5), copies=False)
    for number, results in enumerate(backend.stream(request_of(number) for number in range(4))):
        assert_results_of(results, request_of(number))
        for other in (10, 11, 12):
            assert_results_of(backend.infer([request_of(other + number)])[0], request_of(other + number))


@needs_cuda
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_graph_and_eager_give_the_same_bytes_on_a_gpu(network, precision):
    device = torch.device("cuda")
    answers = []
    for use_graphs in (True, False):
        backend = CudaBackend(network, CudaRuntime(device, exact=True), precision, (0, 12), use_graphs=use_graphs)
        requests = [request_of(number, size=(61, 90)) for number in range(5)]
        tickets = [backend.submit(each) for each in requests]
        answers.append([ticket.result()[0].cloud.tobytes() for ticket in tickets])
        assert [backend.infer([each])[0][0].cloud.tobytes() for each in requests] == answers[-1]
        assert backend.name.startswith(f"cuda {'graph' if use_graphs else 'eager'}") and backend.notes == []
    assert answers[0] == answers[1]
