"""One slot a sender between threads: of each sender the newest waits, the older is replaced."""

from __future__ import annotations

import threading
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Mailbox(Generic[Item]):
    """Hands items of several senders to another thread; never holds more than one of each.

    Args:
        senders: How many there are; they are numbered from 0.
    """

    def __init__(self, senders: int = 1) -> None:
        self._condition = threading.Condition()
        self._items: dict[int, Item] = {}
        # Who was served longest ago comes first, so that a fast sender cannot keep the others waiting.
        self._turns = list(range(senders))
        self._closed = False

    def put(self, item: Item, sender: int = 0) -> bool:
        """Leave an item. True if it took the place of one that nobody had taken, or the box is closed: one is lost."""
        with self._condition:
            if self._closed:
                return True
            replaced = sender in self._items
            self._items[sender] = item
            self._condition.notify()
            return replaced

    def take(self, limit: int = 1) -> list[tuple[int, Item]]:
        """Wait for items, and take those of up to `limit` senders, in the order of their turns; empty once the box is closed.

        Returns:
            Senders and items.
        """
        with self._condition:
            self._condition.wait_for(lambda: self._items or self._closed)
            senders = [sender for sender in self._turns if sender in self._items][:limit]
            self._turns = [sender for sender in self._turns if sender not in senders] + senders
            return [(sender, self._items.pop(sender)) for sender in senders]

    def close(self) -> list[int]:
        """Wake whoever waits, for good.

        Returns:
            The senders whose items were left, which are lost.
        """
        with self._condition:
            self._closed = True
            left = list(self._items)
            self._items.clear()
            self._condition.notify_all()
            return left
