"""Workers that are processes of this machine."""

from __future__ import annotations

import itertools
import multiprocessing
import signal
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from mtl_perception.batch.plan import Task
from mtl_perception.batch.schedule import Death, Event, Ready
from mtl_perception.batch.settings import Settings
from mtl_perception.child_process import end_with_parent
from mtl_perception.errors import PerceptionError
from mtl_perception.threads import available_cores


class ProcessPool:
    """Processes of this machine, which share the cores unless the parameter cpu_threads is set.

    Args:
        settings: What is the same for all sources.
        jobs: Number of processes at the same time.
    """

    attempts = 1
    """A process that dies here would probably die again: unlike the nodes of a cluster, this machine is still the same."""

    def __init__(self, settings: Settings, jobs: int) -> None:
        if not settings.config.cpu_threads:
            threads = max(1, min(256, available_cores() // jobs))
            settings = replace(settings, config=replace(settings.config, cpu_threads=threads))
        self._settings = settings
        self._numbers = itertools.count()
        self._processes: dict[int, tuple[BaseProcess, Connection]] = {}

    def start(self) -> int:
        """Start a process."""
        # CUDA and the threads of PyTorch work in forks of a process that has imported it and not used it. That process imports
        # it once for all workers, which share the memory of its modules.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["mtl_perception.batch.processor"])
        connection, end = context.Pipe()
        process = context.Process(target=_work, args=(end, self._settings), name="process worker", daemon=True)
        process.start()
        # Only the worker may hold its end: the connection then closes when the worker dies.
        end.close()
        worker = next(self._numbers)
        self._processes[worker] = (process, connection)
        return worker

    def send(self, worker: int, task: Task) -> None:
        """Send a source to a process."""
        with suppress(OSError):  # A worker that has died is noticed when its answer is read.
            self._processes[worker][1].send(task)

    def wait(self) -> Iterator[tuple[int, Event]]:
        """Wait for messages."""
        workers = {connection: worker for worker, (_, connection) in self._processes.items()}
        for connection in wait(list(workers)):
            assert isinstance(connection, Connection)
            worker = workers[connection]
            try:
                event = connection.recv()
            except (EOFError, OSError):
                event = self._death(worker)
            yield worker, event

    def stop(self, worker: int) -> None:
        """Close the connection, which ends the process."""
        process, connection = self._processes.pop(worker)
        connection.close()
        process.join()

    def close(self) -> None:
        """Terminate the processes."""
        for process, _ in self._processes.values():
            process.terminate()
            process.join()

    def _death(self, worker: int) -> Death:
        process, _ = self._processes.pop(worker)
        process.join()
        code = process.exitcode or 0
        return Death(f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with code {code}")


def _work(connection: Connection, settings: Settings) -> None:
    """Process the sources that arrive, and send the events."""
    from mtl_perception.batch.processor import Processor  # With PyTorch, which the main process does not need.

    # Ctrl-C reaches all processes of a terminal; the main process ends the workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # The next run would find an output locked by a worker whose main process was killed.
    end_with_parent()
    with suppress(EOFError, OSError):  # The main process has ended.
        try:
            processor = Processor(settings)
            connection.send(Ready(processor.pipeline.notes))
            while True:
                for event in processor.process(connection.recv()):
                    connection.send(event)
        except PerceptionError as error:
            connection.send(error)
