"""Mailbox between threads that keeps the newest item of each sender."""

from __future__ import annotations

import threading
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Mailbox(Generic[Item]):
    """Pass items from several senders to another thread, holding at most one item per sender.

    Args:
        senders: Number of senders, which are numbered from 0.
    """

    def __init__(self, senders: int = 1) -> None:
        self._condition = threading.Condition()
        self._items: dict[int, Item] = {}
        # Least recently served first, so that a fast sender cannot starve the others.
        self._order = list(range(senders))
        self._closed = False

    def put(self, item: Item, sender: int = 0) -> bool:
        """Store an item.

        Returns:
            Whether an item was lost: the sender's previous one was replaced, or the mailbox is closed.
        """
        with self._condition:
            if self._closed:
                return True
            replaced = sender in self._items
            self._items[sender] = item
            self._condition.notify()
            return replaced

    def take(self, limit: int = 1) -> list[tuple[int, Item]]:
        """Wait for items and remove those of up to `limit` senders, least recently served first.

        Returns:
            Pairs of sender and item; empty once the mailbox is closed.
        """
        with self._condition:
            self._condition.wait_for(lambda: self._items or self._closed)
            senders = [sender for sender in self._order if sender in self._items][:limit]
            self._order = [sender for sender in self._order if sender not in senders] + senders
            return [(sender, self._items.pop(sender)) for sender in senders]

    def close(self) -> list[int]:
        """Wake up all waiting threads and accept no more items.

        Returns:
            Senders whose items were discarded.
        """
        with self._condition:
            self._closed = True
            discarded = list(self._items)
            self._items.clear()
            self._condition.notify_all()
            return discarded
