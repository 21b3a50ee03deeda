"""Processing of many sources, each to a bag of its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial

from mtl_perception.batch.bag import Settings
from mtl_perception.batch.plan import Task
from mtl_perception.batch.processor import Processor
from mtl_perception.batch.progress import SKIPPED, Progress
from mtl_perception.batch.results import DONE, FAILED, ResultsFile, SourceResult
from mtl_perception.batch.workers import run_parallel
from mtl_perception.errors import SourceError, one_line
from mtl_perception.sources.bag.reader import open_bag
from mtl_perception.sources.bag.result_writer import INPUT, NODE


def run_tasks(
    settings: Settings, tasks: Sequence[Task], results: ResultsFile, *, jobs: int = 1, force: bool = False
) -> Counter[str]:
    """Process the sources whose outputs are not finished.

    Args:
        settings: What is the same for all sources.
        tasks: Sources and outputs.
        results: File that the results are appended to.
        jobs: Number of processes.
        force: Process all, and replace finished outputs.

    Returns:
        The number of sources by status: DONE, FAILED, SKIPPED.

    Raises:
        PerceptionError: Nothing can be processed, such as without valid weights.
    """
    known = results.read()
    # An output has its final name only when it is complete; see BagWriter.
    finished = [] if force else [task for task in tasks if task.output.exists()]
    pending = [task for task in tasks if task not in finished]
    unrecorded = [task for task in finished if not _is_done(task, known)]
    with Progress(len(pending) + len(unrecorded), results) as progress:
        progress.counts[SKIPPED] = len(finished) - len(unrecorded)
        for task in unrecorded:
            progress.finish(task, _examine(task))
        if jobs > 1 and len(pending) > 1:
            run_parallel(settings, pending, jobs, progress)
        elif pending:
            processor = Processor(settings)
            progress.note(processor.pipeline.notes)
            for task in pending:
                progress.finish(task, processor.process(task, partial(progress.update, task)))
    return progress.counts


def _is_done(task: Task, known: Mapping[str, SourceResult]) -> bool:
    result = known.get(task.output.name)
    return result is not None and result.status == DONE


def _examine(task: Task) -> SourceResult:
    """Return the result for a finished bag without one: the run was killed between the two."""
    frames = 0
    error = f"{task.output} exists and is not an output of process; choose another folder"
    try:
        topics = open_bag(task.output).topics
    except SourceError as failure:
        error = f"{error}: {failure}"
    else:
        if topics and all(topic.startswith((f"{NODE}/", f"{INPUT}/")) for topic in topics):
            frames, error = max(topic.count for topic in topics.values()), ""
    return SourceResult(task.source, task.output.name, FAILED if error else DONE, frames, 0.0, one_line(error, limit=1000))
