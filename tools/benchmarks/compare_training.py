"""Comparison of training configurations as in the paper: the same number of steps for each, evaluated in one table.

    DATA=<data folder> SYNTHETIC=<folder> python tools/benchmarks/compare_training.py --steps 1500

The configurations config/train/street-*.yaml train segmentation only, depth only (with each loss), both tasks, both with
pseudo-labels of the joint network, and both on rendered images only. Finished runs are skipped and interrupted ones
resumed. The table is printed and written to <out>/comparison.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

CONFIGS = Path(__file__).resolve().parents[2] / "config"
RUNS = (
    "street-segmentation",
    "street-depth",
    "street-depth-berhu",
    "street-depth-silog",
    "street-joint",
    "street",
    "street-synthetic",
)


def main() -> int:
    """Train all configurations, then evaluate them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("build/compare"), metavar="DIR")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument(
        "--only", nargs="+", choices=RUNS, default=list(RUNS), metavar="RUN", help=f"train only these: {', '.join(RUNS)}"
    )
    parser.add_argument("--weights", nargs="*", default=[], metavar="WEIGHTS", help="further weights to evaluate")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--input-scale", default="1.0", help="input scale of the evaluation")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="passed to `train` for all runs")
    args = parser.parse_args()
    changes = [f"steps={args.steps}", *args.set]
    weights = []
    for name in args.only:
        teacher = [f"teacher.weights={args.out}/street-joint/street-joint.safetensors"] if name == "street" else []
        path = args.out / name / f"{name}.safetensors"
        if not path.exists():
            options = [part for change in (*changes, *teacher) for part in ("--set", change)]
            config = str(CONFIGS / "train" / f"{name}.yaml")
            run("train", config, "--out", str(path.parent), "--device", args.device, *options)
        weights.append(str(path))
    data = [part for name in ("street-heldout", "street-drive") for part in ("--data", str(CONFIGS / "data" / f"{name}.yaml"))]
    out = ["--out", str(args.out / "comparison"), "--worst", "0"]
    run("eval", "--weights", *args.weights, *weights, *data, *out, "--device", args.device, "--input-scale", args.input_scale)
    return 0


def run(*arguments: str) -> None:
    """Run a command of the package, and exit if it fails."""
    done = subprocess.run([sys.executable, "-m", "mtl_perception", *arguments], check=False)
    if done.returncode:
        raise SystemExit(done.returncode)


if __name__ == "__main__":
    sys.exit(main())
