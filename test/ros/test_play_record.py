"""The commands `play` and `record`."""

from __future__ import annotations

import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs rclpy")
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.time import Time
from rosbags.highlevel import AnyReader
from rosbags.typesys import Stores, get_typestore
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import String
from support.bags import START_NS as BAG_START_NS
from support.bags import STEP_NS, bag_image, drive, write_bag
from support.node_process import Process
from support.ros_client import Client, profile
from support.ros_messages import camera_info, image, put_header, stamp_of

from mtl_perception.camera.transforms import link_transforms
from mtl_perception.errors import SourceError
from mtl_perception.ros import static_transforms
from mtl_perception.ros.record import DEFAULT_TOPICS, Recorder
from mtl_perception.ros.static_transforms import publish_static_transforms
from mtl_perception.sources.bag.reader import deserialize, open_bag


class Listener:
    """Subscriptions to all topics of the player."""

    def __init__(self, image_topic: str = "/image", info_topic: str = "/camera_info") -> None:
        self.client = Client("listener")
        self.images: list[Image] = []
        self.infos: list[CameraInfo] = []
        self.clocks: list[int] = []
        node, quality = self.client.node, profile(depth=100)
        node.create_subscription(Image, image_topic, self.images.append, quality)
        node.create_subscription(CameraInfo, info_topic, self.infos.append, quality)
        node.create_subscription(Clock, "/clock", lambda m: self.clocks.append(m.clock.sec * 10**9 + m.clock.nanosec), quality)

    def pixels(self) -> list[np.ndarray]:
        assert all((m.encoding, m.step) == ("rgb8", 3 * m.width) for m in self.images)
        return [np.frombuffer(m.data, np.uint8).reshape(m.height, m.width, 3) for m in self.images]


@pytest.fixture
def listener():
    listener = Listener()
    yield listener
    listener.client.close()


@pytest.fixture
def play(tmp_path: Path):
    """A function that starts `play`; processes are ended after the test."""
    running = []

    def start(*arguments: str, **options: Any) -> Process:
        running.append(Process(["play", *arguments], tmp_path / f"play{len(running)}.log", **options))
        return running[-1]

    yield start
    for process in running:
        process.stop()


def test_bag_is_published_as_recorded(tmp_path: Path, listener: Listener, play) -> None:
    bag = write_bag(tmp_path / "drive", "mcap", drive("mcap", count=4))
    process = play(str(bag), "--subscribers", "1", "--clock", forked=False)
    listener.client.spin_until(lambda: len(listener.images) >= 4 and len(listener.infos) >= 4, "four images")
    assert process.wait() == 0
    stamps = [BAG_START_NS + i * STEP_NS for i in range(4)]
    assert [stamp_of(message) for message in listener.images] == stamps
    assert [stamp_of(message) for message in listener.infos] == stamps
    assert {message.header.frame_id for message in (*listener.images, *listener.infos)} == {"front_optical"}
    for i, pixels in enumerate(listener.pixels()):
        np.testing.assert_array_equal(pixels, bag_image(i))
    info = listener.infos[-1]
    assert (info.width, info.height, info.p[0], info.p[5], info.p[2], info.p[6]) == (32, 24, 40.0, 41.0, 15.5, 11.5)
    assert set(listener.clocks) <= set(stamps)
    assert listener.clocks == sorted(listener.clocks)


def test_image_folder_loops_restamped_until_a_signal(tmp_path: Path, listener: Listener, play) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(3):
        cv2.imwrite(str(folder / f"{i}.png"), bag_image(i)[..., ::-1])
    calibration = tmp_path / "camera.yaml"
    calibration.write_text(
        "image_width: 32\nimage_height: 24\ncamera_name: front\n"
        "camera_matrix: {rows: 3, cols: 3, data: [30, 0, 16, 0, 31, 12, 0, 0, 1]}\n"
        "distortion_model: plumb_bob\ndistortion_coefficients: {rows: 1, cols: 5, data: [0, 0, 0, 0, 0]}\n"
        "rectification_matrix: {rows: 3, cols: 3, data: [1, 0, 0, 0, 1, 0, 0, 0, 1]}\n"
        "projection_matrix: {rows: 3, cols: 4, data: [30, 0, 16, 0, 0, 31, 12, 0, 0, 0, 1, 0]}\n"
    )
    begun = listener.client.node.get_clock().now().nanoseconds
    process = play(str(folder), "--camera", str(calibration), "--loop", "--stamps", "now", "--subscribers", "1")
    listener.client.spin_until(lambda: len(listener.images) >= 8, "eight images of three")
    assert process.stop(signal.SIGINT) == 0
    assert "Traceback" not in process.output
    assert "publishing images (32x24, 10 Hz) on /image and /camera_info\n" in process.output
    stamps = [stamp_of(message) for message in listener.images]
    assert stamps == sorted(set(stamps))
    assert begun < stamps[0]
    assert stamps[-1] < listener.client.node.get_clock().now().nanoseconds
    # Images without stamps are played at 10 Hz, also from the last to the first one.
    assert min(np.diff(stamps)) > 0.05e9
    order = [next(i for i in range(3) if np.array_equal(pixels, bag_image(i))) for pixels in listener.pixels()]
    assert order == [(order[0] + i) % 3 for i in range(len(order))]
    assert (listener.infos[0].k[0], listener.infos[0].p[5]) == (30.0, 31.0)


