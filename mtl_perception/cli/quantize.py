"""`quantize`: write weights with a table for int8 inference on a CPU."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mtl_perception.cli.options import output_file, refuse_held_out
from mtl_perception.errors import ConfigError, SourceError
from mtl_perception.inference.openvino.runtime import import_openvino
from mtl_perception.progress import progress_bar
from mtl_perception.weights.files import build_network, read_weights, save_weights
from mtl_perception.weights.registry import resolve

if TYPE_CHECKING:
    from mtl_perception.training.data.dataset import Dataset

SAMPLES = 150


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("--weights", default="street", metavar="W", help="name or file (default: street)")
    parser.add_argument(
        "--data",
        action="append",
        required=True,
        type=Path,
        metavar="D",
        help="training images, see docs/data.md; repeatable. Use no held-out images, on which accuracy is measured",
    )
    parser.add_argument("--out", required=True, type=Path, metavar="FILE", help="weights file to write, with the table")
    parser.add_argument(
        "--samples", type=int, default=SAMPLES, metavar="N", help=f"evenly spaced images to use (default: {SAMPLES})"
    )
    parser.add_argument("--force", action="store_true", help="replace FILE if it exists")


def run(args: argparse.Namespace) -> None:
    """Observe the ranges of the inputs of convolutions, and write the weights with them."""
    if args.samples < 1:
        raise ConfigError(f"--samples {args.samples} is below 1")
    import_openvino()
    source, out = resolve(args.weights), output_file(args.out, args.force)
    from mtl_perception.inference.openvino.calibration import calibrate
    from mtl_perception.training.data.open import open_datasets

    state, description = read_weights(source)
    network = build_network(description, state, where=str(source))
    sets = [dataset for path in args.data for dataset in open_datasets(path)]
    refuse_held_out(description, [dataset.name for dataset in sets], f"{args.weights} cannot be quantized")
    chosen = _spread(sets, args.samples)
    quantization = calibrate(network, _images(chosen))
    names = list(dict.fromkeys(dataset.name for dataset, _ in chosen))
    description = replace(description, quantization=quantization.describe(network, names, len(chosen)))
    # Parameters keep the type that they are stored in, because the table is for these values.
    save_weights(out, state, description, half=False)
    print(f"{out}: {len(quantization.ranges)} convolutions in int8, from {len(chosen)} images of {', '.join(names)}")


def _spread(sets: list[Dataset], count: int) -> list[tuple[Dataset, int]]:
    """Return at most `count` samples, evenly spaced over all data sets together."""
    from mtl_perception.training.data.select import spread_evenly

    every = [(dataset, index) for dataset in sets for index in range(len(dataset))]
    if not every:
        raise SourceError(f"no images in {', '.join(dataset.name for dataset in sets)}")
    return [every[i] for i in spread_evenly(len(every), count)]


def _images(chosen: list[tuple[Dataset, int]]) -> Iterator[np.ndarray]:
    for dataset, index in progress_bar(chosen, desc="quantize", unit="image"):
        yield dataset[index].frame.image
