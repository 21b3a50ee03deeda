"""Bags for tests, written by rosbags."""

from __future__ import annotations

import struct
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
from rosbags.rosbag1 import Writer as Ros1Writer
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

ROS1 = get_typestore(Stores.ROS1_NOETIC)
ROS2 = get_typestore(Stores.ROS2_JAZZY)
KINDS = ("ros1", "db3", "mcap")
START_NS = 1_700_000_000_123_456_789
STEP_NS = 50_000_000
DELAY_NS = 7_000_000
"""Delay between the stamp of an image and its time in the bag."""

IMAGE = "sensor_msgs/msg/Image"
COMPRESSED_IMAGE = "sensor_msgs/msg/CompressedImage"
CAMERA_INFO = "sensor_msgs/msg/CameraInfo"


def bag_image(seed: int, height: int = 24, width: int = 32) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


class Messages:
    """Factory of ROS 1 or ROS 2 messages."""

    def __init__(self, ros1: bool = False) -> None:
        self.ros1 = ros1
        self.store = ROS1 if ros1 else ROS2

    def header(self, stamp_ns: int, frame_id: str = "front_optical"):
        stamp = self.store.types["builtin_interfaces/msg/Time"](*divmod(stamp_ns, 1_000_000_000))
        number = {"seq": 7} if self.ros1 else {}
        return self.store.types["std_msgs/msg/Header"](stamp=stamp, frame_id=frame_id, **number)

    def image(self, rgb: np.ndarray, stamp_ns: int, encoding: str = "rgb8"):
        height, width = rgb.shape[:2]
        return self.store.types[IMAGE](
            self.header(stamp_ns), height, width, encoding, 0, rgb.nbytes // height, np.frombuffer(rgb.tobytes(), np.uint8)
        )

    def compressed(self, rgb: np.ndarray, stamp_ns: int, suffix: str = ".png"):
        data = cv2.imencode(suffix, rgb[..., ::-1])[1].reshape(-1)
        return self.store.types[COMPRESSED_IMAGE](self.header(stamp_ns), suffix[1:], data)

    def camera_info(self, fx: float, stamp_ns: int = 0, width: int = 32, height: int = 24):
        k = np.array([fx, 0, 15.5, 0, fx + 1, 11.5, 0, 0, 1.0])
        p = np.array([fx, 0, 15.5, 0, 0, fx + 1, 11.5, 0, 0, 0, 1.0, 0])
        roi = self.store.types["sensor_msgs/msg/RegionOfInterest"](0, 0, 0, 0, False)
        fields = (self.header(stamp_ns), height, width, "plumb_bob", np.zeros(5), k, np.eye(3).reshape(-1), p, 0, 0, roi)
        return self.store.types[CAMERA_INFO](*fields)

    def serialize(self, message) -> bytes:
        serialize = self.store.serialize_ros1 if self.ros1 else self.store.serialize_cdr
        return bytes(serialize(message, message.__msgtype__))


def write_bag(path: Path, kind: str, records, compression: str = "") -> Path:
    """Write a bag with rosbags; `records` are (topic, message or (type, bytes), bag time in ns)."""
    messages = Messages(kind == "ros1")
    if kind == "ros1":
        path = path.with_suffix(".bag")
        writer = Ros1Writer(path)
        if compression:
            writer.set_compression(Ros1Writer.CompressionFormat[compression.upper()])
        options = {"typestore": ROS1}
    else:
        writer = Writer(path, version=9, storage_plugin=StoragePlugin.MCAP if kind == "mcap" else StoragePlugin.SQLITE3)
        if compression:
            writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
        options = {"typestore": ROS2}
    with writer:
        connections = {}
        for topic, message, time_ns in records:
            msgtype, data = message if isinstance(message, tuple) else (message.__msgtype__, messages.serialize(message))
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, msgtype, **options)
            writer.write(connections[topic], time_ns, data)
    return path


