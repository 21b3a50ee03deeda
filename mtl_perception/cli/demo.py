"""`demo`: run node, player and recorder as ROS 2 processes, and write a page that shows the result."""

from __future__ import annotations

import argparse
from pathlib import Path

from mtl_perception.cli.options import add_parameters, add_rerun_options, config_from, rerun_options
from mtl_perception.errors import ConfigError, require
from mtl_perception.visualization.rerun import check_path

SYNTHETIC = "synthetic:40:6"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add source, output folder and rate."""
    parser.add_argument(
        "--drive",
        default=SYNTHETIC,
        metavar="SOURCE",
        help="KITTI raw drive, image folder, video, bag, or synthetic[:FRAMES[:SEED]] (default: %(default)s)",
    )
    parser.add_argument("--out", type=Path, default=Path("demo"), metavar="DIR", help="output folder (default: %(default)s)")
    parser.add_argument(
        "--rate",
        type=float,
        metavar="R",
        help="playback rate; 1 is real time (default: 1, or as fast as this machine can process)",
    )
    parser.add_argument(
        "--show-legend",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="append a legend of the classes below the video (default: %(default)s)",
    )
    add_rerun_options(parser, help_text="also write a recording for Rerun (docs/view.md); replaces an existing one")
    add_parameters(parser)


def run(args: argparse.Namespace) -> None:
    """Run the demo."""
    if args.rate is not None and not args.rate > 0:
        raise ConfigError(f"--rate must be greater than 0, not {args.rate}")
    packages = ["rosbags", "av", *(["open3d"] if args.drive.startswith("synthetic") else [])]
    for package in packages:
        require(package, extra="demo", purpose="the demo")
    options = rerun_options(args)
    if args.rerun is not None:
        check_path(args.rerun, force=True)
    from mtl_perception.demo.run import run_demo

    run_demo(
        args.drive,
        args.out,
        config_from(args),
        args.rate,
        show_legend=args.show_legend,
        rerun=args.rerun,
        rerun_options=options,
    )