def test_images_without_calibration_are_published_without_camera_info(tmp_path: Path, listener: Listener, play) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), bag_image(0)[..., ::-1])
    process = play(str(tmp_path / "a.png"), "--loop", "--rate", "2", "--subscribers", "1")
    count = listener.client.node.count_publishers
    listener.client.spin_until(lambda: len(listener.images) >= 2 and not count("/camera_info"), "images alone")
    assert process.stop(signal.SIGINT) == 0
    assert (
        "a.png: frames have no camera, so there are no clouds; give --camera FILE, or put camera.yaml into the folder\n"
        in process.output
    )
    assert "publishing a.png (32x24, 20 Hz) on /image\n" in process.output


@pytest.mark.parametrize("options", [[], ["--loop"], ["--preload"]])
def test_source_without_a_readable_image_fails(tmp_path: Path, play, options: list[str]) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        (folder / name).write_bytes(b"not an image")
    process = play(str(folder), *options)
    assert process.wait() == 1
    line = "mtl_perception play: images: no frame was published, 2 rejected {'unreadable': 2}"
    assert process.output.strip().splitlines()[-1] == line


def test_frames_before_the_damage_are_published(tmp_path: Path, listener: Listener, play) -> None:
    content = next(write_bag(tmp_path / "drive", "mcap", drive("mcap", count=4)).glob("*.mcap")).read_bytes()
    # In the middle of the last image.
    (tmp_path / "cut.mcap").write_bytes(content[: content.rindex(bag_image(3).tobytes()) + 100])
    process = play(str(tmp_path / "cut.mcap"), "--subscribers", "1", "--rate", "5")
    listener.client.spin_until(lambda: len(listener.images) >= 3, "three images")
    assert process.wait() == 1
    assert "cut.mcap is damaged: the file ends within a record" in process.output.strip().splitlines()[-1]
    assert [stamp_of(message) for message in listener.images] == [BAG_START_NS + i * STEP_NS for i in range(3)]


def test_sigterm_ends_the_player(tmp_path: Path, listener: Listener, play) -> None:
    bag = write_bag(tmp_path / "drive", "mcap", drive("mcap", count=4))
    process = play(str(bag), "--loop", "--rate", "5")
    listener.client.spin_until(lambda: len(listener.images) >= 5, "images")
    assert process.stop(signal.SIGTERM) == 0
    assert "Traceback" not in process.output


def test_time_continues_when_a_bag_loops(tmp_path: Path, listener: Listener, play) -> None:
    """RViz and tf2 drop everything when /clock jumps back."""
    bag = write_bag(tmp_path / "drive", "mcap", drive("mcap", count=4))
    process = play(str(bag), "--loop", "--clock", "--subscribers", "1")
    listener.client.spin_until(lambda: len(listener.images) >= 11, "eleven images of four")
    assert process.stop(signal.SIGINT) == 0
    stamps = [stamp_of(message) for message in listener.images]
    assert stamps == [BAG_START_NS + i * STEP_NS for i in range(len(stamps))]
    assert listener.clocks == sorted(listener.clocks)
    for i, pixels in enumerate(listener.pixels()):
        np.testing.assert_array_equal(pixels, bag_image(i % 4))


class FakeNode:
    """Test double of a node that records what is published, because tf2_msgs may be missing."""

    def __init__(self) -> None:
        self.topics: list = []
        self.published: list = []
        self.log: list[str] = []

    def create_publisher(self, kind: type, topic: str, profile: QoSProfile) -> FakeNode:
        self.topics.append((kind, topic, profile))
        return self

    def publish(self, message: object) -> None:
        self.published.append(message)

    def get_logger(self) -> FakeNode:
        return self

    def info(self, text: str) -> None:
        self.log.append(text)

    def get_clock(self) -> FakeNode:
        return self

    def now(self) -> Time:
        return Time(seconds=3)


