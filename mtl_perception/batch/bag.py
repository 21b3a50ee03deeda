"""A bag with the node's outputs."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

from mtl_perception.batch.record import KEY, Record
from mtl_perception.batch.settings import Settings
from mtl_perception.messages.encode import MessageEncoder
from mtl_perception.messages.topics import needed_results
from mtl_perception.pipeline import Pipeline
from mtl_perception.result import Result
from mtl_perception.sources.bag.result_writer import ResultWriter
from mtl_perception.sources.bag.writer import BagWriter
from mtl_perception.types import Frame


class BagOutput:
    """Context manager that writes a bag; see `BagWriter`.

    Args:
        path: The bag.
        pipeline: What computes the outputs.
        settings: Topics.
        force: See `BagWriter`.
    """

    def __init__(self, path: Path, pipeline: Pipeline, settings: Settings, force: bool) -> None:
        self.needs = needed_results(settings.topics)
        self._bag = BagWriter(path, force=force)
        self._pipeline, self._settings = pipeline, settings
        self.partial = self._bag.partial

    def __enter__(self) -> BagOutput:
        self._bag.__enter__()
        config = self._pipeline.config
        encoder = MessageEncoder(self._pipeline.class_set, config.overlay_opacity, config.min_confidence)
        self._writer = ResultWriter(self._bag, encoder, self._settings.with_input, self._settings.topics)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bag.__exit__(kind, error, trace)

    @property
    def frames(self) -> int:
        """Number of frames written."""
        return self._writer.frames

    def write(self, time_ns: int, frame: Frame, result: Result) -> None:
        """Write the messages of a frame."""
        self._writer.write(time_ns, frame, result)

    def finish(self, record: Record) -> None:
        """Store the record in the metadata."""
        self._bag.set_custom_data(KEY, record.to_json())
