"""`export`: weights, with what comes before and after the network, as one ONNX file."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mtl_perception.camera.model import CameraModel
from mtl_perception.cli.options import add_parameters, config_from
from mtl_perception.errors import ConfigError, PerceptionError, SourceError
from mtl_perception.inference.onnx.check import TOLERANCES, OnnxFile, compare, made_up_picture, network_outputs
from mtl_perception.inference.onnx.export import OPSETS, need, write_onnx
from mtl_perception.inference.onnx.graph import EXPORTABLE, ExportGraph, ExportOptions
from mtl_perception.types import Frame
from mtl_perception.visualization.files import replacing
from mtl_perception.weights.files import load_network

if TYPE_CHECKING:
    from mtl_perception.network.model import MultiTaskRefineNet
    from mtl_perception.pipeline import Pipeline

DYNAMIC = "dynamic"
PARAMETERS = ("classes", "upsampling", "min_depth", "max_depth", "min_confidence")
# Two sizes for a file that takes any; no multiples of the network's 32, where its sizes are rounded up.
CHECKED_SIZES = ((61, 90), (150, 331))
FOCAL_LENGTH_OVER_WIDTH = 0.7


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Weights in, one ONNX file out."""
    parser.add_argument("weights", metavar="WEIGHTS", help="a weights file, or a name that `weights list` shows")
    parser.add_argument("--out", required=True, type=Path, metavar="FILE", help="the ONNX file to write")
    parser.add_argument("--force", action="store_true", help="replace FILE if it exists")
    parser.add_argument(
        "--size", default=DYNAMIC, metavar="WIDTHxHEIGHT", help="the pictures' size; default dynamic: pictures of any size"
    )
    parser.add_argument(
        "--precision",
        # Another name inside: the pipeline that it is compared with stays in fp32.
        dest="network_precision",
        choices=tuple(TOLERANCES),
        default="fp32",
        help="the network's arithmetic; what comes before and after is fp32; default fp32",
    )
    parser.add_argument(
        "--opset", type=int, default=17, metavar="N", help=f"ONNX operator set, {OPSETS[0]} to {OPSETS[-1]}; default 17"
    )
    parser.add_argument(
        "--outputs",
        default="labels,confidence,depth",
        metavar="NAMES",
        help=f"some of {','.join(EXPORTABLE)}; default all but normals",
    )
    parser.add_argument("--picture", type=Path, metavar="FILE", help="check with this picture too, not only with made-up ones")
    parser.add_argument("--no-check", dest="check", action="store_false", help="do not compare the file with the pipeline")
    add_parameters(parser, only=PARAMETERS)


def run(args: argparse.Namespace) -> None:
    """Write a file, compare it with the pipeline, and keep it only if it computes the same."""
    from mtl_perception.pipeline import Pipeline

    size = _parse_size(args.size)
    if args.out.is_dir():
        raise ConfigError(f"--out {args.out}: is a directory: name the file to write")
    if args.out.exists() and not args.force:
        raise ConfigError(f"--out {args.out}: exists already: choose another name, or replace it with --force")
    need("onnx")
    if args.check:
        need("onnxruntime", ", or do without the check: --no-check")
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
    print(f"weights {network.description.name!r}; license: {network.description.license}", file=sys.stderr)
    with replacing(args.out) as part:
        write_onnx(network, options, part)
        if args.check:
            _check(part, network, pipeline, options, _pictures(args.picture, size))
        megabytes = part.stat().st_size / 1e6
    sizes = "pictures of any size" if size is None else f"pictures of {size[1]}x{size[0]}"
    checked = "compared with the pipeline" if args.check else "not checked"
    print(f"{args.out}: {', '.join(options.outputs)} of {sizes}, {options.precision}, {megabytes:.1f} MB, {checked}")


def _check(
    path: Path, network: MultiTaskRefineNet, pipeline: Pipeline, options: ExportOptions, pictures: dict[str, np.ndarray]
) -> None:
    """Print how the file and the pipeline agree on each picture.

    Raises:
        PerceptionError: They differ by more than the tolerance.
    """
    file = OnnxFile(path, raw=ExportGraph(network, options).raw_outputs)
    bad = []
    for name, image in pictures.items():
        height, width = image.shape[:2]
        focal_length = FOCAL_LENGTH_OVER_WIDTH * width
        # Two pictures at once, of which the second is judged: so that a batch is proven, too.
        found = file(np.stack([image[::-1], image]), focal_length)
        camera = CameraModel(width, height, focal_length, focal_length, width / 2, height / 2)
        result = pipeline(Frame(image, camera), options.outputs)
        expected = {**network_outputs(network, image), **{output: getattr(result, output) for output in options.outputs}}
        for output, verdict in compare({k: v[1] for k, v in found.items()}, expected, TOLERANCES[options.precision]).items():
            print(f"  {name} {width}x{height}, {output}: {verdict}", file=sys.stderr)
            if verdict.startswith("differs"):
                bad.append(f"{output} of the {name} of {width}x{height} {verdict}")
    if bad:
        raise PerceptionError(f"the exported model is not the pipeline's: {'; '.join(bad)}; nothing was written")


def _pictures(given: Path | None, size: tuple[int, int] | None) -> dict[str, np.ndarray]:
    """What to compare on, by name."""
    pictures = {}
    for number, (height, width) in enumerate([size] if size else CHECKED_SIZES, start=1):
        pictures[f"made-up picture {number}"] = made_up_picture(height, width)
    if given is not None:
        from mtl_perception.sources.images import read_image_file

        image = read_image_file(given)
        if size and image.shape[:2] != size:
            raise SourceError(f"{given}: is {image.shape[1]}x{image.shape[0]}, the file is to be for {size[1]}x{size[0]}")
        pictures["picture"] = image
    return pictures


def _parse_outputs(text: str) -> tuple[str, ...]:
    """In the file's order; what it does not know comes last, to be refused by name."""
    return tuple(sorted(set(filter(None, text.split(","))), key=lambda name: (*EXPORTABLE, name).index(name)))


def _parse_size(text: str) -> tuple[int, int] | None:
    if text == DYNAMIC:
        return None
    found = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", text, re.ASCII)
    if not found:
        raise ConfigError(f"--size {text!r} is neither WIDTHxHEIGHT nor {DYNAMIC}")
    return int(found[2]), int(found[1])
