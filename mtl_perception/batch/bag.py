"""The node's outputs for the frames of one source, written to a bag."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from mtl_perception.batch.record import KEY, Record
from mtl_perception.batch.settings import Settings
from mtl_perception.config import Config
from mtl_perception.errors import PerceptionError, SourceError
from mtl_perception.messages.encode import MessageEncoder
from mtl_perception.messages.topics import needed_results
from mtl_perception.pipeline import Pipeline
from mtl_perception.sources.bag.result_writer import ResultWriter
from mtl_perception.sources.bag.writer import BagWriter
from mtl_perception.sources.base import Source, rejection_note, timed_frames


def create_pipeline(config: Config) -> Pipeline:
    """Create a pipeline whose results are written before the next frame is processed."""
    return Pipeline(config=config, reuse_outputs=True)


def write_outputs(
    source: Source,
    spec: str,
    pipeline: Pipeline,
    out: Path,
    settings: Settings,
    described: Mapping[str, object],
    *,
    force: bool,
) -> Iterator[int]:
    """Process every frame in the order of the source, and yield their number so far after each.

    Args:
        source: The opened source.
        spec: Its name in errors.
        pipeline: What computes the outputs.
        out: The bag; see `BagWriter`.
        settings: Topics, and part of the source.
        described: The settings as `describe_settings` returns them, which are stored in the bag.
        force: See `BagWriter`.

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
                yield writer.frames
        except (Exception, KeyboardInterrupt) as error:
            if not writer.frames or str(bag.partial) in str(error):
                raise
            raise SourceError(f"{describe_cause(error)}; the {writer.frames} frames before it are in {bag.partial}") from error
        if not writer.frames:
            part = f" of {settings.part}" if str(settings.part) else ""
            raise SourceError(f"{spec}: no frame{part} was processed{rejection_note(source)}")
        bag.set_custom_data(KEY, Record(described, writer.frames).to_json())


def describe_cause(error: BaseException) -> str:
    """Return the text of an expected error, or type and text of an unexpected one."""
    if isinstance(error, PerceptionError):
        return str(error)
    return "interrupted" if isinstance(error, KeyboardInterrupt) else f"{type(error).__name__}: {error}"
