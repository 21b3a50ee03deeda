"""The node's outputs for the frames of one source, written to a bag."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mtl_perception.config import Config
from mtl_perception.errors import PerceptionError, SourceError
from mtl_perception.messages.encode import MessageEncoder
from mtl_perception.messages.topics import needed_results
from mtl_perception.pipeline import Pipeline
from mtl_perception.sources.bag.result_writer import ResultWriter
from mtl_perception.sources.bag.writer import BagWriter
from mtl_perception.sources.base import WHOLE, Source, TimeSlice, rejection_note, timed_frames
from mtl_perception.sources.open import open_source


@dataclass(frozen=True)
class Settings:
    """What is the same for all sources of a run.

    Attributes:
        config: Parameters.
        topics: Names of the outputs to write.
        with_input: Whether to write the images and their CameraInfo as well.
        part: Part of each source.
        camera_file: Calibration file to use instead of the sources' calibration.
        image_topic: See `open_source`.
        camera_info_topic: See `open_source`.
    """

    config: Config
    topics: Sequence[str]
    with_input: bool = False
    part: TimeSlice = WHOLE
    camera_file: Path | None = None
    image_topic: str = ""
    camera_info_topic: str = ""

    def open(self, spec: str) -> Source:
        """Open a source; see `open_source`."""
        return open_source(
            spec,
            rectified=self.config.input_rectified,
            camera_file=self.camera_file,
            image_topic=self.image_topic,
            camera_info_topic=self.camera_info_topic,
        )


def create_pipeline(config: Config) -> Pipeline:
    """Create a pipeline whose results are written before the next frame is processed."""
    return Pipeline(config=config, reuse_outputs=True)


def write_outputs(
    source: Source, spec: str, pipeline: Pipeline, out: Path, settings: Settings, *, force: bool, on_frame: Callable[[], object]
) -> int:
    """Process every frame in the order of the source.

    Args:
        source: The opened source.
        spec: Its name in errors.
        pipeline: What computes the outputs.
        out: The bag; see `BagWriter`.
        settings: Topics, and part of the source.
        force: See `BagWriter`.
        on_frame: Called after each frame.

    Returns:
        The number of frames.

    Raises:
        SourceError: The source is damaged or has no readable frame, the bag cannot be written, or anything else failed, also
            Ctrl-C, after the first frame; the error names the file with the frames until then.
    """
    config = pipeline.config
    outputs = needed_results(settings.topics)
    with BagWriter(out, force=force) as bag:
        encoder = MessageEncoder(pipeline.class_set, config.overlay_opacity, config.min_confidence)
        writer = ResultWriter(bag, encoder, settings.with_input, settings.topics)
        try:
            for time_ns, frame in timed_frames(source, settings.part):
                writer.write(time_ns, frame, pipeline(frame, outputs))
                on_frame()
        except (Exception, KeyboardInterrupt) as error:
            if not writer.frames or str(bag.partial) in str(error):
                raise
            raise SourceError(f"{describe_cause(error)}; the {writer.frames} frames before it are in {bag.partial}") from error
        if not writer.frames:
            part = f" of {settings.part}" if str(settings.part) else ""
            raise SourceError(f"{spec}: no frame{part} was processed{rejection_note(source)}")
    return writer.frames


def describe_cause(error: BaseException) -> str:
    """Return the text of an expected error, or type and text of an unexpected one."""
    if isinstance(error, PerceptionError):
        return str(error)
    return "interrupted" if isinstance(error, KeyboardInterrupt) else f"{type(error).__name__}: {error}"
