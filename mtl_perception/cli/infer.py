"""`infer`: labels, depth and point clouds of image files, and overlays of videos."""

from __future__ import annotations

import argparse
import itertools
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from mtl_perception.camera.calibration import load_calibration, read_text
from mtl_perception.camera.model import CameraModel
from mtl_perception.cli.options import (
    add_parameters,
    add_rerun_options,
    config_from,
    print_license,
    print_notes,
    rerun_options,
)
from mtl_perception.errors import CameraError, PerceptionError, SourceError, require
from mtl_perception.progress import print_above_bar, progress_bar
from mtl_perception.types import Frame

if TYPE_CHECKING:
    from mtl_perception.pipeline import Pipeline
    from mtl_perception.result import Result
    from mtl_perception.visualization.rerun import RerunLog

SAVED = frozenset({"labels", "depth", "cloud", "image"})
"""Results that Result.save writes, of types.OUTPUTS."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add images, output folder and calibration."""
    parser.add_argument(
        "files", nargs="+", metavar="FILE", help="image or video file, folder of them, or pattern such as 'run/*.jpg'"
    )
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="output folder; created if it does not exist")
    parser.add_argument(
        "--camera",
        type=Path,
        metavar="FILE",
        help="calibration file, ROS YAML or KITTI (default: training camera of the weights, scaled to the image)",
    )
    parser.add_argument(
        "--frames", action="store_true", help="write the files of an image for every frame of a video as well, to DIR/NAME"
    )
    parser.add_argument("--show-legend", action="store_true", help="append a legend of the classes below overlays")
    add_rerun_options(parser, help_text="also write a recording for Rerun (docs/view.md); replaces an existing one")
    add_parameters(parser)


def run(args: argparse.Namespace) -> None:
    """Process all files; report those that fail and continue with the next."""
    from mtl_perception.sources.files import list_files
    from mtl_perception.sources.video import is_video_file
    from mtl_perception.visualization.rerun import open_rerun

    options = rerun_options(args)
    paths = list_files(args.files)
    if any(map(is_video_file, paths)):
        require("av", extra="video", purpose="reading videos")
    # After the arguments have been checked, because it imports PyTorch, which takes seconds.
    from mtl_perception.pipeline import Pipeline

    pipeline = Pipeline(config=config_from(args, warm_up=False), reuse_outputs=True)
    cameras = _Cameras(args.camera, pipeline)
    print_license(pipeline.description)
    try:
        args.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SourceError(f"cannot create the output folder {args.out}: {error.strerror}") from error
    failed = 0
    outputs = SAVED | (options.needed_results() if args.rerun else frozenset())
    with open_rerun(args.rerun, args.out.name, pipeline, options, force=True) as recording:
        inference = _Inference(args, pipeline, cameras, outputs, recording)
        for path in progress_bar(paths, unit="file", disable=None if len(paths) > 1 else True):
            try:
                (inference.video if is_video_file(path) else inference.image)(path)
            except PerceptionError as error:
                if len(paths) == 1 or isinstance(error.__cause__, KeyboardInterrupt):
                    raise
                failed += 1
                print_above_bar(f"mtl_perception infer: {error}")
    print_notes(pipeline)
    if failed:
        raise SourceError(f"{failed} of {len(paths)} files failed; the results of the others are in {args.out}")


@dataclass(frozen=True)
class _Inference:
    """Inference of one file after another."""

    args: argparse.Namespace
    pipeline: Pipeline
    cameras: _Cameras
    outputs: frozenset[str]
    recording: RerunLog | None

    def image(self, path: Path) -> None:
        """Write the files of an image."""
        from mtl_perception.image.files import read_image_file

        image = read_image_file(path)
        frame = Frame(image, self.cameras.model(path, image.shape[1], image.shape[0]))
        result = self.pipeline(frame, self.outputs)
        result.save(self.args.out, path.stem, show_legend=self.args.show_legend)
        if self.recording:
            self.recording.log(result, frame.stamp_ns)

    def video(self, path: Path) -> None:
        """Write the overlay video and, with --frames, the files of each frame under its number and time."""
        from mtl_perception.batch.overlay_video import write_overlay_video
        from mtl_perception.sources.base import rejection_note
        from mtl_perception.sources.video import VideoSource

        source = VideoSource(path, rectified=self.pipeline.config.input_rectified)
        numbers = itertools.count()

        def finish(frame: Frame, result: Result) -> None:
            if self.args.frames:
                stem = f"{next(numbers):06d}_{frame.stamp_ns / 1e9:.3f}s"
                result.save(self.args.out / path.stem, stem, show_legend=self.args.show_legend)
            if self.recording:
                self.recording.log(result, frame.stamp_ns)
            bar.update()

        needs_camera = self.args.frames or self.recording is not None
        frames = (
            replace(frame, camera=self.cameras.model(path, frame.image.shape[1], frame.image.shape[0]))
            if needs_camera
            else frame
            for frame in source
        )
        out = self.args.out / f"{path.stem}.overlay.mp4"
        with progress_bar(total=len(source), unit="frame", desc=path.name, leave=False) as bar:
            count = write_overlay_video(
                frames,
                source.rate_hz,
                self.pipeline,
                out,
                outputs=self.outputs if needs_camera else (),
                show_legend=self.args.show_legend,
                on_result=finish,
            )
        if not count:
            raise SourceError(f"{path}: no frame was processed{rejection_note(source)}")
        print_above_bar(f"{count} frames{rejection_note(source)} -> {out}")


class _Cameras:
    """Camera models from the calibration file or from the weights."""

    def __init__(self, file: Path | None, pipeline: Pipeline) -> None:
        self._file = file
        self._rectified = pipeline.config.input_rectified
        self._training = dict(pipeline.description.camera)
        self._warned: set[str] = set()
        self._last: tuple[tuple[Path, int, int], CameraModel | None] | None = None
        if file is not None:
            read_text(file)  # Refuses a missing file once instead of with each image.
        elif self._training:
            size = f"{self._training['width']:g}x{self._training['height']:g}"
            print(f"no --camera: clouds use the training camera of the weights ({size}), scaled to each image", file=sys.stderr)
        else:
            print("no --camera, and the weights have no training camera: no clouds are written", file=sys.stderr)

    def model(self, path: Path, width: int, height: int) -> CameraModel | None:
        """Return the camera of an image or video file, or None if the calibration cannot be used for it."""
        # All frames of a video have one camera.
        key = (path, width, height)
        if self._last is None or self._last[0] != key:
            self._last = key, self._load(path, width, height)
        return self._last[1]

    def _load(self, path: Path, width: int, height: int) -> CameraModel | None:
        if self._file is None:
            if not self._training:
                return None
            return CameraModel.from_intrinsics(self._training).scaled(width, height)
        calibration = load_calibration(self._file, size=(width, height), image=path)
        try:
            return calibration.for_image(width, height).camera(self._rectified)
        except CameraError as error:
            # Labels and depth need no camera; the node behaves the same.
            if str(error) not in self._warned:
                self._warned.add(str(error))
                print_above_bar(f"{self._file}: no cloud: {error}")
            return None
