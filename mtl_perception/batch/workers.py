"""Processing of sources in several processes of this machine."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from mtl_perception.batch.plan import Task
from mtl_perception.batch.processor import Processor
from mtl_perception.batch.progress import Progress
from mtl_perception.batch.results import FAILED, SourceResult
from mtl_perception.batch.settings import Settings
from mtl_perception.errors import PerceptionError, SourceError


@dataclass
class Worker:
    """A worker process and the source it processes; None before the first."""

    process: BaseProcess
    task: Task | None = None


def run_parallel(settings: Settings, tasks: Sequence[Task], jobs: int, progress: Progress) -> None:
    """Process sources in `jobs` processes, which share the cores unless the parameter cpu_threads is set.

    A source whose process dies fails alone; another process continues with the next source.

    Raises:
        PerceptionError: A process cannot create its pipeline.
    """
    jobs = min(jobs, len(tasks))
    if not settings.config.cpu_threads:
        cores = len(os.sched_getaffinity(0))
        settings = replace(settings, config=replace(settings.config, cpu_threads=max(1, min(256, cores // jobs))))
    waiting = deque(tasks)
    workers: dict[Connection, Worker] = {}
    try:
        for _ in range(jobs):
            _start(settings, workers)
        while workers:
            for connection in wait(list(workers)):
                assert isinstance(connection, Connection)
                worker = workers[connection]
                try:
                    message = connection.recv()
                except (EOFError, OSError):
                    del workers[connection]
                    progress.finish(*_died(worker))
                    if waiting:
                        _start(settings, workers)
                    continue
                if isinstance(message, PerceptionError):
                    raise message
                if isinstance(message, float):
                    assert worker.task is not None
                    progress.update(worker.task, message)
                    continue
                if worker.task is None:
                    progress.note(message)
                else:
                    progress.finish(worker.task, message)
                if not waiting:
                    # The worker ends when its connection does.
                    connection.close()
                    del workers[connection]
                    worker.process.join()
                    continue
                worker.task = waiting.popleft()
                with suppress(OSError):  # A worker that has died is noticed when its answer is read.
                    connection.send(worker.task)
    finally:
        for worker in workers.values():
            worker.process.terminate()
            worker.process.join()


def _start(settings: Settings, workers: dict[Connection, Worker]) -> None:
    # CUDA does not work in forked processes.
    context = multiprocessing.get_context("spawn")
    connection, end = context.Pipe()
    process = context.Process(target=_work, args=(end, settings), name="process worker", daemon=True)
    process.start()
    # Only the worker may hold its end: the connection then closes when the worker dies.
    end.close()
    workers[connection] = Worker(process)


def _died(worker: Worker) -> tuple[Task, SourceResult]:
    worker.process.join()
    code = worker.process.exitcode or 0
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with code {code}"
    if worker.task is None:
        raise SourceError(f"a worker process {how} before its first source; try fewer --jobs")
    error = f"the worker process {how}, perhaps for lack of memory; see what it printed, or try fewer --jobs"
    return worker.task, SourceResult(worker.task.source, worker.task.output.name, FAILED, 0, 0.0, error)


def _work(connection: Connection, settings: Settings) -> None:
    """Process the tasks that arrive; send the share of the source after each frame, and the result at its end."""
    # Ctrl-C reaches all processes of a terminal; the main process ends the workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with suppress(EOFError, OSError):  # The main process has ended.
        try:
            processor = Processor(settings)
            connection.send(processor.pipeline.notes)
            while True:
                for event in processor.process(connection.recv()):
                    connection.send(event)
        except PerceptionError as error:
            connection.send(error)
