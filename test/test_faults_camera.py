"""Cameras that fail, one fault after the other: what comes out of the node, and what its diagnostics say."""

from __future__ import annotations

import contextlib
import itertools
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs rclpy")
from conftest import noise_picture
from diagnostic_msgs.msg import DiagnosticStatus
from inside import ask, node_inside
from ros_client import Camera, Client, profile
from ros_messages import camera_info, cloud_of, image, labels_of, put_header, set_data, values_of
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage, Image, PointCloud2

from mtl_perception import Frame, Pipeline
from mtl_perception.config import Config
from mtl_perception.ros import stream_watch
from mtl_perception.ros.health import CHECK_PERIOD

WIDTH, HEIGHT = 64, 48
OUTPUTS = {"segmentation/labels": Image, "points": PointCloud2}
LABELS, POINTS = OUTPUTS
OK, WARN, ERROR, STALE = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR, DiagnosticStatus.STALE
PARTS = ("frames", "stream", "camera")
SECOND = 10**9
CHEAP: dict[str, Any] = {"backend": "torch", "warm_up": False}
"""Nothing is compiled: the pictures are few, and of several sizes."""


class Gate:
    """Stands before the pipeline, and holds frames back while it is shut."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        self.reached, self.open = threading.Event(), threading.Event()
        self.open.set()

    def __call__(self, frame: Frame, outputs: Any) -> Any:
        self.reached.set()
        self.open.wait(60)
        return self.pipeline(frame, outputs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.pipeline, name)


class Feed:
    """A camera at work: each of its pictures is another one, and has the present time for a stamp."""

    def __init__(self, client: Client, prefix: str = "", calibrated: bool = True, kind: Any = Image) -> None:
        outputs = {f"{prefix}{topic}": output for topic, output in OUTPUTS.items()}
        under = f"{client._node_name.rsplit('/', 1)[0]}/{prefix}"
        info = f"{under}camera_info" if calibrated else ""
        self.client = client
        topic = f"{under}image/compressed" if kind is CompressedImage else f"{under}image"
        self.camera = Camera(client, topic, info, kind, outputs=outputs, name=prefix.rstrip("/"))
        self._seeds = itertools.count()
        if calibrated:
            self.camera.publish_info(camera_info(WIDTH, HEIGHT))

    def picture(self, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
        return noise_picture(height, width, seed=next(self._seeds))

    def send(self, message: Any = None, stamp: int | None = None, frame_id: str = "camera_optical") -> int:
        message = image(self.picture()) if message is None else message
        return self.camera.publish(message, frame_id, time.time_ns() if stamp is None else stamp)

    def exchange(self, message: Any = None, stamp: int | None = None, *topics: str) -> dict[str, Any]:
        return self.camera.answers(self.send(message, stamp), *topics)

    def until(self, what: Callable[[], Any], send: Callable[[], Any] | None = None) -> Any:
        """Pictures, until something is so."""
        deadline = time.monotonic() + 60
        while not (value := what()):
            assert time.monotonic() < deadline, f"in vain, last: {self.client.statuses}"
            (send or self.send)()
            self.client.spin_for(0.05)
        return value

    def told(self, part: str, level: bytes, words: str, send: Callable[[], Any] | None = None) -> DiagnosticStatus:
        """Pictures, until a status has this level and these words."""

        def said() -> DiagnosticStatus | None:
            status = self.client.statuses.get(part)
            return status if status is not None and status.level == level and words in status.message else None

        return self.until(said, send)

    def well(self) -> None:
        """Good pictures, until nothing is found of which the test before was the cause."""
        self.until(lambda: all(self.client.statuses[part].level == OK for part in PARTS))


@pytest.fixture(scope="module", autouse=True)
def _short_memory():
    """What happened once is told for 1 s, so that the tests need not wait longer for it to be over."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stream_watch, "LINGER", 1.0)
        yield


@contextlib.contextmanager
def apart(weights: Path, **settings: Any) -> Iterator[Client]:
    """A client of another node, with settings of its own."""
    with node_inside(weights, Gate, "/apart", **CHEAP, **settings):
        client = Client("apart", "/apart/mtl_perception", start_ns=time.time_ns())
        yield client
        client.close()


