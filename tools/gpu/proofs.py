"""Proofs that every mode of the CUDA backend returns the results of the CPU."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from mtl_perception import Pipeline
from mtl_perception.inference.cuda.backend import SLOTS
from mtl_perception.inference.cuda.network import AtenNetwork
from mtl_perception.inference.device import DTYPES
from mtl_perception.result import Result
from tools.gpu.bench import OUTPUTS, Bench, size_text
from tools.gpu.report import Report

LABELS_AGREE, DEPTH_AGREES, DEPTH_TOLERANCE = 0.995, 0.99, 0.01
MEMORY_SLACK = 64 << 20
"""Growth of a process over many frames that is not a leak, bytes: allocators round up."""


def kept(result: Result) -> dict[str, np.ndarray]:
    """Return copies of the outputs, whose memory the next call reuses."""
    return {name: getattr(result, name).copy() for name in OUTPUTS}


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return all(a[name].tobytes() == b[name].tobytes() for name in OUTPUTS)


def agreement(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> tuple[float, float]:
    """Return the shares of pixels with the same label, and with depth within the tolerance or non-finite in both."""
    depth, truth = found["depth"], expected["depth"]
    with np.errstate(invalid="ignore"):
        near = np.abs(depth - truth) <= DEPTH_TOLERANCE * truth
    alike = (np.isnan(depth) & np.isnan(truth)) | (np.isposinf(depth) & np.isposinf(truth))
    return float((found["labels"] == expected["labels"]).mean()), float((near | alike).mean())


def prove_agreement(bench: Bench, report: Report) -> None:
    exact = Pipeline(bench.args.weights, "cpu", precision="fp32", warm_up=False)
    for precision in bench.precisions:
        pipe = bench.pipeline(precision)
        for size in bench.sizes:
            shares = [agreement(kept(pipe(frame, OUTPUTS)), kept(exact(frame, OUTPUTS))) for frame in bench.frames(size)]
            labels, depth = (min(values) for values in zip(*shares, strict=True))
            detail = f"labels {labels:.3%}, depth within {DEPTH_TOLERANCE:.0%} {depth:.3%} (the worse of {len(shares)} images)"
            # bf16 has 8 bits of mantissa; its agreement is reported, but not required.
            holds = precision == "bf16" or (labels >= LABELS_AGREE and depth >= DEPTH_AGREES)
            report.prove(f"agrees with float32 on the CPU: {precision}, {size_text(size)}", holds, detail)


def prove_kernels(bench: Bench, report: Report) -> None:
    """Compare Triton kernels with PyTorch's operators, with the same weights on the same device."""
    pipe, plain = bench.pipeline(bench.best), bench.pipeline(bench.best)
    backend = plain._backend
    if not pipe._backend._network.uses_kernels:
        report.prove("Triton kernels run", bench.on_cpu, "; ".join(pipe.notes) or "they are not for this device")
        return
    backend._network = AtenNetwork(bench.network, backend.device, DTYPES[bench.best])
    for size in bench.sizes:
        shares = [agreement(kept(pipe(frame, OUTPUTS)), kept(plain(frame, OUTPUTS))) for frame in bench.frames(size)]
        labels, depth = (min(values) for values in zip(*shares, strict=True))
        holds = labels >= LABELS_AGREE and depth >= DEPTH_AGREES
        report.prove(f"kernels agree with operators: {size_text(size)}", holds, f"labels {labels:.3%}, depth {depth:.3%}")


def prove_points(bench: Bench, report: Report) -> None:
    """Compare the points that Triton kernels and PyTorch's operators remove, from the same maps, also with a stride."""
    for size, stride in ((size, stride) for size in bench.sizes for stride in (1, 4)):
        pipe = bench.pipeline(bench.best, points_edge_filter=0.12, points_stride=stride)
        backend = pipe._backend
        if not backend._network.uses_kernels:
            return
        frame = bench.frames(size, 1)[0]
        pipe(frame, OUTPUTS)
        (plan,) = backend._plans.values()
        program, maps = plan.program, plan.stage.maps
        layout = program.spec.output_layout()
        points, depths = [], []
        for write in (program._write_by_kernel, program._write_by_operators):
            out = layout.views(torch.zeros(layout.nbytes, dtype=torch.uint8, device=backend.device))
            write(maps, plan.stage.image, plan.stage.limits, plan.rays, out)
            points.append(out["cloud"][..., 2])
            depths.append(out["depth"][:, ::stride, ::stride])
        # A depth at its limit may be finite in one of them only.
        finite = depths[0].isfinite() & depths[1].isfinite()
        differ = int(((points[0].isnan() != points[1].isnan()) & finite).sum())
        removed = float((points[0].isnan() & finite).sum() / finite.sum())
        name = f"kernels and operators remove the same points: {size_text(size)}, stride {stride}"
        report.prove(name, differ == 0 and removed > 0, f"{differ} differ, {removed:.2%} of {int(finite.sum())} removed")


