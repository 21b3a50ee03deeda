"""Processing of one source to a bag or a data set."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from mtl_perception.batch.bag import BagOutput
from mtl_perception.batch.dataset import DatasetOutput
from mtl_perception.batch.record import Record
from mtl_perception.batch.settings import Settings
from mtl_perception.config import Config
from mtl_perception.errors import SourceError, describe_error
from mtl_perception.pipeline import Pipeline
from mtl_perception.sources.base import Source, rejection_note, timed_frames
from mtl_perception.types import History
from mtl_perception.visualization.rerun import open_rerun


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
        out: The bag or the folder; see `BagWriter` and `DatasetOutput`.
        settings: Topics, and part of the source.
        described: The settings as `describe_settings` returns them, which are stored in the output.
        force: Replace a finished output, and what an earlier run left.

    Raises:
        SourceError: The source is damaged or has no readable frame, the output cannot be written, or anything else failed, also
            Ctrl-C, after the first frame; the error names the file with the frames until then.
    """
    created = DatasetOutput(out, pipeline, force) if settings.images else BagOutput(out, pipeline, settings, force)
    rerun_file = settings.rerun_file(out)
    needs = created.needs | (settings.rerun_options.needed_results() if rerun_file else frozenset())
    recording = open_rerun(rerun_file, source.name, pipeline, settings.rerun_options, force)
    history = History()
    # The recording is complete before the output, because a complete output is not processed again.
    with created as output, recording as log:
        try:
            for time_ns, frame in timed_frames(source, settings.part):
                result = pipeline(replace(frame, history=history), needs)
                output.write(time_ns, frame, result)
                if log:
                    log.log(result, frame.stamp_ns)
                yield output.frames
        except (Exception, KeyboardInterrupt) as error:
            if not output.frames or str(output.partial) in str(error):
                raise
            raise SourceError(
                f"{describe_cause(error)}; the {output.frames} frames before it are in {output.partial}"
            ) from error
        if not output.frames:
            part = f" of {settings.part}" if str(settings.part) else ""
            length = f"; it has about {len(source) / source.rate_hz:.3g} s" if part else ""
            raise SourceError(f"{spec}: no frame{part} was processed{rejection_note(source)}{length}")
        output.finish(Record(described, output.frames))


def describe_cause(error: BaseException) -> str:
    """Return the text of an expected error, or type and text of an unexpected one."""
    return "interrupted" if isinstance(error, KeyboardInterrupt) else describe_error(error)
