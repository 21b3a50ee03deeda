"""Images and messages of ROS as this package's values, and back; encodings that cv_bridge reads."""

from __future__ import annotations

import os
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs rclpy")
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import Image, PointCloud2
from std_msgs.msg import Header
from support.images import noise_image
from support.ros_messages import OUTPUTS, image

from mtl_perception.errors import FrameError
from mtl_perception.messages.encode import cloud_fields, image_fields
from mtl_perception.ros import compat, convert
from mtl_perception.types import CLOUD_DTYPE

WIDTH, HEIGHT = 64, 48
PIXELS = noise_image(HEIGHT, WIDTH)


@pytest.mark.parametrize("private", [True, False])
def test_message_data_is_equal_with_and_without_the_private_attribute(monkeypatch: pytest.MonkeyPatch, private: bool) -> None:
    monkeypatch.setattr(compat, "can_fill_privately", lambda: private)
    message = convert.to_message("sensor_msgs/msg/Image", image_fields(PIXELS, "rgb8"), Header(frame_id="a"))
    read = deserialize_message(serialize_message(message), Image)
    assert bytes(read.data) == PIXELS.tobytes()
    assert (read.height, read.width, read.step, read.encoding, read.header.frame_id) == (HEIGHT, WIDTH, 3 * WIDTH, "rgb8", "a")


def test_private_attribute_works_with_this_rclpy() -> None:
    """It is much faster, so an rclpy that breaks it should be noticed."""
    assert compat.can_fill_privately()


def test_unsupported_encodings_are_left_to_cv_bridge(monkeypatch: pytest.MonkeyPatch) -> None:
    class Bridge:
        def imgmsg_to_cv2(self, message: Image, encoding: str) -> np.ndarray:
            if message.encoding != "multispectral4":
                raise RuntimeError("no such encoding")
            return np.full((message.height, message.width, 3), 9, np.uint8)

    def install(module: types.ModuleType | None) -> None:
        monkeypatch.setitem(sys.modules, "cv_bridge", module)
        convert.load_cv_bridge.cache_clear()

    install(_module_with(CvBridge=Bridge))
    assert (convert.to_rgb(image(PIXELS, "multispectral4")) == 9).all()
    with pytest.raises(FrameError, match="'hyperspectral8'"):
        convert.to_rgb(image(PIXELS, "hyperspectral8"))
    np.testing.assert_array_equal(convert.to_rgb(image(PIXELS, "rgb8")), PIXELS)
    install(None)
    with pytest.raises(FrameError, match="'multispectral4'"):
        convert.to_rgb(image(PIXELS, "multispectral4"))
    convert.load_cv_bridge.cache_clear()


def _module_with(**members: Any) -> types.ModuleType:
    module = types.ModuleType("fake")
    vars(module).update(members)
    return module


BROKEN = """
print("A module that was compiled using NumPy 1.x cannot be run in NumPy 2")
raise AttributeError("_ARRAY_API not found")
"""


def test_cv_bridge_of_another_numpy_disturbs_only_encodings_that_need_it(tmp_path: Path) -> None:
    """Its import raises an AttributeError where ROS's cv_bridge meets NumPy 2 of pip."""
    (tmp_path / "cv_bridge.py").write_text(BROKEN)
    code = """
import array
from sensor_msgs.msg import Image
from mtl_perception.errors import FrameError
from mtl_perception.ros import camera, convert
message = Image(height=1, width=2, step=6, encoding="rgb8", data=array.array("B", range(6)))
print(convert.to_rgb(message).tolist())
for _ in range(2):
    message.encoding = "hyperspectral3"
    try:
        convert.to_rgb(message)
    except FrameError as error:
        print(error.reason)
"""
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{Path(convert.__file__).parents[2]}"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    warning = BROKEN.split('"')[1]
    assert done.stdout.splitlines() == ["[[[0, 1, 2], [3, 4, 5]]]", warning, "encoding", "encoding"]


CHECKED = """
import numpy as np
from std_msgs.msg import Header
from mtl_perception.camera.model import Calibration, CameraModel
from mtl_perception.messages.encode import MessageEncoder
from mtl_perception.messages.topics import OUTPUT_TOPICS
from mtl_perception.labels import STREET
from mtl_perception.ros.convert import MESSAGE_TYPES, to_message
from mtl_perception.types import CLOUD_DTYPE, Outputs
plane = np.zeros((2, 3), np.uint8)
result = Outputs(plane, plane, plane.astype(np.float32), cloud=np.zeros((2, 3), CLOUD_DTYPE),
                camera=CameraModel(3, 2, 1.0, 1.0, 1.0, 1.0), image=np.zeros((2, 3, 3), np.uint8))
for row in OUTPUT_TOPICS:
    if MESSAGE_TYPES[row.type] is not None:
        message = to_message(row.type, row.encode(MessageEncoder(STREET), result), Header())
        print(row.name, list(message.d) if row.name.endswith("camera_info") else "")
"""


def test_messages_pass_field_checks() -> None:
    """Humble always checks fields, later distributions on request."""
    environment = {**os.environ, "ROS_PYTHON_CHECK_FIELDS": "1"}
    done = subprocess.run([sys.executable, "-c", CHECKED], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert set(OUTPUTS) <= {line.split(" ")[0] for line in done.stdout.splitlines()}
    assert "depth/camera_info [0.0, 0.0, 0.0, 0.0, 0.0]" in done.stdout


def test_sensor_msgs_py_reads_the_cloud() -> None:
    reader = pytest.importorskip(
        "sensor_msgs_py.point_cloud2", reason="needs sensor_msgs_py, which comes with a ROS installation"
    )
    cloud = np.zeros((3, 4), CLOUD_DTYPE)
    cloud["x"], cloud["z"] = np.arange(12).reshape(3, 4), 7.5
    cloud["z"][1, 2] = np.nan
    cloud["rgb"], cloud["label"] = 0x00123456, np.arange(12).reshape(3, 4)
    message = deserialize_message(
        serialize_message(convert.to_message("sensor_msgs/msg/PointCloud2", cloud_fields(cloud), Header())), PointCloud2
    )
    points = reader.read_points(message, reshape_organized_cloud=True)
    assert points.shape in ((3, 4), (4, 3))  # Some releases swap the dimensions.
    flat = points.reshape(-1)
    for name in ("x", "y", "z", "label"):
        np.testing.assert_array_equal(flat[name], cloud[name].reshape(-1))
    assert (flat["rgb"].view(np.uint32) == 0x00123456).all()
    assert not message.is_dense
