"""`infer`: labels, depth and point clouds of image files."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from mtl_perception.camera.model import CameraModel
from mtl_perception.cli.options import add_parameters, config_from, print_license, print_notes
from mtl_perception.errors import CameraError, PerceptionError, SourceError
from mtl_perception.progress import print_above_bar, progress_bar
from mtl_perception.types import Frame

if TYPE_CHECKING:
    from mtl_perception.pipeline import Pipeline


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add images, output folder and calibration."""
    parser.add_argument("images", nargs="+", metavar="IMAGE", type=Path, help="image file, or folder of image files")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="output folder; created if it does not exist")
    parser.add_argument(
        "--camera",
        type=Path,
        metavar="FILE",
        help="calibration file, ROS YAML or KITTI (default: training camera of the weights, scaled to the image)",
    )
    add_parameters(parser)


def run(args: argparse.Namespace) -> None:
    """Process all images; report those that fail and continue with the next."""
    from mtl_perception.image.files import read_image_file
    from mtl_perception.pipeline import Pipeline

    paths = _list_images(args.images)
    pipeline = Pipeline(config=config_from(args, warm_up=False), reuse_outputs=True)
    cameras = _Cameras(args.camera, pipeline)
    print_license(pipeline.description)
    try:
        args.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SourceError(f"cannot create the output folder {args.out}: {error.strerror}") from error
    failed = 0
    for path in progress_bar(paths, unit="image", disable=None if len(paths) > 1 else True):
        try:
            image = read_image_file(path)
            frame = Frame(image, cameras.model(path, image.shape[1], image.shape[0]))
            pipeline(frame, {"labels", "depth", "cloud", "image"}).save(args.out, path.stem)
        except PerceptionError as error:
            if len(paths) == 1:
                raise
            failed += 1
            print_above_bar(f"mtl_perception infer: {error}")
    print_notes(pipeline)
    if failed:
        raise SourceError(f"{failed} of {len(paths)} images failed; the results of the others are in {args.out}")


def _list_images(given: list[Path]) -> list[Path]:
    from mtl_perception.sources.images import describe_skipped, list_images

    paths: list[Path] = []
    for path in given:
        if path.is_dir():
            found, skipped = list_images(path), describe_skipped(path)
            if not found:
                raise SourceError(f"{path}: the folder contains no images{skipped and '; ' + skipped}")
            if skipped:
                print(f"{path}: {skipped}", file=sys.stderr)
            paths += found
        elif path.is_file():
            paths.append(path)
        else:
            raise SourceError(f"{path}: no such image")
    stem, count = Counter(path.stem for path in paths).most_common(1)[0]
    if count > 1:
        raise SourceError(
            f"{count} images are named {stem!r}, so their outputs would overwrite each other; use a separate --out for each"
        )
    return paths


class _Cameras:
    """Camera models from the calibration file or from the weights."""

    def __init__(self, file: Path | None, pipeline: Pipeline) -> None:
        self._file = file
        self._rectified = pipeline.config.input_rectified
        self._training = dict(pipeline.description.camera)
        self._warned: set[str] = set()
        if file is None:
            if self._training:
                size = f"{self._training['width']:g}x{self._training['height']:g}"
                text = f"no --camera: clouds use the training camera of the weights ({size}), scaled to each image"
            else:
                text = "no --camera, and the weights have no training camera: no clouds are written"
            print(text, file=sys.stderr)

    def model(self, path: Path, width: int, height: int) -> CameraModel | None:
        """Return the camera of an image file, or None if the calibration cannot be used for it."""
        if self._file is None:
            if not self._training:
                return None
            return CameraModel.from_intrinsics(self._training).scaled(width, height)
        from mtl_perception.camera.calibration import load_calibration

        calibration = load_calibration(self._file, size=(width, height), image=path)
        try:
            return calibration.for_image(width, height).camera(self._rectified)
        except CameraError as error:
            # Labels and depth need no camera; the node behaves the same.
            if str(error) not in self._warned:
                self._warned.add(str(error))
                print_above_bar(f"{self._file}: no cloud: {error}")
            return None
