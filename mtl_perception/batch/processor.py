"""Processing of one source after another with one pipeline."""

from __future__ import annotations

import time
from collections.abc import Callable

from mtl_perception.batch.bag import Settings, create_pipeline, describe_cause, write_outputs
from mtl_perception.batch.plan import Task
from mtl_perception.batch.results import DONE, FAILED, SourceResult
from mtl_perception.errors import DeviceError, one_line


class Processor:
    """Processes sources one after another with one pipeline.

    Args:
        settings: What is the same for all sources.

    Raises:
        WeightsError, DeviceError, ConfigError: See `Pipeline`.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.pipeline = create_pipeline(settings.config)

    def process(self, task: Task, on_progress: Callable[[float], object]) -> SourceResult:
        """Process a source; any failure becomes a result.

        Args:
            task: Source and output; an output that exists, and what an interrupted run left, is replaced.
            on_progress: Receives the share of the source that is done, 0 to 1, after each frame.

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

            def count() -> None:
                nonlocal frames
                frames += 1
                on_progress(min(1.0, frames / expected))

            write_outputs(source, task.source, self.pipeline, task.output, self.settings, force=True, on_frame=count)
        except Exception as failure:
            if isinstance(failure.__cause__, KeyboardInterrupt):
                raise
            error = one_line(describe_cause(failure), limit=1000)
            if isinstance(failure, DeviceError) or isinstance(failure.__cause__, DeviceError):
                self.pipeline.rebuild()
        seconds = round(time.monotonic() - start, 3)
        return SourceResult(task.source, task.output.name, FAILED if error else DONE, frames, seconds, error)
