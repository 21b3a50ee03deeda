"""Distribution of sources to workers, each of which keeps a pipeline."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Protocol

from mtl_perception.batch.plan import Task
from mtl_perception.batch.progress import Progress
from mtl_perception.batch.results import FAILED, SourceResult
from mtl_perception.errors import PerceptionError, SourceError


@dataclass(frozen=True)
class Ready:
    """A worker has a pipeline, with these notes."""

    notes: tuple[str, ...]


@dataclass(frozen=True)
class Death:
    """A worker has died; `reason` continues the sentence "the worker process …"."""

    reason: str


Event = Ready | float | SourceResult | Death | PerceptionError
"""What a worker reports: the share of its source that is done, 0 to 1; its result; or why it cannot process any source."""


class Pool(Protocol):
    """Workers by number.

    Attributes:
        attempts: How often a source is tried whose worker dies.
    """

    attempts: int

    def start(self) -> int:
        """Start a worker and return its number."""

    def send(self, worker: int, task: Task) -> None:
        """Let a worker that is ready, or has reported a result, process a source."""

    def wait(self) -> Iterable[tuple[int, Event]]:
        """Wait for events of workers."""

    def stop(self, worker: int) -> None:
        """End a worker that has nothing to do."""

    def close(self) -> None:
        """End all workers at once."""


def run_pool(pool: Pool, tasks: Sequence[Task], workers: int, progress: Progress) -> None:
    """Process sources with a number of workers.

    A source whose worker dies is tried again at the end, `pool.attempts` times in all, and then fails alone.

    Raises:
        PerceptionError: A worker cannot process any source.
    """
    waiting = deque(tasks)
    deaths: Counter[Task | None] = Counter()
    with closing(pool):
        running: dict[int, Task | None] = {pool.start(): None for _ in range(min(workers, len(tasks)))}
        while running:
            for worker, event in pool.wait():
                task = running[worker]
                if isinstance(event, PerceptionError):
                    raise event
                if isinstance(event, Death):
                    del running[worker]
                    deaths[task] += 1
                    if deaths[task] >= pool.attempts:
                        progress.finish(*_failure(task, event, pool.attempts))
                    elif task is not None:
                        progress.note([f"{task.source}: the worker process {event.reason}; it is tried again"])
                        waiting.append(task)
                    if waiting:
                        running[pool.start()] = None
                    continue
                if isinstance(event, Ready):
                    progress.note(event.notes)
                else:
                    assert task is not None
                    progress.report(task, event)
                    if isinstance(event, float):
                        continue
                if waiting:
                    running[worker] = following = waiting.popleft()
                    pool.send(worker, following)
                else:
                    del running[worker]
                    pool.stop(worker)


def _failure(task: Task | None, death: Death, attempts: int) -> tuple[Task, SourceResult]:
    if task is None:
        raise SourceError(f"a worker process {death.reason} before its first source; try fewer --jobs")
    times = f" ({attempts} times)" if attempts > 1 else ""
    error = f"the worker process {death.reason}{times}, perhaps for lack of memory; see what it printed, or try fewer --jobs"
    return task, SourceResult(task.source, task.output.name, FAILED, 0, 0.0, error)
