"""`view --live`: the outputs of a running node arrive in Rerun."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="needs rclpy")
pytest.importorskip("rerun", reason="needs rerun-sdk: pip install 'mtl_perception[rerun]'")
import numpy as np
import rclpy
from support.node_process import PATIENCE
from support.rrd import pixels, read_rrd

from mtl_perception.labels import STREET
from mtl_perception.messages.encode import MessageEncoder
from mtl_perception.messages.topics import OUTPUT_TOPICS
from mtl_perception.ros.convert import MESSAGE_TYPES, to_message
from mtl_perception.ros.qos import keep_last
from mtl_perception.ros.view import watch
from mtl_perception.types import Outputs
from mtl_perception.visualization.rerun import RerunFile, RerunLog, RerunOptions

ROWS = {row.name: row for row in OUTPUT_TOPICS}
NAMES = ("segmentation/labels", "depth/image")


def test_published_outputs_are_logged_with_their_stamps(tmp_path: Path) -> None:
    from std_msgs.msg import Header

    outputs = Outputs(labels=np.arange(12, dtype=np.uint8).reshape(3, 4) % len(STREET), depth=np.full((3, 4), 7.5, np.float32))
    encoder, stop = MessageEncoder(STREET), threading.Event()

    def publish() -> None:
        context = rclpy.Context()
        rclpy.init(context=context)
        node = rclpy.create_node("mtl_perception", context=context)
        profile = keep_last(1, reliable=True)
        publishers = {name: node.create_publisher(MESSAGE_TYPES[ROWS[name].type], f"~/{name}", profile) for name in NAMES}
        number = 0
        while not stop.wait(0.1):
            number += 1
            for name, publisher in publishers.items():
                header = Header(frame_id="camera")
                header.stamp.sec = number
                publisher.publish(to_message(ROWS[name].type, ROWS[name].encode(encoder, outputs), header))
        node.destroy_node()
        rclpy.shutdown(context=context)

    thread = threading.Thread(target=publish, daemon=True)
    thread.start()
    deadline = time.monotonic() + PATIENCE
    with RerunFile(RerunLog("live", STREET, 80.0, RerunOptions()), tmp_path / "live.rrd") as log:
        watch(log, "/mtl_perception", [], lambda: log.frames >= 3 or time.monotonic() > deadline)
    stop.set()
    thread.join(PATIENCE)
    rows = read_rrd(tmp_path / "live.rrd")
    labels, depth = rows["/world/camera/labels"], rows["/world/camera/depth"]
    stamps = [row["stamp"] for row in labels]
    assert len(stamps) >= 2 and stamps == sorted(stamps) and all(stamp % 10**9 == 0 for stamp in stamps)
    assert all(np.array_equal(pixels(row, "SegmentationImage", "u1"), outputs.labels) for row in labels)
    assert all((pixels(row, "DepthImage", "<f2") == 7.5).all() for row in depth) and depth