def write_mcap(path: Path, encoding: str, records, chunked: bool = True) -> Path:
    """Write an .mcap file whose messages have another encoding, with a chunk for each message or without chunks and index.

    Args:
        path: The file.
        encoding: "ros1", or the encoding to claim for messages in CDR.
        records: As for `write_bag`.
        chunked: Whether there are chunks with an index.
    """
    messages = Messages(encoding == "ros1")

    def text(value: str) -> bytes:
        return struct.pack("<I", len(value.encode())) + value.encode()

    def record(opcode: int, content: bytes) -> bytes:
        return struct.pack("<BQ", opcode, len(content)) + content

    def number_map(numbers: dict[int, int]) -> bytes:
        return struct.pack("<I", 10 * len(numbers)) + b"".join(struct.pack("<HQ", *entry) for entry in numbers.items())

    magic = b"\x89MCAP0\r\n"
    data = magic + record(0x01, text("ros1" if messages.ros1 else "") + text("test"))
    channels: dict[str, int] = {}
    counts: Counter[int] = Counter()
    declared, indexes = b"", b""
    for topic, message, time_ns in records:
        new = b""
        if topic not in channels:
            number = channels[topic] = len(channels) + 1
            name = message.__msgtype__.replace("/msg/", "/") if messages.ros1 else message.__msgtype__
            new = record(0x03, struct.pack("<H", number) + text(name) + text("ros1msg") + text(""))
            new += record(0x04, struct.pack("<HH", number, number) + text(topic) + text(encoding) + number_map({}))
        number = channels[topic]
        counts[number] += 1
        declared += new
        new += record(0x05, struct.pack("<HIQQ", number, 0, time_ns, time_ns) + messages.serialize(message))
        if chunked:
            chunk = record(
                0x06, struct.pack("<QQQI", time_ns, time_ns, len(new), 0) + text("") + struct.pack("<Q", len(new)) + new
            )
            place = struct.pack("<QQQQ", time_ns, time_ns, len(data), len(chunk))
            indexes += record(0x08, place + number_map({number: 0}) + struct.pack("<Q", 0) + text("") + bytes(16))
            new = chunk
        data += new
    data += record(0x0F, bytes(4))
    start = len(data) if chunked else 0
    if chunked:
        statistics = struct.pack("<QHIIIIQQ", counts.total(), len(channels), len(channels), 0, 0, counts.total(), 0, 0)
        data += declared + indexes + record(0x0B, statistics + number_map(counts))
    data += record(0x02, struct.pack("<QQI", start, 0, 0)) + magic
    path.write_bytes(data)
    return path


def drive(kind: str, count: int = 4, size: tuple[int, int] = (24, 32), topic: str = "/cam/image_raw"):
    """Yield records of `count` images, each after its camera_info."""
    make = Messages(kind == "ros1")
    for i in range(count):
        stamp = START_NS + i * STEP_NS
        info = topic.rpartition("/")[0] + "/camera_info"
        yield info, make.camera_info(40.0, stamp, size[1], size[0]), stamp + DELAY_NS - 1
        yield topic, make.image(bag_image(i, *size), stamp), stamp + DELAY_NS


def write_drive(path: Path, count: int) -> Path:
    """Write an .mcap file with `count` images."""
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = write_bag(path.parent / "scratch", "mcap", drive("mcap", count))
    (file,) = folder.glob("*.mcap")
    file.rename(path)
    (folder / "metadata.yaml").unlink()
    folder.rmdir()
    return path


def assert_drive(frames, count: int = 4, size: tuple[int, int] = (24, 32)) -> None:
    assert len(frames) == count
    for i, frame in enumerate(frames):
        np.testing.assert_array_equal(frame.image, bag_image(i, *size))
        assert frame.stamp_ns == START_NS + i * STEP_NS
        assert frame.frame_id == "front_optical"
        assert (frame.camera.width, frame.camera.height) == size[::-1]
        assert (frame.camera.fx, frame.camera.fy, frame.camera.cx, frame.camera.cy) == (40, 41, 15.5, 11.5)


def read_until_error(source, frames) -> None:
    """Append the frames of the source to `frames`, so that those before an error are kept."""
    for frame in source:
        frames.append(frame)
