"""`export`: weights as an ONNX file with pre- and post-processing."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mtl_perception.camera.model import CameraModel
from mtl_perception.cli.options import add_parameters, config_from, parse_size, print_license
from mtl_perception.errors import ConfigError, PerceptionError, SourceError, require
from mtl_perception.inference.onnx.check import TOLERANCES, OnnxFile, compare, network_outputs, synthetic_image
from mtl_perception.inference.onnx.export import OPSETS, write_onnx
from mtl_perception.inference.onnx.graph import EXPORTABLE, ExportGraph, ExportOptions
from mtl_perception.types import Frame
from mtl_perception.visualization.files import replacing
from mtl_perception.weights.files import load_network

if TYPE_CHECKING:
    from mtl_perception.network.model import MultiTaskRefineNet
    from mtl_perception.pipeline import Pipeline

DYNAMIC = "dynamic"
PARAMETERS = ("classes", "upsampling", "min_depth", "max_depth", "min_confidence")
# Sizes (height, width) for a dynamic file; not multiples of the network's stride of 32, so that every level rounds up.
CHECKED_SIZES = ((61, 90), (150, 331))
FOCAL_LENGTH_OVER_WIDTH = 0.7


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add weights, output file and options of the file."""
    parser.add_argument("weights", metavar="WEIGHTS", help="weights file, or name listed by `weights list`")
    parser.add_argument("--out", required=True, type=Path, metavar="FILE", help="ONNX file to write")
    parser.add_argument("--force", action="store_true", help="replace an existing file")
    parser.add_argument(
        "--size",
        default=DYNAMIC,
        metavar="WIDTHxHEIGHT",
        help="fixed image size, or dynamic (default: %(default)s)",
    )
    parser.add_argument(
        "--precision",
        # Not `precision`, the parameter of the reference pipeline, which stays fp32.
        dest="network_precision",
        choices=tuple(TOLERANCES),
        default="fp32",
        help="precision of the network, int8 for weights with a quantization table; pre- and post-processing are fp32 "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--opset",
        type=int,
        default=17,
        metavar="N",
        help=f"opset version, {OPSETS[0]} to {OPSETS[-1]} (default: %(default)s)",
    )
    parser.add_argument(
        "--outputs",
        default="labels,confidence,depth",
        metavar="NAMES",
        help=f"comma-separated outputs of {','.join(EXPORTABLE)} (default: %(default)s)",
    )
    parser.add_argument("--image", type=Path, metavar="FILE", help="image for the check, in addition to generated ones")
    parser.add_argument("--no-check", dest="check", action="store_false", help="skip the comparison with the pipeline")
    add_parameters(parser, only=PARAMETERS)


def run(args: argparse.Namespace) -> None:
    """Write the file, compare it with the pipeline, and keep it only if they agree."""
    from mtl_perception.pipeline import Pipeline

    size = None if args.size == DYNAMIC else parse_size(args.size)[::-1]
    if args.out.is_dir():
        raise ConfigError(f"--out {args.out} is a folder; give the name of a file")
    if args.out.exists() and not args.force:
        raise ConfigError(f"--out {args.out} exists already; choose another name, or replace it with --force")
    require("onnx", extra="export", purpose="export")
    if args.check:
        require("onnxruntime", extra="export", purpose="the check of export (--no-check omits it)")
    pipeline = Pipeline(config=config_from(args, device="cpu", precision="fp32", warm_up=False))
    network = load_network(pipeline.config.weights)
    class_set, first = network.description.class_set(pipeline.config.classes)
    options = ExportOptions(
        outputs=_parse_outputs(args.outputs),
        classes=(first, len(class_set)),
        max_depth=pipeline.max_depth,
        min_depth=pipeline.config.min_depth,
        min_confidence=pipeline.config.min_confidence,
        upsampling=pipeline.config.upsampling,
        precision=args.network_precision,
        size=size,
        opset=args.opset,
    )
    print_license(network.description)
    images = _check_images(args.image, size) if args.check else {}
    with replacing(args.out) as part:
        write_onnx(network, options, part)
        if args.check:
            _check(part, network, pipeline, options, images)
        megabytes = part.stat().st_size / 1e6
    sizes = "images of any size" if size is None else f"{size[1]}x{size[0]} images"
    checked = "agrees with the pipeline" if args.check else "not checked"
    print(f"{args.out}: {', '.join(options.outputs)} of {sizes}, {options.precision}, {megabytes:.1f} MB, {checked}")


def _check(
    path: Path, network: MultiTaskRefineNet, pipeline: Pipeline, options: ExportOptions, images: dict[str, np.ndarray]
) -> None:
    """Compare the file with the pipeline on each image and print the differences.

    Raises:
        PerceptionError: A difference exceeds the tolerance.
    """
    file = OnnxFile(path, raw=ExportGraph(network, options).raw_outputs)
    failures = []
    for name, image in images.items():
        height, width = image.shape[:2]
        focal_length = FOCAL_LENGTH_OVER_WIDTH * width
        # A batch of two, of which the second is compared, so that batches are verified as well.
        found = file(np.stack([image[::-1], image]), focal_length)
        camera = CameraModel(width, height, focal_length, focal_length, width / 2, height / 2)
        result = pipeline(Frame(image, camera), options.outputs)
        expected = {**network_outputs(network, image), **{output: getattr(result, output) for output in options.outputs}}
        for output, verdict in compare({k: v[1] for k, v in found.items()}, expected, TOLERANCES[options.precision]).items():
            print(f"  {name} {width}x{height}, {output}: {verdict}", file=sys.stderr)
            if verdict.startswith("differs"):
                failures.append(f"{output} of the {name} of {width}x{height} {verdict}")
    if failures:
        raise PerceptionError(f"the exported file differs from the pipeline: {'; '.join(failures)}; no file was written")


def _check_images(given: Path | None, size: tuple[int, int] | None) -> dict[str, np.ndarray]:
    """Return the images of the comparison by name."""
    images = {}
    for number, (height, width) in enumerate([size] if size else CHECKED_SIZES, start=1):
        images[f"generated image {number}"] = synthetic_image(height, width)
    if given is not None:
        from mtl_perception.image.files import read_image_file

        image = read_image_file(given)
        if size and image.shape[:2] != size:
            raise SourceError(f"{given}: the image is {image.shape[1]}x{image.shape[0]}, but --size is {size[1]}x{size[0]}")
        images["image"] = image
    return images


def _parse_outputs(text: str) -> tuple[str, ...]:
    """Return the outputs in the order of the file; unknown names come last and are rejected by name later."""
    return tuple(sorted(set(filter(None, text.split(","))), key=lambda name: (*EXPORTABLE, name).index(name)))
