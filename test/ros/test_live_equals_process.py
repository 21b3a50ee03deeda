"""Outputs of the node and of `process` for the same images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs rclpy")
from rosbags.highlevel import AnyReader
from rosbags.typesys import Stores, get_typestore
from sensor_msgs.msg import PointCloud2
from support.bags import Messages, write_bag
from support.images import noise_image
from support.node_process import node_process
from support.ros_client import START_NS, Camera, Client
from support.ros_messages import OUTPUTS, camera_info, image, stamp_of

from mtl_perception.__main__ import main

FRAMES = 5
SIZES = [(64, 96)] * 3 + [(48, 72)] * 2
"""Images whose size changes, with the same aspect ratio; those of one size are alike, so that they are smoothed."""
TOPICS = {**OUTPUTS, "segmentation/points": PointCloud2}
SETTINGS = {
    "output_scale": 0.5,
    "max_depth": 60.0,
    "min_confidence": 0.3,
    "overlay_opacity": 0.7,
    "input_rectified": False,
    "points_edge_filter": 1.0,
    "points_stride": 3,
    "temporal_smoothing": 0.5,
}


def source_images() -> list[np.ndarray]:
    return [np.clip(noise_image(*size).astype(int) + 2 * i, 0, 255).astype(np.uint8) for i, size in enumerate(SIZES)]


def info_values() -> dict:
    return {"distortion_model": "plumb_bob", "d": [-0.2, 0.05, 0.001, -0.001, 0.0]}


def write_recording(folder: Path) -> Path:
    make = Messages()
    ros = camera_info(96, 64, **info_values())
    records = []
    for i, rgb in enumerate(source_images()):
        stamp = START_NS + i * 10**8
        roi = make.store.types["sensor_msgs/msg/RegionOfInterest"](0, 0, 0, 0, False)
        arrays = (np.array(values, np.float64) for values in (ros.d, ros.k, ros.r, ros.p))
        info = make.store.types["sensor_msgs/msg/CameraInfo"](
            make.header(stamp), 64, 96, ros.distortion_model, *arrays, 0, 0, roi
        )
        records += [("/camera_info", info, stamp), ("/image", make.image(rgb, stamp), stamp + 1)]
    return write_bag(folder / "recording", "mcap", records)


def offline(recording: Path, weights: str | Path, out: Path, **settings: object) -> dict[str, dict[int, object]]:
    settings = {**SETTINGS, **settings}
    arguments = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items() if value is not False]
    arguments += [f"--no-{name.replace('_', '-')}" for name, value in settings.items() if value is False]
    command = ["process", str(recording), "--out", str(out), f"--weights={weights}"]
    assert main([*command, *arguments, "--topics", *TOPICS]) == 0
    messages: dict[str, dict[int, object]] = {topic: {} for topic in TOPICS}
    with AnyReader([out], default_typestore=get_typestore(Stores.ROS2_JAZZY)) as reader:
        for connection, _, data in reader.messages():
            topic = connection.topic.removeprefix("/mtl_perception/")
            if topic in messages:
                message = reader.deserialize(data, connection.msgtype)
                messages[topic][stamp_of(message)] = message
    return messages


def live(weights: str | Path, log: Path, **settings: object) -> dict[str, dict[int, object]]:
    words = [word for name, value in {**SETTINGS, **settings}.items() for word in ("-p", f"{name}:={value}")]
    with node_process(log, "-p", f"weights:={weights}", "-p", "diagnostics_period:=0.1", *words):
        client = Client(start_ns=1)
        camera = Camera(client, outputs=TOPICS)
        info = camera_info(96, 64, **info_values())
        camera.publish_info(info, "front_optical")
        camera.connect(image(source_images()[0]))
        for i, rgb in enumerate(source_images()):
            message = image(rgb)
            stamp = START_NS + i * 10**8
            client.next_stamp = lambda stamp=stamp: stamp
            camera.publish(message, "front_optical")
            camera.answers(stamp)
        camera.close()
        client.close()
        # Outputs of the images sent by connect(), which have small stamps, may arrive at any time.
        return {topic: {at: kept for at, kept in found.items() if at >= START_NS} for topic, found in camera.received.items()}


def differences(offline: object, live: object, path: str = "") -> list[str]:
    """Return the paths of fields that differ between a message of rosbags and one of rclpy."""
    found = []
    for name in live.get_fields_and_field_types():
        one, other = getattr(offline, name), getattr(live, name)
        if hasattr(other, "get_fields_and_field_types"):
            found += differences(one, other, f"{path}{name}.")
        elif isinstance(other, list):
            assert len(one) == len(other), f"{path}{name}"
            found += [text for i in range(len(other)) for text in differences(one[i], other[i], f"{path}{name}[{i}].")]
        elif isinstance(other, str | int | float):
            found += [] if one == other else [f"{path}{name}"]
        else:
            same = np.asarray(one).tobytes() == np.asarray(other).tobytes()
            found += [] if same else [f"{path}{name}"]
    return found


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_live_and_offline_outputs_are_identical(tmp_path: Path, weights_file: Path, precision: str) -> None:
    # The random weights have no table for int8.
    weights = weights_file if precision == "fp32" else "street"
    expected = offline(write_recording(tmp_path), weights, tmp_path / "processed", precision=precision)
    found = live(weights, tmp_path / "node.log", precision=precision)
    for topic in TOPICS:
        assert list(expected[topic]) == sorted(found[topic]) == [START_NS + i * 10**8 for i in range(FRAMES)], topic
        for stamp, message in expected[topic].items():
            assert differences(message, found[topic][stamp]) == [], topic
    # Check the comparison itself.
    first, last = (found["points"][START_NS + i * 10**8] for i in (0, FRAMES - 1))
    assert differences(first, last) == ["header.stamp.nanosec", "height", "width", "row_step", "data"]
