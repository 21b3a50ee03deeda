"""Latencies of calls, of the GPU's work by its own clock, and of its kernels."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from mtl_perception import Frame, Pipeline
from tools.gpu.bench import BATCHES, OUTPUTS, Bench, size_text
from tools.gpu.report import Report

OUTPUT_SETS = (OUTPUTS, ("labels", "depth"), ("labels",), ("depth",), ("labels", "confidence", "depth", "cloud"))


def time_calls(bench: Bench, report: Report) -> None:
    """Time calls from image arrays to result arrays: single frames, each precision and size, outputs, batches, streams."""
    largest = bench.sizes[0]
    for precision in bench.precisions:
        pipe = bench.pipeline(precision)
        for size in bench.sizes:
            name = f"{', '.join(OUTPUTS)}, {precision}, {size_text(size)}"
            report.time(name, _calls(pipe, bench.frames(size, 1)[0], bench.runs))
    pipe, frame, of = bench.pipeline(bench.best), bench.frames(largest, 1)[0], f"{bench.best}, {size_text(largest)}"
    for outputs in OUTPUT_SETS[1:]:
        report.time(f"{', '.join(outputs)}, {of}", _calls(pipe, frame, bench.runs, outputs))
    report.time(f"without a graph, {of}", _calls(bench.pipeline(bench.best, cuda_graph=False), frame, bench.runs))
    for outputs in OUTPUT_SETS[:2]:
        for count in bench.batches:
            frames, wanted = bench.frames(largest, count), [frozenset(outputs)] * count
            seconds = _timed(lambda f=frames, w=wanted: pipe.batch(f, w), bench.runs)  # type: ignore[misc]
            report.time(f"batch of {count}, {', '.join(outputs)}, {of}", seconds)

        def stream(outputs: Sequence[str] = outputs) -> None:
            for _ in pipe.stream([frame] * bench.chain, outputs):
                pass

        rounds = max(bench.runs // 16, 4)
        report.time(f"stream of {bench.chain}, each, {', '.join(outputs)}, {of}", _timed(stream, rounds), per=bench.chain)


def time_device(bench: Bench, report: Report) -> None:
    """Time the copies and the work of a frame by the GPU's own clock."""
    pipe = bench.pipeline(bench.best)
    for count in (1, BATCHES[-1]):
        for outputs in OUTPUT_SETS[:2]:
            frames = bench.frames(bench.sizes[0], count)
            for _ in range(4):
                pipe.batch(frames, [frozenset(outputs)] * count)
    for spec, plan in pipe._backend._plans.items():
        slot = plan.slots[0]
        for name, work in (("copy up", slot.upload), ("work", slot.execute), ("copy down", slot.download)):
            seconds = []
            for _ in range(50):
                start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
                torch.cuda.synchronize()
                start.record()
                work()
                end.record()
                torch.cuda.synchronize()
                seconds.append(start.elapsed_time(end) / 1000)
            report.time(f"GPU's clock: {name}, batch of {spec.batch}, {', '.join(spec.outputs)}", seconds)


def profile_kernels(bench: Bench, report: Report, top: int = 20) -> None:
    """Report the kernels that take most of a frame's time, without a graph, whose kernels a profiler may not see."""
    from torch.profiler import ProfilerActivity, profile

    activity = ProfilerActivity.CPU if bench.on_cpu else ProfilerActivity.CUDA
    kind = "cpu" if bench.on_cpu else "device"
    frames, rounds = bench.frames(bench.sizes[0], 1), 1 if bench.on_cpu else 10
    pipe = bench.pipeline(bench.best, cuda_graph=False)
    for _ in range(3):
        pipe(frames[0], OUTPUTS)
    with profile(activities=[activity]) as profiler:
        for _ in range(rounds):
            pipe(frames[0], OUTPUTS)
        if not bench.on_cpu:
            torch.cuda.synchronize()
    rows = [(getattr(event, f"self_{kind}_time_total"), event) for event in profiler.key_averages()]
    for microseconds, event in sorted(rows, key=lambda row: -row[0])[:top]:
        report.kernel(pipe.backend, event.key[:100], event.count / rounds, microseconds / rounds)


def _calls(pipe: Pipeline, frame: Frame, runs: int, outputs: Sequence[str] = OUTPUTS) -> list[float]:
    return _timed(lambda: pipe(frame, outputs), runs)


def _timed(work: Callable[[], Any], runs: int) -> list[float]:
    for _ in range(max(runs // 10, 2)):
        work()
    seconds = []
    for _ in range(max(runs, 2)):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return seconds