@pytest.fixture(scope="module")
def pipeline(weights_file: Path) -> Pipeline:
    return Pipeline(weights=str(weights_file), device="cpu", **CHEAP)


@pytest.fixture(scope="module")
def node(weights_file: Path):
    with node_inside(weights_file, Gate, image_timeout=1.0, **CHEAP) as node:
        yield node


@pytest.fixture(scope="module")
def client(node):
    client = Client(start_ns=time.time_ns())
    yield client
    client.close()


@pytest.fixture(scope="module")
def connected(client: Client):
    feed = Feed(client)
    feed.camera.connect(image(feed.picture()))
    return feed


@pytest.fixture
def feed(connected: Feed) -> Feed:
    connected.well()
    return connected


@pytest.fixture
def other():
    """Who publishes, too."""
    client = Client("second_camera", start_ns=time.time_ns())
    yield client
    client.close()


def assert_labels(outputs: dict[str, Any], picture: np.ndarray, pipeline: Pipeline, under: str = "") -> None:
    """They are those of this picture."""
    np.testing.assert_array_equal(labels_of(outputs[under + LABELS]), pipeline(Frame(picture), {"labels"}).labels)


# Pictures that do not come.


def test_no_camera_at_start(node, client: Client) -> None:
    status = client.wait_status("frames", lambda s: s.level == WARN)
    assert status.message == "no picture yet: /image has no publisher: remap image to the camera's topic"
    assert client.status("stream").level == OK


def test_camera_stops_and_returns(feed: Feed, client: Client, pipeline: Pipeline) -> None:
    status = client.wait_status("frames", lambda s: s.level != OK)
    assert status.level == STALE
    assert re.match(r"no picture for \d+\.\d s: /image has a publisher, which sends nothing", status.message)
    picture = feed.picture()
    assert_labels(feed.exchange(image(picture)), picture, pipeline)
    assert feed.told("frames", OK, "processing")


def test_camera_that_went_while_the_node_was_deactivated(weights_file: Path) -> None:
    with node_inside(weights_file, Gate, "/again", image_timeout=0.5, **CHEAP) as node:
        client = Client("again", "/again/mtl_perception", start_ns=time.time_ns())
        Feed(client).told("frames", OK, "processing")
        assert ask(node, client, "deactivate")
        assert node.cameras[0].watch.last is None, "its latest picture is kept"
        client.spin_for(0.6)
        assert ask(node, client, "activate")
        status = client.wait_status("frames", lambda s: s.level != OK)
        assert (status.level, status.message) == (WARN, "no picture yet: /again/image has a publisher, which sends nothing")
        client.close()


def test_silence_is_told_at_once_and_not_with_the_next_period(weights_file: Path) -> None:
    """With the default settings within two seconds: the time-out, and the look that finds it."""
    assert Config().image_timeout + 2 * CHECK_PERIOD < 2
    with apart(weights_file, image_timeout=1.0, diagnostics_period=60.0) as client:
        feed = Feed(client)
        feed.told("frames", OK, "processing")
        client.spin_until(lambda: client.statuses["frames"].level == STALE, "STALE", seconds=30)


def test_burst_gives_way_to_its_newest_picture(feed: Feed, client: Client, node, pipeline: Pipeline) -> None:
    feed.camera.settle()
    before = client.counts()
    gate = node.pipeline
    gate.reached.clear()
    gate.open.clear()
    sent = [feed.send()]
    client.spin_until(gate.reached.is_set)
    picture = feed.picture()
    for number in range(5):
        sent.append(feed.send(image(picture if number == 4 else feed.picture())))
        client.spin_until(lambda n=number: client.counts()["received"] == before["received"] + n + 2)
    gate.open.set()
    assert_labels(feed.camera.answers(sent[-1]), picture, pipeline)
    feed.camera.settle()
    after = client.counts()
    assert (after["processed"] - before["processed"], after["replaced"] - before["replaced"]) == (2, 4)
    assert not set(sent[1:-1]) & set(feed.camera.order[LABELS])
    feed.well()


# Pictures that do not change, and pictures that do.


