"""Inputs of the benchmarks."""

from __future__ import annotations

from mtl_perception.camera.model import CameraModel
from mtl_perception.inference.onnx.check import synthetic_image
from mtl_perception.types import Frame

FOCAL_LENGTH_RATIO = 0.58
"""Focal length relative to the image width, as of KITTI's cameras."""


def example_camera(width: int, height: int) -> CameraModel:
    """Return a rectified camera of an image size."""
    focal_length = FOCAL_LENGTH_RATIO * width
    return CameraModel(width, height, focal_length, focal_length, width / 2, height / 2)


def example_frame(width: int, height: int) -> Frame:
    """Return a generated image with a camera."""
    return Frame(synthetic_image(height, width), example_camera(width, height))
