"""Mailbox and publisher thread."""

from __future__ import annotations

import threading
import time

from mtl_perception.runtime.mailbox import Mailbox
from mtl_perception.runtime.publisher_thread import PublisherThread


def test_mailbox_keeps_the_newest_item_and_reports_lost_ones() -> None:
    box: Mailbox[int] = Mailbox()
    assert [box.put(1), box.put(2), box.put(3)] == [False, True, True]
    assert box.take() == [(0, 3)]
    taken: list[list[tuple[int, int]]] = []
    reader = threading.Thread(target=lambda: taken.append(box.take()))
    reader.start()
    assert box.close() == []
    reader.join(10)
    assert taken == [[]]
    assert box.put(4) is True
    other: Mailbox[int] = Mailbox()
    other.put(1)
    assert other.close() == [0]
    assert other.take() == []


def test_mailbox_serves_senders_in_turn() -> None:
    box: Mailbox[str] = Mailbox(3)
    served = []
    for _ in range(6):
        for sender in (0, 1):
            box.put(f"newest of {sender}", sender)
        served += [sender for sender, _ in box.take()]
    assert served == [0, 1, 0, 1, 0, 1]
    box.put("c", 2)
    assert box.take(2) == [(2, "c"), (0, "newest of 0")]
    for sender, item in enumerate("abc"):
        box.put(item, sender)
    assert box.take(8) == [(1, "b"), (2, "c"), (0, "a")]
    box.put("b", 1)
    assert box.close() == [1]


def test_publisher_thread_runs_tasks_in_order_one_at_a_time() -> None:
    publisher, done = PublisherThread("test"), []
    may_go = threading.Event()
    publisher.submit(lambda: (may_go.wait(20), done.append(0)))
    handed = threading.Thread(target=lambda: [publisher.submit(lambda i=i: done.append(i)) for i in (1, 2)])
    handed.start()
    time.sleep(0.05)
    assert handed.is_alive() and done == []
    may_go.set()
    handed.join(20)
    publisher.close()
    assert done == [0, 1, 2]
