"""Train what the paper compares, each with the same budget, and judge all by one table.

    DATA=<folder of the data> SYNTHETIC=<folder> python tools/benchmarks/compare_training.py --steps 1500

Labels alone, depth alone (by each loss), both jointly, jointly with a teacher (which is the joint network), and synthetic
pictures alone: config/train/street-*.yaml. What is finished is not trained again, what was stopped goes on. The table is
printed and left in <out>/comparison.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

CONFIGS = Path(__file__).resolve().parents[1] / "config"
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
    """Train each, then evaluate all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("build/compare"), metavar="DIR")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--only", nargs="+", choices=RUNS, default=list(RUNS), metavar="RUN", help=f"of {', '.join(RUNS)}")
    parser.add_argument("--beside", nargs="*", default=[], metavar="WEIGHTS", help="other weights for the table, e.g. street")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--input-scale", default="1.0", help="at which the table's figures are taken")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="handed to train, for all runs")
    args = parser.parse_args()
    changes = [f"steps={args.steps}", *args.set]
    weights = []
    for name in args.only:
        own = [f"teacher.weights={args.out}/street-joint/street-joint.safetensors"] if name == "street" else []
        path = args.out / name / f"{name}.safetensors"
        if not path.exists():
            options = [part for change in (*changes, *own) for part in ("--set", change)]
            config = str(CONFIGS / "train" / f"{name}.yaml")
            run("train", config, "--out", str(path.parent), "--device", args.device, *options)
        weights.append(str(path))
    data = [part for name in ("street-heldout", "street-drive") for part in ("--data", str(CONFIGS / "data" / f"{name}.yaml"))]
    out = ["--out", str(args.out / "comparison"), "--worst", "0"]
    run("eval", "--weights", *args.beside, *weights, *data, *out, "--device", args.device, "--input-scale", args.input_scale)
    return 0


def run(*arguments: str) -> None:
    """A command of the package; its failure is ours."""
    done = subprocess.run([sys.executable, "-m", "mtl_perception", *arguments], check=False)
    if done.returncode:
        raise SystemExit(done.returncode)


if __name__ == "__main__":
    sys.exit(main())