def test_static_transforms_are_latched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(static_transforms, "TFMessage", SimpleNamespace)
    node = FakeNode()
    assert publish_static_transforms(node, link_transforms("camera_optical_frame")) is node
    ((kind, topic, quality),) = node.topics
    assert (kind, topic) == (SimpleNamespace, "/tf_static")
    assert (quality.durability, quality.reliability) == (DurabilityPolicy.TRANSIENT_LOCAL, ReliabilityPolicy.RELIABLE)
    (message,) = node.published
    (entry,) = message.transforms
    assert (entry.header.frame_id, entry.child_frame_id, entry.header.stamp.sec) == ("camera_link", "camera_optical_frame", 3)
    rotation = entry.transform.rotation
    assert (rotation.x, rotation.y, rotation.z, rotation.w) == pytest.approx((-0.5, 0.5, -0.5, 0.5))


def test_missing_tf2_msgs_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(static_transforms, "TFMessage", None)
    node = FakeNode()
    assert publish_static_transforms(node, link_transforms("camera_optical_frame")) is None
    assert node.published == []
    assert node.log == ["static transforms are not published: tf2_msgs is not installed"]
    assert publish_static_transforms(node, []) is None
    assert len(node.log) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["--rate", "0"], "--rate must be above 0"), (["--ros-args", "-r", "image"], "image")],
    ids=["rate", "remapping"],
)
def test_invalid_arguments_exit_with_one_line(tmp_path: Path, play, arguments: list[str], words: str) -> None:
    cv2.imwrite(str(tmp_path / "image.png"), bag_image(0))
    process = play(str(tmp_path), *arguments)
    assert process.wait() == 2
    assert words in process.output.strip().splitlines()[-1]
    assert "Traceback" not in process.output


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_recording_reads_back_equal(tmp_path: Path, number: signal.Signals) -> None:
    out = tmp_path / "recording.mcap"
    arguments = ["record", "/image", "/camera_info", "/extra/", "--out", str(out)]
    process = Process(arguments, tmp_path / "record.log", forked=number != signal.SIGINT)
    client = Client("source")
    try:
        images = client.node.create_publisher(Image, "/image", profile(reliable=False))
        infos = client.node.create_publisher(CameraInfo, "/camera_info", profile(latched=True, depth=1))
        words = client.node.create_publisher(String, "/extra/words", profile())
        unwanted = client.node.create_publisher(String, "/extras", profile())
        info = camera_info(32, 24)
        put_header(info, 5, "front")
        infos.publish(info)  # Before there is a subscriber.
        for publisher in (images, infos, words):
            client.spin_until(lambda publisher=publisher: publisher.get_subscription_count() == 1, publisher.topic_name)
        for topic in ("/image", "/camera_info", "/extra/words"):
            process.wait_for_output(f"recording {topic}")
        client.spin_for(0.5)
        sent = []
        for i in range(10):
            message = image(bag_image(i))
            put_header(message, BAG_START_NS + i, "front")
            images.publish(message)
            words.publish(String(data=f"word {i} é"))
            unwanted.publish(String(data="not this"))
            sent.append(message)
            client.spin_for(0.05)
        client.spin_for(0.5)
        assert process.stop(number) == 0, process.output
    finally:
        process.stop()
        client.close()
    assert "Traceback" not in process.output
    read: dict[str, list] = {}
    with AnyReader([out], default_typestore=get_typestore(Stores.ROS2_JAZZY)) as reader:
        for connection, _, data in reader.messages():
            read.setdefault(connection.topic, []).append(reader.deserialize(data, connection.msgtype))
        kept = {connection.topic: connection.ext.offered_qos_profiles for connection in reader.connections}
    assert set(read) == {"/image", "/camera_info", "/extra/words"}
    assert [message.data for message in read["/extra/words"]] == [f"word {i} é" for i in range(10)]
    by_stamp = {stamp_of(message): message for message in sent}
    stamps = [stamp_of(message) for message in read["/image"]]
    assert stamps == sorted(set(stamps))
    assert len(stamps) >= 5  # Best effort.
    for message in read["/image"]:
        original = by_stamp[stamp_of(message)]
        assert message.data.tobytes() == bytes(original.data)
        assert (message.height, message.width, message.encoding, message.header.frame_id) == (24, 32, "rgb8", "front")
    (found,) = read["/camera_info"]
    np.testing.assert_array_equal(found.p, info.p)
    assert kept["/camera_info"][0].durability.name == "TRANSIENT_LOCAL"


