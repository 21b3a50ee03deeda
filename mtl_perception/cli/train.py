"""`train`: train weights from a configuration."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from mtl_perception.errors import ConfigError
from mtl_perception.yaml_fields import parse_yaml


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("config", type=Path, metavar="CONFIG", help="YAML file, see docs/training.md and config/train/")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the run (default: build/train/<name>)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N; with torchrun, one GPU per process")
    parser.add_argument("--resume", type=Path, metavar="FILE", help="checkpoint to resume from (default: the newest in --out)")
    parser.add_argument("--check", action="store_true", help="only validate the configuration and all files of its data sets")
    parser.add_argument("--teach", action="store_true", help="only write the teacher's pseudo-labels, for a later run")
    parser.add_argument(
        "--minutes", type=float, metavar="M", help="end within M minutes, including start and final files (default: no limit)"
    )
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="CPU threads; 0: PyTorch's default")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="changes",
        help="override a value of the file, by dotted name, in YAML: --set steps=500 --set optimizer.ema=0.99",
    )
    parser.epilog = (
        "Run the same command again to resume an interrupted run. Several processes: "
        "torchrun --nproc-per-node N -m mtl_perception train CONFIG"
    )


def run(args: argparse.Namespace) -> int:
    """Train; an interrupted run exits with 1 and states how to resume it."""
    started = time.monotonic()  # The time limit includes loading PyTorch.
    if args.threads < 0:
        raise ConfigError(f"--threads {args.threads} is negative; give 0 or more")
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
    training = Run(config, args.config.parent, out, args.device, args.resume, started)
    if args.check:
        for name, count in training.check().items():
            print(f"{name}: {count} samples, all valid")
        return 0
    if args.teach:
        print(training.write_pseudo_labels())
        return 0
    path = training.train()
    if path is not None:
        print(path)
    return 0


def _changes(given: list[str]) -> dict[str, Any]:
    changes = {}
    for text in given:
        name, sign, value = text.partition("=")
        if not sign or not name:
            raise ConfigError(f"--set {text}: not of the form KEY=VALUE")
        changes[name] = parse_yaml(value, f"--set {text}: the value")
    return changes