def test_same_stamp_again_and_again(feed: Feed, client: Client, pipeline: Pipeline) -> None:
    stamp = time.time_ns()
    for count in (1, 2, 3):
        picture = feed.picture()
        feed.send(image(picture), stamp)
        client.spin_until(lambda n=count: feed.camera.order[LABELS].count(stamp) == n)
        assert_labels({LABELS: feed.camera.received[LABELS][stamp]}, picture, pipeline)
    named = f"pictures running have the stamp {stamp // SECOND}.{stamp % SECOND:09d}"
    feed.told("stream", WARN, named, lambda: feed.send(stamp=stamp))
    client.wait_status("stream", lambda s: int(values_of(s)["stamps repeated"]) >= 2)


def test_same_picture_again_and_again(feed: Feed, client: Client, pipeline: Pipeline) -> None:
    picture = feed.picture()
    status = feed.told("stream", WARN, "the picture has not changed for", lambda: feed.send(image(picture)))
    assert "frozen" in status.message
    assert client.status("frames").level == OK
    assert_labels(feed.exchange(image(picture)), picture, pipeline)
    feed.told("stream", OK, "nothing odd")


def test_change_of_size_and_encoding(feed: Feed, client: Client, pipeline: Pipeline) -> None:
    before = int(values_of(client.status("stream"))["changes of size or encoding"])
    grey = cv2.cvtColor(feed.picture(24, 32), cv2.COLOR_RGB2GRAY)

    def change() -> None:
        feed.exchange()
        feed.exchange(image(grey, "mono8"))

    status = feed.told("stream", WARN, "pictures changed from 64x48 rgb8 to 32x24 mono8", change)
    assert int(values_of(status)["changes of size or encoding"]) > before
    status = client.wait_status("camera", lambda s: s.level == WARN)
    assert status.message == "camera_info is for 64x48, scaled to the picture's 32x24"
    outputs = feed.exchange(image(grey, "mono8"))
    assert_labels(outputs, cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB), pipeline)
    assert cloud_of(outputs[POINTS]).shape == (24, 32)


def test_strange_encodings_and_frames_are_told_in_a_line(feed: Feed, client: Client) -> None:
    strange = image(feed.picture())
    strange.encoding = "rgb8\n" * 20_000
    frame = "camera\n" * 20_000
    told = feed.told("stream", WARN, "pictures changed from", lambda: feed.camera.publish(strange, frame, time.time_ns()))
    assert len(told.message) < 1000 and told.message.isprintable()
    told = feed.told("camera", WARN, "camera_info is of frame", lambda: feed.send(frame_id=frame))
    assert len(told.message) < 1000 and told.message.isprintable()
    assert all(len(value.value) < 1000 and value.value.isprintable() for value in told.values)
    feed.well()


def test_change_to_a_size_that_the_calibration_is_not_for(feed: Feed, client: Client, pipeline: Pipeline) -> None:
    picture = feed.picture(48, 48)
    outputs = feed.exchange(image(picture), None, LABELS)
    assert_labels(outputs, picture, pipeline)
    status = client.wait_status("camera", lambda s: s.level == ERROR)
    assert "no point cloud: the calibration is for 64x48, the picture has 48x48" in status.message
    feed.camera.settle()
    client.spin_for(0.1)
    assert feed.camera.order[LABELS][-1] not in feed.camera.order[POINTS]


def test_compressed_pictures_that_change_and_freeze(weights_file: Path, pipeline: Pipeline) -> None:
    def png(picture: np.ndarray) -> CompressedImage:
        return set_data(CompressedImage(format="png"), cv2.imencode(".png", picture[..., ::-1])[1].tobytes())

    with apart(weights_file, image_timeout=1.0, image_transport="compressed") as client:
        feed = Feed(client, kind=CompressedImage)
        feed.camera.connect(png(feed.picture()))
        picture = feed.picture(24, 32)

        def change() -> None:
            feed.exchange(png(feed.picture()))
            feed.exchange(png(picture))

        feed.told("stream", WARN, "pictures changed from 64x48 png to 32x24 png", change)
        feed.told("stream", WARN, "the picture has not changed for", lambda: feed.send(png(picture)))
        assert_labels(feed.exchange(png(picture)), picture, pipeline)