def test_recording_starts_on_the_first_message_of_a_topic(tmp_path: Path) -> None:
    out = tmp_path / "recording.mcap"
    arguments = ["/image", "/camera_info", "/extra/", "--start-on", "/image", "--out", str(out)]
    process = Process(["record", *arguments], tmp_path / "record.log")
    client = Client("source")
    try:
        images = client.node.create_publisher(Image, "/image", profile())
        infos = client.node.create_publisher(CameraInfo, "/camera_info", profile())
        words = client.node.create_publisher(String, "/extra/words", profile())
        parts = client.node.create_publisher(String, "/extra/parts", profile(latched=True, depth=1))
        parts.publish(String(data="one"))
        for publisher in (images, infos, words, parts):
            client.spin_until(lambda publisher=publisher: publisher.get_subscription_count() == 1, publisher.topic_name)
        for topic in ("/image", "/camera_info", "/extra/words", "/extra/parts"):
            process.wait_for_output(f"recording {topic}")
        client.spin_for(0.5)
        parts.publish(String(data="two"))
        info = camera_info(32, 24)
        put_header(info, 7, "front")
        infos.publish(info)
        for i in range(10):
            words.publish(String(data=f"before {i}"))
            client.spin_for(0.05)
        client.spin_for(0.5)
        for i in range(3):
            message = image(bag_image(i))
            put_header(message, BAG_START_NS + i, "front")
            images.publish(message)
            client.spin_for(0.2)
            words.publish(String(data=f"after {i}"))
            client.spin_for(0.2)
        assert process.stop() == 0, process.output
    finally:
        process.stop()
        client.close()
    records: list[tuple[str, int, object]] = []
    with AnyReader([out], default_typestore=get_typestore(Stores.ROS2_JAZZY)) as reader:
        for connection, time_ns, data in reader.messages():
            records.append((connection.topic, time_ns, reader.deserialize(data, connection.msgtype)))
    start = next(time_ns for topic, time_ns, _ in records if topic == "/image")
    assert min(time_ns for _, time_ns, _ in records) == start
    texts = [message.data for topic, _, message in records if topic == "/extra/words"]
    assert texts == ["before 9", "after 0", "after 1", "after 2"]
    assert [message.data for topic, _, message in records if topic == "/extra/parts"] == ["one", "two"]
    assert [stamp_of(message) for topic, _, message in records if topic == "/camera_info"] == [7]
    assert [stamp_of(message) for topic, _, message in records if topic == "/image"] == [BAG_START_NS + i for i in range(3)]


def test_recording_without_topics_leaves_an_empty_bag_or_none(tmp_path: Path) -> None:
    out = tmp_path / "recording.mcap"
    process = Process(["record", "/nothing", "--out", str(out)], tmp_path / "record.log")
    client = Client("watcher")
    try:
        client.spin_until(lambda: "recorder" in client.node.get_node_names())
        assert process.stop(signal.SIGINT) == 0, process.output
    finally:
        process.stop()
        client.close()
    assert "0 messages" in process.output


def test_killed_recorder_leaves_small_messages_under_a_visible_name(tmp_path: Path) -> None:
    """A chunk of 1 MiB would not be full for hours."""
    out, partial = tmp_path / "bags" / "drive.mcap", tmp_path / "bags" / "drive.partial.mcap"
    process = Process(["record", "/words", "--out", str(out)], tmp_path / "record.log")
    client = Client("source")
    try:
        words = client.node.create_publisher(String, "/words", profile())
        client.spin_until(lambda: words.get_subscription_count() == 1, "the recorder")
        process.wait_for_output("recording /words")
        for i in range(3):
            words.publish(String(data=f"word {i}"))
        client.spin_until(lambda: partial.stat().st_size > 300, "messages on the disk")
        process.stop(signal.SIGKILL)
    finally:
        process.stop()
        client.close()
    assert [path.name for path in out.parent.iterdir()] == ["drive.partial.mcap"]
    read = []
    with pytest.raises(SourceError, match="the recording was not finished"):
        for message in open_bag(partial).messages(["/words"]):
            read.append(deserialize(message).data)
    assert read[:1] == ["word 0"]
    process = Process(["record", "/words", "--out", str(out)], tmp_path / "record2.log")
    assert process.wait() == 1
    assert f"left {partial}; read it as it is" in process.output


def test_existing_recording_is_not_overwritten(tmp_path: Path) -> None:
    out = tmp_path / "recording.mcap"
    out.write_bytes(b"precious")
    process = Process(["record", "--out", str(out)], tmp_path / "record.log")
    assert process.wait() == 1
    assert "already exists" in process.output
    assert out.read_bytes() == b"precious"


def test_prefix_selects_no_redundant_output() -> None:
    recorder = Recorder.__new__(Recorder)
    recorder._topics = DEFAULT_TOPICS
    selected = {"/image", "/mtl_perception/points", "/mtl_perception/front/points", "/diagnostics"}
    others = {"/image2", "/mtl_perception/segmentation/points", "/mtl_perception/front/segmentation/points"}
    assert {topic for topic in selected | others if recorder._is_selected(topic)} == selected
    recorder._topics = ("/mtl_perception/segmentation/points",)
    assert recorder._is_selected("/mtl_perception/segmentation/points")
