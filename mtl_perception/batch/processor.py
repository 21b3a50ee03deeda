"""Processing of one source after another with one pipeline."""

from __future__ import annotations

import time
from collections.abc import Iterator

from mtl_perception.batch.outputs import create_pipeline, describe_cause, write_outputs
from mtl_perception.batch.plan import Task
from mtl_perception.batch.record import describe_settings
from mtl_perception.batch.results import DONE, FAILED, SourceResult
from mtl_perception.batch.settings import Settings
from mtl_perception.errors import DeviceError, one_line


class Processor:
    """Processes sources one after another with one pipeline.

    Args:
        settings: What is the same for all sources.

    Raises:
        WeightsError, DeviceError, ConfigError, SourceError: See `Pipeline` and `describe_settings`.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._described = describe_settings(settings)
        self.pipeline = create_pipeline(settings.config)

    def process(self, task: Task) -> Iterator[float | SourceResult]:
        """Process a source: yield the share that is done, 0 to 1, after each frame, and the result; any failure becomes one.

        Args:
            task: Source and output; an output that exists, and what an interrupted run left, is replaced.

        Raises:
            SourceError: Ctrl-C, after the first frame.
            DeviceError: The device failed, and could not be used again.
        """
        start = time.monotonic()
        frames = 0
        error = ""
        try:
            source = self.settings.open(task.source)
            expected = self.settings.part.count(source)
            for frames in write_outputs(
                source, task.source, self.pipeline, task.output, self.settings, self._described, force=True
            ):
                yield min(1.0, frames / expected)
        except Exception as failure:
            if isinstance(failure.__cause__, KeyboardInterrupt):
                raise
            error = one_line(describe_cause(failure), limit=1000)
            if isinstance(failure, DeviceError) or isinstance(failure.__cause__, DeviceError):
                self.pipeline.rebuild()
        seconds = round(time.monotonic() - start, 3)
        yield SourceResult(task.source, task.output.name, FAILED if error else DONE, frames, seconds, error)
