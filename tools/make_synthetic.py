"""Render a training set of synthetic street scenes into a folder; a second run resumes an interrupted one."""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from itertools import groupby
from pathlib import Path
from typing import Protocol

from mtl_perception.child_process import end_with_parent
from mtl_perception.errors import PerceptionError
from mtl_perception.progress import progress_bar
from mtl_perception.synthetic.scenes import IMAGES_PER_STREET, SyntheticScenes
from mtl_perception.training.data.writer import finish_folder, image_path, start_folder, write_sample
from mtl_perception.types import Sample


class Scenes(Protocol):
    """Samples that are rendered on access, with names known in advance; they can be pickled."""

    name: str
    license: str
    keys: Sequence[str]
    per_street: int

    def __getitem__(self, index: int, /) -> Sample:
        """Render a sample."""


_scenes: Scenes
_folder: Path


def write(scenes: Scenes, folder: Path, workers: int) -> int:
    """Write the scenes whose image is missing, and return their number.

    Args:
        scenes: The scenes.
        folder: Target folder; created if it does not exist.
        workers: Number of processes.
    """
    start_folder(folder, scenes.name)
    missing = [i for i, key in enumerate(scenes.keys) if not image_path(folder, key).exists()]
    # A street at a time, because building one takes as long as rendering several images.
    streets = [list(indices) for _, indices in groupby(missing, lambda i: i // scenes.per_street)]
    # Spawned, because the renderer's threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    with (
        ProcessPoolExecutor(workers, context, _start_worker, (scenes, folder)) as pool,
        progress_bar(total=len(scenes.keys), initial=len(scenes.keys) - len(missing), unit="image") as bar,
    ):
        tasks = [pool.submit(_write_street, street) for street in streets]
        try:
            for task in as_completed(tasks):
                bar.update(task.result())
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    finish_folder(folder, scenes.keys, scenes.name, scenes.license, "street")
    return len(missing)


def _start_worker(scenes: Scenes, folder: Path) -> None:
    # The pool of a main process that was killed would keep writing into the folder, beside the run that resumes it.
    end_with_parent()
    # Not an argument of each task: a worker keeps the shapes that it has built.
    global _scenes, _folder
    _scenes, _folder = scenes, folder


def _write_street(indices: Sequence[int]) -> int:
    for index in indices:
        write_sample(_scenes[index], _folder)
    return len(indices)


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
    parser.add_argument(
        "--per-street", type=int, default=IMAGES_PER_STREET, metavar="N", help="images of each street (default %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="random seed (default %(default)s)")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="number of processes (default %(default)s)")
    args = parser.parse_args()
    try:
        scenes = SyntheticScenes(args.count, *args.size, args.seed, args.window, args.per_street)
        written = write(scenes, args.out, args.workers)
    except BrokenProcessPool:
        print(f"{args.out}: a process died, possibly out of memory; try again with fewer --workers", file=sys.stderr)
        return 1
    except (PerceptionError, OSError) as error:
        print(f"make_synthetic: {error}", file=sys.stderr)
        return 1
    print(f"{args.out}: {args.count} images, {written} of them new")
    return 0


if __name__ == "__main__":
    sys.exit(main())
