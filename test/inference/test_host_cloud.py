"""Clouds of the CPU backend: the rule and layout of `camera.projection`, for any memory layout of the inputs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mtl_perception.camera.model import CameraModel
from mtl_perception.camera.projection import CLOUD_FLOATS, pack_cloud
from mtl_perception.inference.host import cloud
from mtl_perception.inference.host.cloud import CloudPacker
from mtl_perception.types import CLOUD_DTYPE


def planes(height: int, width: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return depth with every kind of invalid value, image and labels."""
    rng = np.random.default_rng(seed)
    depth = rng.uniform(0.3, 90, (height, width)).astype(np.float32)
    depth[rng.random(depth.shape) < 0.2] = rng.choice([np.nan, np.inf, -np.inf])
    return depth, rng.integers(0, 256, (height, width, 3), np.uint8), rng.integers(0, 256, (height, width), np.uint8)


def reference(camera: CameraModel, stride: int, depth, image, labels, edges=None) -> np.ndarray:
    """Compute the cloud in PyTorch."""
    rays = camera.rays(stride)
    depth, image, labels = (torch.from_numpy(plane[::stride, ::stride].copy()) for plane in (depth, image, labels))
    out = torch.full((*rays.shape[:2], CLOUD_FLOATS), 99.0)
    edges = None if edges is None else torch.from_numpy(edges)
    return pack_cloud(depth, torch.from_numpy(rays), image, labels, out, edges).numpy().view(CLOUD_DTYPE)[..., 0]


@settings(max_examples=30, deadline=None)
@given(
    width=st.integers(1, 60), height=st.integers(1, 40), stride=st.integers(1, 4), seed=st.integers(0, 99),
    edge_share=st.sampled_from([None, 0.0, 0.3]),
)  # fmt: skip
def test_points_are_those_of_the_projection(width, height, stride, seed, edge_share):
    camera = CameraModel(width, height, 30.0, 31.0, width / 3, height / 2)
    inputs = planes(height, width, seed)
    shape = -(-height // stride), -(-width // stride)
    edges = None if edge_share is None else np.random.default_rng(seed).random(shape) < edge_share
    found = CloudPacker().pack(camera, stride, *inputs, edges)
    assert found.tobytes() == reference(camera, stride, *inputs, edges).tobytes()


def test_pixel_without_a_ray_yields_nan(monkeypatch):
    camera = CameraModel(3, 1, 2.0, 2.0, 0.0, 0.0)
    rays = np.array([[[0.0, 0.0], [np.nan, np.nan], [1.0, 2.0]]], np.float32)
    monkeypatch.setattr(CameraModel, "rays", lambda self, stride: rays)
    points = CloudPacker().pack(camera, 1, np.ones((1, 3), np.float32), *planes(1, 3)[1:])[0]
    assert points[["x", "y", "z"]].tolist()[::2] == [(0, 0, 1), (1, 2, 1)]
    assert all(np.isnan(points[1][name]) for name in "xyz")


def test_parts_of_a_large_image_give_the_same_points(monkeypatch):
    camera = CameraModel(11, 7, 9.0, 9.0, 5.0, 3.0)
    whole = CloudPacker().pack(camera, 1, *planes(7, 11)).tobytes()
    monkeypatch.setattr(cloud, "PART_PIXELS", 25)
    assert CloudPacker().pack(camera, 1, *planes(7, 11)).tobytes() == whole


@pytest.mark.parametrize("layout", ["read-only", "row padding", "reversed channels"])
def test_image_of_any_memory_layout_gives_the_same_points(layout):
    camera = CameraModel(11, 7, 9.0, 9.0, 5.0, 3.0)
    depth, image, labels = planes(7, 11)
    whole = CloudPacker().pack(camera, 1, depth, image, labels).tobytes()
    if layout == "read-only":
        image.flags.writeable = False
    elif layout == "row padding":
        image = np.pad(image, ((0, 0), (0, 5), (0, 0)))[:, :11]
    else:
        image = image[..., ::-1].copy()[..., ::-1]
    assert CloudPacker().pack(camera, 1, depth, image, labels).tobytes() == whole


def test_another_camera_size_and_back_gives_the_same_points():
    packer, inputs = CloudPacker(), planes(7, 11)
    camera = CameraModel(11, 7, 9.0, 9.0, 5.0, 3.0)
    first = packer.pack(camera, 1, *inputs).tobytes()
    packer.pack(CameraModel(20, 9, 9.0, 9.0, 5.0, 3.0), 1, *planes(9, 20))
    assert packer.pack(camera, 1, *inputs).tobytes() == first
    packer.release()
    assert packer.pack(camera, 1, *inputs).tobytes() == first
