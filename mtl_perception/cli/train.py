"""`train`: from a configuration to weights."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import yaml

from mtl_perception.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Configuration in, folder out."""
    parser.add_argument("config", type=Path, metavar="CONFIG", help="YAML file; docs/training.md and config/train/ tell")
    parser.add_argument("--out", type=Path, metavar="DIR", help="the run's folder; default: build/train/<name>")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N; under torchrun each process takes its own")
    parser.add_argument("--resume", type=Path, metavar="FILE", help="go on from this checkpoint; default: the newest in --out")
    parser.add_argument("--check", action="store_true", help="only read the configuration and every file of its data once")
    parser.add_argument(
        "--minutes", type=float, metavar="M", help="end within M minutes, start and final files included; default: no limit"
    )
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="threads on a CPU; 0 leaves PyTorch's choice")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="changes",
        help="a value over the file's, by dotted name, in YAML: --set steps=500 --set optimizer.ema=0.99",
    )
    parser.epilog = (
        "The same command goes on with a run that was stopped. Several processes: "
        "torchrun --nproc-per-node N -m mtl_perception train CONFIG"
    )


def run(args: argparse.Namespace) -> int:
    """Train; stopped half-way, it exits with 1 and says how to go on."""
    started = time.monotonic()  # The time limit includes loading PyTorch.
    import torch

    from mtl_perception.training.config_file import read_config
    from mtl_perception.training.run import Run

    if args.threads:
        torch.set_num_threads(args.threads)
    changes = _changes(args.changes)
    if args.minutes is not None:
        changes["minutes"] = args.minutes
    config = read_config(args.config, changes)
    out = args.out or Path("build/train") / config.name
    task = Run(config, args.config.parent, out, args.device, args.resume, started)
    if args.check:
        for name, count in task.check().items():
            print(f"{name}: {count} samples, all readable")
        return 0
    path = task()
    if path is not None:
        print(path)
    return 0


def _changes(given: list[str]) -> dict[str, Any]:
    changes = {}
    for text in given:
        name, sign, value = text.partition("=")
        if not sign or not name:
            raise ConfigError(f"--set {text}: give KEY=VALUE")
        try:
            changes[name] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {text}: the value is no YAML: {str(error).splitlines()[0]}") from error
    return changes
