"""Render a training set of synthetic street scenes into a folder; a second run resumes an interrupted one."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mtl_perception.errors import PerceptionError
from mtl_perception.synthetic.scenes import SyntheticScenes
from mtl_perception.training.data.writer import write_folder


def size(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    return int(width), int(height)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--count", type=int, default=2000, metavar="N", help="number of images (default %(default)s)")
    parser.add_argument("--size", type=size, default=(640, 192), metavar="WxH", help="image size in pixels (default 640x192)")
    window = "share of the width of a whole image that an image shows (default %(default)s)"
    parser.add_argument("--window", type=float, default=1.0, metavar="S", help=window)
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="random seed (default %(default)s)")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="number of processes (default %(default)s)")
    args = parser.parse_args()
    try:
        scenes = SyntheticScenes(args.count, *args.size, seed=args.seed, window=args.window)
        written = write_folder(scenes, args.out, scenes.name, scenes.license, workers=args.workers)
    except PerceptionError as error:
        print(f"make_synthetic: {error}", file=sys.stderr)
        return 1
    print(f"{args.out}: {len(scenes)} images, {written} of them new")
    return 0


if __name__ == "__main__":
    sys.exit(main())
