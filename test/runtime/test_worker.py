"""Worker: its mailbox, and publishing in parallel with inference."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace

from mtl_perception.runtime.statistics import Statistics
from mtl_perception.runtime.worker import Mailbox, Worker


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


class SlowCamera:
    """A camera whose frames are the messages themselves; publishing a frame waits for `may_go`."""

    name = ""

    def __init__(self) -> None:
        self.statistics = Statistics()
        self.may_go = threading.Event()
        self.published: list[tuple[int, str]] = []
        self.publishing = 0

    def subscribed_outputs(self):
        return [SimpleNamespace(needs={"labels"})]

    def to_frame(self, message, rectified):
        return SimpleNamespace(stamp_ns=message.header)

    def publish(self, outputs, encoder, result, header) -> None:
        self.publishing += 1
        assert self.publishing == 1
        self.may_go.wait(20)
        self.published.append((header, result))
        self.publishing -= 1


def test_one_frame_is_published_while_the_next_one_is_computed() -> None:
    """The pipeline keeps two sets of results: the third call waits until the first set is published."""
    camera, computed = SlowCamera(), []

    def run(pipeline, frames, needs):
        computed.extend(frame.stamp_ns for frame in frames)
        return [f"result of {frame.stamp_ns}" for frame in frames]

    session = SimpleNamespace(
        cameras=[camera],
        pipeline=SimpleNamespace(result_sets=2),
        recovery=SimpleNamespace(run=run),
        config=SimpleNamespace(input_rectified=True),
        encoder=None,
        batch_limit=1,
    )
    worker = Worker(session, time.time_ns, lambda: False, SimpleNamespace(warning=print))
    worker.start()
    worker.put(0, SimpleNamespace(header=1))
    _wait_for(lambda: computed == [1])
    worker.put(0, SimpleNamespace(header=2))
    _wait_for(lambda: computed == [1, 2])
    worker.put(0, SimpleNamespace(header=3))
    time.sleep(0.05)
    assert (computed, camera.published) == ([1, 2], [])
    camera.may_go.set()
    _wait_for(lambda: len(camera.published) == 3)
    worker.close()
    worker.join(20)
    assert camera.published == [(number, f"result of {number}") for number in (1, 2, 3)]
    assert (camera.statistics.processed, dict(camera.statistics.rejected)) == (3, {})


def _wait_for(condition) -> None:
    deadline = time.monotonic() + 20
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)
    assert condition()
