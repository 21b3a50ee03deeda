"""Processing of many sources, each to an output of its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from mtl_perception.batch.cluster import Cluster, RayPool, remove_stale_markers
from mtl_perception.batch.plan import Task
from mtl_perception.batch.processes import ProcessPool
from mtl_perception.batch.progress import SKIPPED, Progress
from mtl_perception.batch.record import describe_settings, read_record
from mtl_perception.batch.results import DONE, FAILED, ResultsFile, SourceResult
from mtl_perception.batch.schedule import Pool, run_pool
from mtl_perception.batch.settings import Settings


def run_tasks(
    settings: Settings,
    tasks: Sequence[Task],
    results: ResultsFile,
    *,
    jobs: int | None = None,
    cluster: Cluster | None = None,
    force: bool = False,
) -> Counter[str]:
    """Process the sources whose outputs are not finished, or were made with other settings.

    Args:
        settings: What is the same for all sources.
        tasks: Sources and outputs.
        results: File that the results are appended to.
        jobs: Number of workers; by default 1, or as many as the cluster has room for.
        cluster: Ray cluster for the workers; None: processes of this machine.
        force: Process all, and replace finished outputs.

    Returns:
        The number of sources by status: DONE, FAILED, SKIPPED.

    Raises:
        PerceptionError: Nothing can be processed, such as without valid weights.
    """
    remove_stale_markers(results.path.parent)
    wanted = describe_settings(settings)
    known = results.read()
    pending: list[Task] = []
    ended: list[tuple[Task, SourceResult]] = []
    differences: Counter[str] = Counter()
    for task in tasks:
        # An output has its final name only when it is complete; see BagWriter.
        if force or not task.output.exists():
            pending.append(task)
            continue
        record, name = read_record(task.output), task.output.name
        if record is None:
            error = f"{task.output} exists and is not an output of process; choose another folder"
            ended.append((task, SourceResult(task.source, name, FAILED, 0, 0.0, error)))
        elif difference := record.difference(wanted):
            differences[difference] += 1
            pending.append(task)
        elif (recording := settings.rerun_file(task.output)) and not recording.exists():
            pending.append(task)
        elif name not in known or known[name].status != DONE:
            # An earlier run was killed after it had finished the output and before it recorded it.
            ended.append((task, SourceResult(task.source, name, DONE, record.frames, 0.0)))
    with Progress(len(pending) + len(ended), results) as progress:
        progress.counts[SKIPPED] = len(tasks) - len(pending) - len(ended)
        for difference, count in differences.items():
            progress.note([f"{count} finished outputs were made with other settings and are processed again: {difference}"])
        for task, result in ended:
            progress.finish(task, result)
        pool: Pool
        if pending and cluster is not None:
            pool = RayPool(settings, results.path.parent, cluster)
            run_pool(pool, pending, jobs or pool.capacity, progress)
        elif len(pending) > 1 and jobs is not None and jobs > 1:
            jobs = min(jobs, len(pending))
            run_pool(ProcessPool(settings, jobs), pending, jobs, progress)
        elif pending:
            from mtl_perception.batch.processor import Processor  # With PyTorch, which workers import in their own processes.

            processor = Processor(settings)
            progress.note(processor.pipeline.notes)
            for task in pending:
                for event in processor.process(task):
                    progress.report(task, event)
    return progress.counts
