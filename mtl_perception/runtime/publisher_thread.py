"""Thread that publishes one frame while the next one is computed."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from mtl_perception.runtime.mailbox import Mailbox


class PublisherThread:
    """Run tasks in order in a thread of its own, one at a time.

    Submitting a task waits for the previous one, so a task may read buffers that are overwritten after the next submission.

    Args:
        name: Name of the thread.
    """

    def __init__(self, name: str) -> None:
        self._tasks: Mailbox[Callable[[], None]] = Mailbox()
        self._idle = threading.Event()
        self._idle.set()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, task: Callable[[], None]) -> None:
        """Wait for the previous task, then start this one. Its exceptions are logged."""
        self.wait()
        self._idle.clear()
        self._tasks.put(task)

    def wait(self) -> None:
        """Wait until no task is running."""
        self._idle.wait()

    def close(self) -> None:
        """Finish the running task and end the thread."""
        self.wait()
        self._tasks.close()
        self._thread.join()

    def _run(self) -> None:
        while taken := self._tasks.take():
            try:
                taken[0][1]()
            except Exception:
                # If the thread ended here, submit() would wait forever.
                logging.getLogger(__name__).exception("task of thread %s failed", self._thread.name)
            finally:
                self._idle.set()
