"""Check, time and profile the CUDA backend on this machine's GPU, and optionally train for the remaining time.

    python -m tools.gpu --out build/gpu --limit 300
    python -m tools.gpu --out build/gpu --limit 590 --node --train config.yaml

Requires PyTorch, NumPy, OpenCV, safetensors and PyYAML; Triton for the kernels; rclpy for `--node`. report.json and report.md
are replaced after every row, so a killed run leaves complete files. A part that fails is reported, and the next one runs. The
exit code is 1 if a proof fails, a part raises an error, or there is no GPU; a missed target is not a failure.

`--device cpu --small` uses CPU tensors and small images to test the tool itself; its times are meaningless.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from mtl_perception.errors import PerceptionError, one_line
from mtl_perception.inference.machine import device_name
from tools.gpu import node, proofs, times
from tools.gpu.bench import Bench
from tools.gpu.report import Report

Part = Callable[[Bench, Report], None]
PARTS: dict[str, Part] = {
    "agreement": proofs.prove_agreement,
    "kernels": proofs.prove_kernels,
    "points": proofs.prove_points,
    "calls": times.time_calls,
    "device": times.time_device,
    "profile": times.profile_kernels,
    "sameness": proofs.prove_sameness,
    "fallbacks": proofs.prove_fallbacks,
    "memory": proofs.prove_flat_memory,
    # Last, because PyTorch keeps the memory of a failed capture, and some versions are unstable after one.
    "failed capture": proofs.prove_failed_capture,
}
NODE: dict[str, Part] = {"node": node.time_node}
ONLY_CUDA = {"device"}
TRAINING_SECONDS = 60
"""Remaining time below which training is not started."""


def run_parts(bench: Bench, report: Report, ends: float) -> None:
    """Run the parts in order; after the time limit, report the remaining ones as failed."""
    print(f"  {'host to host, ms':<60}{'median':>9}{'iqr':>9}{'p99':>9}")
    parts = PARTS | NODE
    for name in bench.args.only or (PARTS if bench.args.node is None else parts):
        part = parts[name]
        if bench.on_cpu and name in ONLY_CUDA:
            continue
        if time.monotonic() > ends:
            report.fail(name, "not begun: the time was over")
            continue
        try:
            part(bench, report)
        except Exception as error:
            report.fail(name, f"{type(error).__name__}: {one_line(error)}")


def train(args: argparse.Namespace, report: Report, ends: float) -> None:
    """Train for the remaining time in a separate process, which writes to `train` in the output folder."""
    seconds = ends - time.monotonic()
    if seconds < TRAINING_SECONDS and not args.small:
        report.fail("training", f"not begun: {seconds:.0f} s are left, {TRAINING_SECONDS} s are needed")
        return
    command = [sys.executable, "-m", "mtl_perception", "train", str(args.train), "--out", str(args.out / "train")]
    command += ["--minutes", f"{max(seconds, 30) / 60:.2f}"]
    for change in args.set:
        command += ["--set", change]
    code = subprocess.run(command, check=False).returncode
    if code:
        report.fail("training", f"exit code {code}; {args.out / 'train'} holds what it had")
    else:
        report.prove("training ends in time", time.monotonic() <= ends + 5, f"{args.out / 'train'}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the tool and return its exit code."""
    started = time.monotonic()
    parser = argparse.ArgumentParser(prog="python -m tools.gpu", description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N, or cpu to try the tool itself; default cuda")
    parser.add_argument("--small", action="store_true", help="small images and few runs")
    parser.add_argument("--weights", default="street")
    parser.add_argument(
        "--image", type=Path, action="append", default=[], metavar="FILE", help="use this image, too; repeatable"
    )
    parser.add_argument("--runs", type=int, default=200, help="measured runs of each row; default 200")
    parser.add_argument("--frames", type=int, default=1000, help="frames of the proof that memory stays flat; default 1000")
    parser.add_argument("--cudnn-benchmark", action="store_true", help="with the parameter cudnn_benchmark")
    parser.add_argument("--limit", type=float, default=600, metavar="SECONDS", help="begin no part after this; default 600")
    parser.add_argument("--only", nargs="+", choices=[*PARTS, *NODE], metavar="PART", help=f"of {', '.join(PARTS | NODE)}")
    parser.add_argument(
        "--node", type=float, nargs="*", metavar="HZ", help="also time the node among other processes, at these image rates"
    )
    parser.add_argument("--train", type=Path, metavar="CONFIG", help="then train by this configuration until the limit")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change the training's configuration")
    parser.add_argument("--out", type=Path, default=Path("build/gpu"), metavar="DIR")
    args = parser.parse_args(arguments)
    if args.device != "cpu" and not torch.cuda.is_available():
        print(f"tools.gpu: PyTorch {torch.__version__} finds no CUDA device: nothing was proven", file=sys.stderr)
        return 1
    try:
        bench = Bench(args)
    except PerceptionError as error:
        print(f"tools.gpu: {error}", file=sys.stderr)
        return 2
    machine = {
        "device": device_name(torch.device(args.device)),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "weights": args.weights,
        "cudnn_benchmark": args.cudnn_benchmark,
        "runs": bench.runs,
    }
    print(", ".join(f"{key} {value}" for key, value in machine.items()))
    report = Report(args.out, machine)
    run_parts(bench, report, started + args.limit)
    if args.train is not None:
        train(args, report, started + args.limit)
    failed = [row["proof"] for row in report.proofs if not row["holds"]] + report.failures
    print(f"{sum(row['holds'] for row in report.proofs)} of {len(report.proofs)} proofs hold; {args.out / 'report.md'}")
    if failed:
        print(f"tools.gpu: fails: {'; '.join(failed)}", file=sys.stderr)
    return 0 if report.holds else 1


if __name__ == "__main__":
    sys.exit(main())
