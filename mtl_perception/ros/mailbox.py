"""One slot between two threads: the newest waits, the older is replaced."""

from __future__ import annotations

import threading
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Mailbox(Generic[Item]):
    """Hands items from one thread to another; never holds more than one."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._item: Item | None = None
        self._closed = False

    def put(self, item: Item) -> bool:
        """Leave an item. True if it took the place of one that nobody had taken, or the box is closed: one is lost."""
        with self._condition:
            if self._closed:
                return True
            replaced = self._item is not None
            self._item = item
            self._condition.notify()
            return replaced

    def take(self) -> Item | None:
        """Wait for an item; None once the box is closed."""
        with self._condition:
            self._condition.wait_for(lambda: self._item is not None or self._closed)
            item, self._item = self._item, None
            return None if self._closed else item

    def close(self) -> bool:
        """Wake whoever waits, for good. True if an item was left, which is lost."""
        with self._condition:
            self._closed = True
            left = self._item is not None
            self._item = None
            self._condition.notify_all()
            return left
