"""The times of tools/gpu/prove_gpu.py: host to host, and by the GPU's own clock."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from prove_gpu_bench import BATCHES, OUTPUTS, Bench, size_text
from prove_gpu_report import Report

from mtl_perception import Frame, Pipeline


def time_all(bench: Bench, report: Report) -> None:
    """Host to host: from a picture in an array to labels, depth and cloud in arrays."""
    largest = bench.sizes[0]
    for precision in bench.precisions:
        pipe = bench.pipeline(precision)
        for size in bench.sizes:
            report.time(f"{precision}, {size_text(size)}", _calls(pipe, bench.frames(size, 1)[0], bench.runs))
    pipe, frame, of = bench.pipeline(bench.best), bench.frames(largest, 1)[0], f"{bench.best}, {size_text(largest)}"
    if not bench.on_cpu:
        for outputs in (("labels",), ("depth",), ("labels", "confidence", "depth", "cloud")):
            report.time(f"only {', '.join(outputs)}, {of}", _calls(pipe, frame, bench.runs, outputs))
        report.time(f"without a graph, {of}", _calls(bench.pipeline(bench.best, cuda_graph=False), frame, bench.runs))
        other = not bench.args.tuning
        report.time(
            f"cudnn_benchmark {other}, {of}", _calls(bench.pipeline(bench.best, cudnn_benchmark=other), frame, bench.runs)
        )
        for count in BATCHES:
            frames, wanted = bench.frames(largest, count), [frozenset(OUTPUTS)] * count
            calls = _timed(lambda f=frames, w=wanted: pipe.batch(f, w), bench.runs)  # type: ignore[misc]
            report.time(f"batch of {count}, {of}", calls)

    def overlapped() -> None:
        for _ in pipe.stream([frame] * bench.chain, OUTPUTS):
            pass

    def in_turn() -> None:
        for _ in range(bench.chain):
            pipe(frame, OUTPUTS)

    rounds = 1 if bench.on_cpu else max(bench.runs // 16, 4)
    report.time(f"one after the other, each of {bench.chain}, {of}", _timed(in_turn, rounds), per=bench.chain)
    report.time(f"overlapped, each of {bench.chain}, {of}", _timed(overlapped, rounds), per=bench.chain)
    if not bench.on_cpu:
        _time_parts(pipe, report)


def _time_parts(pipe: Pipeline, report: Report) -> None:
    """What the GPU itself takes for a frame's copies and work, by its own clock."""
    assert pipe._backend is not None
    for spec, plan in pipe._backend._plans.items():
        slot = plan.slots[0]
        if spec.batch not in (1, 8) or set(spec.outputs) != set(OUTPUTS):
            continue
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
            report.time(f"GPU's clock: {name}, batch of {spec.batch}, {size_text(spec.size)}", seconds)


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
