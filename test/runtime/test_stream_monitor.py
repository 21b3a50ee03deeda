"""Stream monitor: stamps, clocks and content of images."""

from __future__ import annotations

from array import array

import pytest

from mtl_perception.runtime.stream_monitor import Arrival, StreamMonitor, are_identical, format_duration

START = 1_790_000_000 * 10**9
PATIENCE = 1.5


class Stream:
    """Different images at 10 Hz, which arrive 20 ms after their stamps by default."""

    def __init__(self) -> None:
        self.monitor = StreamMonitor()
        self.at = 100.0
        self.number = 0

    def send(self, count: int = 1, *, stamp: float | None = None, age: float = 0.02, clock: float = 0.0, **fields) -> None:
        """Send images; `stamp` in seconds since the epoch, `clock` is a jump of the node's clock in seconds."""
        for _ in range(count):
            self.at += 0.1
            self.number += 1
            now = START + round((self.at + clock) * 1e9)
            stamp_ns = now - round(age * 1e9) if stamp is None else round(stamp * 1e9)
            known = {"form": "64x48 rgb8", "data": bytes([self.number % 256]) * 3000, "simulated": False, "clock_ns": now}
            self.monitor.observe(Arrival(**{"stamp_ns": stamp_ns, "at": self.at, **known, **fields}))

    def anomalies(self, later: float = 0.0) -> dict[str, str]:
        return self.monitor.anomalies(self.at + later, PATIENCE)


@pytest.fixture
def stream() -> Stream:
    stream = Stream()
    stream.send(30)
    assert stream.anomalies() == {}
    return stream


def test_no_anomalies_before_the_first_image() -> None:
    assert StreamMonitor().anomalies(5.0, PATIENCE) == {}


def test_gaps_and_small_clock_offsets_are_no_anomalies(stream: Stream) -> None:
    stream.at += 60
    stream.send(3, age=0.9)
    stream.send(3, age=-0.4)
    stream.send(1, age=-0.5)
    assert stream.anomalies() == {}


def test_repeated_stamps_are_counted_and_reported(stream: Stream) -> None:
    stream.send(5, stamp=1_790_000_103.0)
    assert stream.anomalies() == {
        "repeated": "5 consecutive images have the stamp 1790000103.000000000: "
        "the camera is frozen, or its driver does not update the stamp"
    }
    stream.send(25)
    assert "repeated" in stream.anomalies()
    stream.send(10)
    assert stream.anomalies() == {}
    assert stream.monitor.counts[StreamMonitor.REPEATED] == 4


def test_backward_stamp_jump_is_reported_for_a_few_seconds(stream: Stream) -> None:
    """As by a bag that loops, with simulated time."""
    stream.send(20, clock=-12.3)
    assert list(stream.anomalies()) == ["backward"]
    assert stream.anomalies()["backward"].startswith("stamps jumped back by 12.2 s")
    stream.send(20, clock=-12.3)
    assert stream.anomalies() == {}
    assert stream.monitor.counts[StreamMonitor.BACKWARD] == 1


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"age": -5.0}, "stamps are 5.0 s ahead of the node's clock: the clocks of camera and node differ"),
        ({"age": -5.0, "simulated": True}, "stamps are 5.0 s ahead of simulated time: they are not based on /clock"),
        ({"clock_ns": 0, "simulated": True}, "use_sim_time is set, but nothing was received on /clock yet"),
        ({"age": 3.0}, "stamps are 3.0 s behind the node's clock: images are delayed, or the clocks"),
        (
            {"age": 3.0, "simulated": True},
            "stamps are 3.0 s behind simulated time: images are delayed, or their stamps",
        ),
        ({"age": 7200.0}, "stamps are 2.0 hours behind the node's clock: images are delayed, or the clocks"),
        ({"age": 15 * 365.25 * 86400}, "stamps are 15.0 years behind the node's clock: a recording"),
        ({"stamp": 12.5}, "behind the node's clock: they are simulated time (set use_sim_time)"),
        ({"stamp": 0.0}, "stamps are zero: the driver does not set them"),
    ],
)
def test_clock_offset_is_reported_while_it_lasts(stream: Stream, fields, words: str) -> None:
    stream.monitor = StreamMonitor()
    stream.send(1, **fields)
    found = stream.anomalies()
    assert len(found) == 1
    assert words in next(iter(found.values()))
    stream.monitor.last = None  # The next image is not compared with it.
    stream.send(31)
    assert stream.anomalies() == {}


def test_zero_stamps_are_only_reported_as_zero(stream: Stream) -> None:
    stream.send(5, stamp=0.0)
    assert list(stream.anomalies()) == ["zero"]


def test_identical_images_are_reported_as_frozen(stream: Stream) -> None:
    stream.send(16, data=b"\x07" * 3000)
    assert stream.anomalies() == {}
    stream.send(1, data=b"\x07" * 3000)
    assert stream.anomalies() == {
        "frozen": "image has not changed for 1.6 s (17 identical images): "
        "the camera is frozen, or the scene is static and free of noise"
    }
    # Missing images are reported elsewhere.
    assert stream.anomalies(later=3.1) == {}
    stream.send(1)
    assert stream.anomalies() == {}


def test_two_identical_images_of_a_slow_camera_are_not_frozen() -> None:
    stream = Stream()
    for _ in range(2):
        stream.at += 20
        stream.send(1, data=b"\x07" * 3000)
    assert stream.anomalies() == {}
    stream.at += 20
    stream.send(1, data=b"\x07" * 3000)
    assert list(stream.anomalies()) == ["frozen"]


def test_all_bytes_are_compared_if_the_sample_is_equal() -> None:
    data = array("B", bytes(1_400_000))
    other = array("B", data)
    assert are_identical(data, other)
    other[777_777] = 1
    assert not are_identical(data, other)
    assert not are_identical(data, data[:-1])
    assert are_identical(b"", array("B"))


def test_change_of_size_or_encoding_is_reported_for_a_few_seconds(stream: Stream) -> None:
    stream.send(5, form="128x96 mono8")
    assert stream.anomalies() == {"changed": "images changed from 64x48 rgb8 to 128x96 mono8"}
    stream.send(30, form="128x96 mono8")
    assert stream.anomalies() == {}
    assert stream.monitor.counts[StreamMonitor.CHANGED] == 1


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.033, "0.033 s"),
        (12.34, "12.3 s"),
        (7000, "7000.0 s"),
        (7200, "2.0 hours"),
        (172_800, "2.0 days"),
        (5e8, "15.8 years"),
    ],
)
def test_durations_are_formatted_in_a_readable_unit(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_frozen_slow_camera_is_reported_continuously(stream: Stream) -> None:
    for _ in range(5):
        stream.at += 5.0
        stream.send(data=b"the same" * 400)
    assert all("frozen" in stream.anomalies(later) for later in (0.0, 4.0, 6.0))
    assert "frozen" not in stream.anomalies(11.0)


@pytest.mark.parametrize("length", [1, 7, 8, 9, 5000, 5003])
def test_last_byte_is_compared(length: int) -> None:
    a, b = bytes(length), bytes(length - 1) + b"\1"
    assert are_identical(a, bytes(length)) and not are_identical(a, b)
    assert are_identical(array("B", a), array("B", a)) and not are_identical(array("B", a), array("B", b))