# Clocks.


def test_stamps_that_go_back(feed: Feed, client: Client, pipeline: Pipeline) -> None:
    """A bag that begins again: from then on its stamps are earlier."""
    start = time.time_ns() - 100 * SECOND
    picture, rounds = feed.picture(), itertools.count()
    outputs: dict[str, Any] = {}

    def begin_anew() -> None:
        first = start + next(rounds)
        feed.exchange(stamp=first + 12 * SECOND)
        outputs.update(feed.exchange(image(picture), first))

    status = feed.told("stream", WARN, "stamps went back by 12.0 s", begin_anew)
    assert_labels(outputs, picture, pipeline)
    assert int(values_of(status)["stamps that went back"]) >= 1
    ages = [value for name, value in client.values().items() if name.startswith("age of stamp")]
    assert float(ages[0]) >= 0


@pytest.mark.parametrize(
    ("stamp", "words"),
    [
        (lambda: time.time_ns() + 5 * SECOND, "ahead of the node's clock: the clocks of camera and node differ"),
        (lambda: time.time_ns() - 3 * SECOND, "behind the node's clock: pictures wait on their way"),
        (lambda: time.time_ns() - 3 * 366 * 86400 * SECOND, "3.0 years behind the node's clock: a recording"),
        (lambda: 12 * SECOND + time.time_ns() % SECOND, "they are simulated time (set use_sim_time)"),
        (lambda: 0, "stamps are zero: the driver does not stamp its pictures"),
    ],
    ids=["future", "past", "recording", "simulation", "zero"],
)
def test_stamps_of_another_clock(feed: Feed, client: Client, pipeline: Pipeline, stamp: Callable[[], int], words: str) -> None:
    picture, stamped = feed.picture(), stamp()
    assert_labels(feed.exchange(image(picture), stamped), picture, pipeline)
    feed.told("stream", WARN, words, lambda: feed.send(stamp=stamp()))
    age = client.values()["age of stamp median [ms]"]
    assert age == "-" or 0 <= float(age) < 60_000
    feed.told("stream", OK, "nothing odd")


