"""A thread of its own for the last part of a frame's way, in order."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from mtl_perception.runtime.mailbox import Mailbox


class Stage:
    """Runs tasks one by one in its thread, while whoever hands them over goes on.

    At most one task is there at any time: what a task reads may be written again once the next one was handed over.

    Args:
        name: The thread's.
    """

    def __init__(self, name: str) -> None:
        self._tasks: Mailbox[Callable[[], None]] = Mailbox()
        self._idle = threading.Event()
        self._idle.set()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def hand_over(self, task: Callable[[], None]) -> None:
        """Wait until the task before is done, then leave this one. What it raises is logged."""
        self.wait()
        self._idle.clear()
        self._tasks.put(task)

    def wait(self) -> None:
        """Wait until no task is in work."""
        self._idle.wait()

    def close(self) -> None:
        """Finish the task in work; the thread ends."""
        self.wait()
        self._tasks.close()
        self._thread.join()

    def _run(self) -> None:
        while taken := self._tasks.take():
            try:
                taken[0][1]()
            except Exception:
                # A dead thread would leave whoever hands over waiting for ever.
                logging.getLogger(__name__).exception("%s failed", self._thread.name)
            finally:
                self._idle.set()
