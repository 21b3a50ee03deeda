"""Run a soak test, or judge the records of one: `python -m tools.soak --help`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tools.soak import report
from tools.soak.run import PARAMETERS, run


def main(arguments: list[str] | None = None) -> int:
    """Return 0 if every check passes, 1 otherwise."""
    parser = argparse.ArgumentParser(prog="python -m tools.soak", description="Run a soak test; see docs/soak.md.")
    parser.add_argument("--hours", type=float, default=2.0, help="duration (default: %(default)s)")
    parser.add_argument(
        "--out", type=Path, default=Path("build/soak"), help="folder of the records; replaces older ones (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=1, help="seed of faults and requests (default: %(default)s)")
    parser.add_argument("--rate", type=float, default=30.0, help="image rate, Hz (default: %(default)s)")
    parser.add_argument(
        "--faults", type=float, default=1.0, help="frequency of faults relative to docs/soak.md (default: %(default)s)"
    )
    parser.add_argument("--period", type=float, default=5.0, help="seconds between samples of the node (default: %(default)s)")
    parser.add_argument("--weights", default=PARAMETERS["weights"], help="weights of the node (default: %(default)s)")
    parser.add_argument("--judge", type=Path, metavar="DIR", help="judge the records of an earlier run and run nothing")
    args = parser.parse_args(arguments)
    if args.judge is None:
        run(args)
    return report.write(args.judge or args.out)


if __name__ == "__main__":
    sys.exit(main())