def test_simulated_time(weights_file: Path, pipeline: Pipeline) -> None:
    """Without /clock, with it, with pictures of another clock, and reset."""
    with apart(weights_file, use_sim_time=True) as client:
        feed = Feed(client)
        feed.told("stream", WARN, "use_sim_time is set, but nothing came on /clock yet")
        clock = client.node.create_publisher(Clock, "/clock", profile())
        now = itertools.count(1000 * SECOND, SECOND // 20)

        def simulated(offset: int = 0, message: Any = None) -> int:
            time_ns = next(now)
            message_of_clock = Clock()
            message_of_clock.clock.sec, message_of_clock.clock.nanosec = divmod(time_ns, SECOND)
            clock.publish(message_of_clock)
            client.spin_for(0.02)
            return feed.send(message, time_ns + offset)

        feed.told("stream", OK, "nothing odd", simulated)
        feed.told("stream", WARN, "ahead of simulated time: they are not of /clock", lambda: simulated(10**9 * SECOND))
        feed.told("stream", OK, "nothing odd", simulated)
        now = itertools.count(5 * SECOND, SECOND // 20)
        picture = feed.picture()
        assert_labels(feed.camera.answers(simulated(message=image(picture))), picture, pipeline)
        feed.told("stream", WARN, "stamps went back by", simulated)
        feed.told("stream", OK, "nothing odd", simulated)


# Topics.


def test_two_publishers_of_pictures(feed: Feed, other: Client, pipeline: Pipeline) -> None:
    second = other.node.create_publisher(Image, "/image", profile())
    feed.told("camera", WARN, "/image has 2 publishers (/client, /second_camera), whose pictures are mixed")
    other.spin_until(second.get_subscription_count)
    picture, stamp = feed.picture(), -1

    def answered() -> bool:
        return stamp in feed.camera.received[LABELS]

    def send() -> None:
        nonlocal stamp
        message, stamp = image(picture), time.time_ns()
        put_header(message, stamp, "second_optical")
        second.publish(message)

    feed.until(answered, send)
    assert_labels(feed.camera.answers(stamp), picture, pipeline)
    assert feed.camera.received[LABELS][stamp].header.frame_id == "second_optical"
    other.node.destroy_publisher(second)
    feed.told("camera", OK, "camera_info in use")


def test_two_publishers_of_camera_info_one_of_them_uncalibrated(feed: Feed, other: Client, pipeline: Pipeline) -> None:
    second = Camera(other, info="/camera_info", outputs={})
    second.publish_info(camera_info(WIDTH, HEIGHT, k=[0.0] * 9))
    status = feed.told("camera", ERROR, "/camera_info has 2 publishers (/client, /second_camera), whose calibrations are mixed")
    assert status.message.startswith("no point cloud: camera is uncalibrated")
    picture = feed.picture()
    assert_labels(feed.exchange(image(picture), None, LABELS), picture, pipeline)
    second.close()
    feed.camera.publish_info(camera_info(WIDTH, HEIGHT))
    feed.told("camera", OK, "camera_info in use")


def test_pictures_without_a_frame_id(feed: Feed, client: Client) -> None:
    stamp = feed.send(frame_id="")
    assert all(output.header.frame_id == "" for output in feed.camera.answers(stamp).values())
    status = client.wait_status("camera", lambda s: s.level == WARN)
    assert status.message == "pictures have no frame_id: no transform can be found for the outputs"


def test_camera_info_that_stops_stays_in_use_and_one_that_changes_holds_from_then_on(feed: Feed, client: Client) -> None:
    def focal_length(outputs: dict[str, Any]) -> float:
        points = cloud_of(outputs[POINTS])
        seen = np.isfinite(points["z"])
        slopes = np.broadcast_to(np.arange(WIDTH) - (WIDTH / 2 - 1.25), seen.shape)[seen]
        return float(np.median(slopes * points["z"][seen] / points["x"][seen]))

    before = int(values_of(client.status("camera"))["camera_info changes"])
    for _ in range(20):
        assert focal_length(feed.exchange()) == pytest.approx(60, rel=1e-4)
    assert (client.status("camera").level, client.statuses["camera"].message) == (OK, "camera_info in use")
    feed.camera.publish_info(camera_info(WIDTH, HEIGHT, fx=90.0))
    client.wait_status("camera", lambda s: int(values_of(s)["camera_info changes"]) == before + 1)
    assert focal_length(feed.exchange()) == pytest.approx(90, rel=1e-4)
    assert client.status("camera").level == OK
    feed.camera.publish_info(camera_info(WIDTH, HEIGHT))


def test_camera_info_that_never_comes_and_then_late(weights_file: Path, pipeline: Pipeline) -> None:
    with apart(weights_file) as client:
        feed = Feed(client, calibrated=False)
        picture = feed.picture()
        feed.camera.connect(image(picture), LABELS)
        assert_labels(feed.exchange(image(picture), None, LABELS), picture, pipeline)
        words = "no point cloud: no camera_info yet: /apart/camera_info has no publisher: remap camera_info to"
        feed.told("camera", WARN, words)
        assert not feed.camera.order[POINTS]
        late = Camera(client, "/apart/image", "/apart/camera_info", outputs={})
        late.publish_info(camera_info(WIDTH, HEIGHT))
        client.node.destroy_publisher(late.images)
        feed.told("camera", OK, "camera_info in use")
        assert cloud_of(feed.exchange()[POINTS]).shape == (HEIGHT, WIDTH)


def test_remapping_of_image_where_cameras_have_names(weights_file: Path, pipeline: Pipeline) -> None:
    with apart(weights_file, remap=("image:=/cam/image_raw",), cameras=["front"]) as client:
        feed = Feed(client, "front/")
        words = "the remapping of image to /cam/image_raw has no effect, as there are several cameras: remap front/image"
        feed.told("front: camera", WARN, words)
        picture = feed.picture()
        assert_labels(feed.exchange(image(picture)), picture, pipeline, "front/")
        assert client.status("front: frames").level == OK