def prove_sameness(bench: Bench, report: Report) -> None:
    size = bench.sizes[0]
    frames = bench.frames(size, bench.most)
    pipe = bench.pipeline(bench.best)
    single = [kept(pipe(frame, OUTPUTS)) for frame in frames]
    assert pipe._backend is not None
    report.prove("runs as a graph", pipe._backend.graphs > 0 and not pipe.notes, f"{pipe.backend} {pipe.notes}")
    eager = bench.pipeline(bench.best, cuda_graph=False)
    report.prove(
        "graph and eager: same bytes", all(same(kept(eager(f, OUTPUTS)), s) for f, s in zip(frames, single, strict=True)), "all"
    )
    if not bench.args.cudnn_benchmark:
        again = bench.pipeline(bench.best)
        report.prove("another pipeline: same bytes", same(kept(again(frames[0], OUTPUTS)), single[0]), "all")
    overlapped = [kept(result) for result in pipe.stream(frames, OUTPUTS)]
    report.prove("overlapped frames: same bytes", all(map(same, overlapped, single)), f"{len(frames)} frames")
    together = [kept(result) for result in pipe.batch(frames, [OUTPUTS] * len(frames))]
    labels, depth = (min(values) for values in zip(*map(agreement, together, single), strict=True))
    report.prove(
        f"a batch of {len(frames)} agrees with single frames",
        min(labels, depth) >= LABELS_AGREE,
        f"labels {labels:.3%}, depth {depth:.3%}",
    )


def prove_fallbacks(bench: Bench, report: Report) -> None:
    small = bench.frames(bench.sizes[1], 1)[0]
    large = bench.frames(bench.sizes[0], 1)[0]
    pipe = bench.pipeline(bench.best)
    expected = [kept(pipe(frame, OUTPUTS)) for frame in (small, large)]
    answers = [kept(pipe(frame, OUTPUTS)) for frame in (large, small) * SLOTS]
    changed = all(map(same, answers, [*reversed(expected)] * SLOTS))
    report.prove("the size changes back and forth", changed and not pipe.notes, f"{pipe.backend} {pipe.notes}")

    pipe = bench.pipeline(bench.best)
    assert pipe._backend is not None
    # The second frame is in flight when the first result is returned.
    pending = pipe.stream([small, small], OUTPUTS)
    next(pending)
    capture = pipe._backend.runtime.capture
    pipe._backend.runtime.capture = _raises(torch.cuda.OutOfMemoryError("simulated"))  # type: ignore[method-assign]
    answer = [kept(pipe(large, OUTPUTS)) for _ in range(2 * SLOTS)][-1]
    pipe._backend.runtime.capture = capture  # type: ignore[method-assign]
    held = (
        same(answer, expected[1]) and same(kept(next(pending)), expected[0]) and same(kept(pipe(small, OUTPUTS)), expected[0])
    )
    report.prove("out of memory: freed, goes on, nothing lost", held and len(pipe.notes) == 1, "; ".join(pipe.notes))


def prove_failed_capture(bench: Bench, report: Report) -> None:
    """Check the fallback after a failed capture."""
    frames = [bench.frames(size, 1)[0] for size in bench.sizes[:2]]
    eager = bench.pipeline(bench.best, cuda_graph=False)
    expected = [kept(eager(frame, OUTPUTS)) for frame in frames]
    pipe = bench.pipeline(bench.best)
    assert pipe._backend is not None
    broken = _raises(RuntimeError("forced: no capture")) if bench.on_cpu else _broken_capture(pipe)
    pipe._backend.runtime.capture = broken  # type: ignore[method-assign]
    answers = [kept(pipe(frame, OUTPUTS)) for frame in frames * 2 * SLOTS]
    held = all(map(same, answers, expected * 2 * SLOTS)) and pipe.backend == eager.backend
    detail = f"{pipe.backend}: {'; '.join(pipe.notes)}"
    report.prove("a capture fails: eager, same bytes, and it says so", held and len(pipe.notes) == 1, detail)


def _raises(error: Exception) -> Callable[..., Any]:
    def raises(*_: Any) -> Any:
        raise error

    return raises


def _broken_capture(pipe: Pipeline) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """Return a capture of work that reads a value back, which a CUDA graph cannot contain."""
    assert pipe._backend is not None
    runtime, capture = pipe._backend.runtime, pipe._backend.runtime.capture

    def broken(work: Callable[[], None]) -> Callable[[], None]:
        def reads_back() -> None:
            work()
            torch.zeros(1, device=runtime.device).item()

        return capture(reads_back)

    return broken


def prove_flat_memory(bench: Bench, report: Report) -> None:
    import psutil

    pipe = bench.pipeline(bench.best)
    frames = bench.frames(bench.sizes[0], 4)
    total = 4 if bench.on_cpu else bench.args.frames
    process, seen = psutil.Process(os.getpid()), []
    for number in range(total):
        for _ in pipe.stream(frames[:2], OUTPUTS):
            pipe(frames[(number + 1) % len(frames)], OUTPUTS)
        if number in (total // 8, total - 1):
            gc.collect()
            seen.append((process.memory_info().rss, 0 if bench.on_cpu else torch.cuda.memory_reserved()))
    host, device = (last - early for early, last in zip(*seen, strict=True))
    detail = f"over {4 * total} frames: host {host / 1e6:+.1f} MB, device {device / 1e6:+.1f} MB"
    report.prove("memory stays flat", host < MEMORY_SLACK and device <= 0, detail)
