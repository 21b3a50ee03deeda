"""Recognition of raw images that are processed as rectified ones."""

from __future__ import annotations

import pytest

from mtl_perception.camera.model import Calibration
from mtl_perception.messages.raw_input import describe_raw_input

K = (40.0, 0.0, 15.5, 0.0, 41.0, 11.5, 0.0, 0.0, 1.0)
DISTORTED = Calibration(32, 24, K, (-0.3, 0.1, 0.0, 0.0, 0.0), "plumb_bob")


@pytest.mark.parametrize(
    ("topic", "raw"),
    [
        ("/camera/image_raw", True),
        ("/camera/image_raw/compressed", True),
        ("/usb_cam/color_raw", True),
        ("/front/raw/image", True),
        ("/camera/raw_image", True),
        ("/camera/image_rect", False),
        ("/camera/image_rect_color", False),
        ("/camera/infra1/image_rect_raw", False),  # RealSense
        ("/rectified/image_raw", False),
        ("/camera/image", False),
        ("/strawberry/image_color", False),
    ],
)
def test_raw_images_are_recognized_by_topic(topic: str, raw: bool) -> None:
    assert (describe_raw_input(topic, DISTORTED, rectified=True) != "") == raw


def test_undistorted_unknown_and_correctly_configured_cameras_are_not_reported() -> None:
    topic = "/camera/image_raw"
    fisheye = Calibration(32, 24, K, (0.0,) * 4, "equidistant")
    assert "seem to be raw" in describe_raw_input(topic, fisheye, rectified=True)
    assert describe_raw_input(topic, Calibration(32, 24, K, (0.0,) * 5, "plumb_bob"), rectified=True) == ""
    assert describe_raw_input(topic, None, rectified=True) == ""
    assert describe_raw_input(topic, DISTORTED, rectified=False) == ""
