"""`infer`: labels, depth and cloud of picture files."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from mtl_perception.camera.model import CameraModel
from mtl_perception.cli.options import add_parameters, config_from
from mtl_perception.errors import CameraError, PerceptionError, SourceError
from mtl_perception.progress import print_above_bar, progress_bar
from mtl_perception.types import Frame, Result
from mtl_perception.visualization.cloud import write_ply
from mtl_perception.visualization.colors import colorize_labels, overlay
from mtl_perception.visualization.files import replacing

if TYPE_CHECKING:
    from mtl_perception.pipeline import Pipeline

DEPTH_UNITS = 256
"""Depth pictures hold meters times this, as KITTI's do; 0 = invalid."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Pictures in, folder out."""
    parser.add_argument("images", nargs="+", metavar="IMAGE", type=Path, help="picture file, or a folder of them")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder to write to; made if absent")
    parser.add_argument(
        "--camera",
        type=Path,
        metavar="FILE",
        help="calibration: ROS YAML or KITTI; default: the weights' training camera, scaled",
    )
    add_parameters(parser)


def run(args: argparse.Namespace) -> int:
    """Process each picture; one that cannot be read is named and does not stop the others."""
    from mtl_perception.pipeline import Pipeline

    paths = _pictures(args.images)
    pipeline = Pipeline(config=config_from(args, warm_up=False), reuse_outputs=True)
    cameras = _Cameras(args.camera, pipeline)
    print(f"weights {pipeline.description.name!r}; license: {pipeline.description.license}", file=sys.stderr)
    try:
        args.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SourceError(f"{args.out}: cannot be made: {error.strerror}") from error
    with replacing(args.out / "classes.json") as part:
        part.write_text(json.dumps(pipeline.class_set.records(), indent=1) + "\n", encoding="utf-8")
    failed = 0
    for path in progress_bar(paths, unit="picture", disable=None if len(paths) > 1 else True):
        try:
            _infer(path, args.out, pipeline, cameras)
        except PerceptionError as error:
            if len(paths) == 1:
                raise
            failed += 1
            print_above_bar(f"mtl_perception infer: {error}")
    for note in pipeline.notes:
        print(note, file=sys.stderr)
    if failed:
        raise SourceError(f"{failed} of {len(paths)} pictures failed; the others are in {args.out}")
    return 0


def _pictures(given: list[Path]) -> list[Path]:
    from mtl_perception.sources.images import list_images

    paths: list[Path] = []
    for path in given:
        if path.is_dir():
            found = list_images(path)
            if not found:
                raise SourceError(f"{path}: a folder without pictures")
            paths += found
        elif path.is_file():
            paths.append(path)
        else:
            raise SourceError(f"{path}: no such picture")
    stem, count = Counter(path.stem for path in paths).most_common(1)[0]
    if count > 1:
        raise SourceError(f"{count} pictures are named {stem!r}: their outputs would overwrite each other; give them apart")
    return paths


class _Cameras:
    """The camera of each picture, from a file or from the weights; says once which."""

    def __init__(self, file: Path | None, pipeline: Pipeline) -> None:
        self._file = file
        self._rectified = pipeline.config.input_rectified
        self._own = dict(pipeline.description.camera)
        self._warned: set[str] = set()
        if file is None:
            if self._own:
                size = f"{self._own['width']:g}x{self._own['height']:g}"
                text = f"no --camera: clouds are made with the weights' own training camera ({size}), scaled to each picture"
            else:
                text = "no --camera, and the weights do not tell of theirs: no clouds"
            print(text, file=sys.stderr)

    def model(self, width: int, height: int) -> CameraModel | None:
        if self._file is None:
            if not self._own:
                return None
            return CameraModel.from_intrinsics(self._own).scaled(width, height)
        from mtl_perception.camera.calibration import load_calibration

        calibration = load_calibration(self._file, size=(width, height))
        try:
            return calibration.for_image(width, height).camera(self._rectified)
        except CameraError as error:
            # As in the node: labels and depth need no camera.
            if str(error) not in self._warned:
                self._warned.add(str(error))
                print_above_bar(f"{self._file}: no cloud: {error}")
            return None


def _infer(path: Path, out: Path, pipeline: Pipeline, cameras: _Cameras) -> None:
    from mtl_perception.sources.images import read_image_file

    image = read_image_file(path)
    camera = cameras.model(image.shape[1], image.shape[0])
    result = pipeline(Frame(image, camera), {"labels", "depth", "cloud", "image"})
    assert result.labels is not None
    assert result.depth is not None
    assert result.image is not None
    colors = colorize_labels(result.labels, pipeline.class_set)
    blended = overlay(result.image, result.labels, pipeline.class_set, pipeline.config.overlay_opacity)
    _write(out / f"{path.stem}.labels.png", result.labels)
    _write(out / f"{path.stem}.depth.png", depth_to_png(result.depth))
    _write(out / f"{path.stem}.color.png", cv2.cvtColor(colors, cv2.COLOR_RGB2BGR))
    _write(out / f"{path.stem}.overlay.png", cv2.cvtColor(blended, cv2.COLOR_RGB2BGR))
    _write_cloud(out / f"{path.stem}.ply", result)


def _write_cloud(path: Path, result: Result) -> None:
    if result.cloud is not None:
        write_ply(path, result.cloud)


def depth_to_png(depth: np.ndarray) -> np.ndarray:
    """Meters to KITTI's uint16 picture: meters x 256 rounded, at least 1 and at most 65535; 0 where not finite."""
    finite = np.isfinite(depth)
    scaled = np.clip(np.rint(np.where(finite, depth, 0) * DEPTH_UNITS), 1, 65535)
    return np.where(finite, scaled, 0).astype(np.uint16)


def _write(path: Path, pixels: np.ndarray) -> None:
    ok, data = cv2.imencode(".png", pixels)
    if not ok:
        raise SourceError(f"{path}: could not be encoded")
    with replacing(path) as part:
        part.write_bytes(data.tobytes())
