"""Back-projection of depth: formula, invalid depth, and the layout of a point."""

from __future__ import annotations

import math

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mtl_perception.camera import projection
from mtl_perception.camera.model import CameraModel
from mtl_perception.camera.projection import CLOUD_FLOATS, backproject, pack_cloud
from mtl_perception.types import CLOUD_DTYPE


def cloud_of(depth: np.ndarray, camera: CameraModel, image: np.ndarray, labels: np.ndarray) -> np.ndarray:
    out = torch.full((*depth.shape, CLOUD_FLOATS), 99.0)
    pack_cloud(*map(torch.from_numpy, (depth, camera.rays(), image, labels)), out)
    return out.numpy().view(CLOUD_DTYPE)[..., 0]


def inputs(height: int, width: int, seed: int = 0):
    rng = np.random.default_rng(seed)
    depth = rng.uniform(0.3, 90, (height, width)).astype(np.float32)
    image = rng.integers(0, 256, (height, width, 3), np.uint8)
    labels = rng.integers(0, 256, (height, width), np.uint8)
    return depth, image, labels


@settings(max_examples=30, deadline=None)
@given(
    width=st.integers(1, 60), height=st.integers(1, 40), fx=st.floats(5, 3000), fy=st.floats(5, 3000),
    cx=st.floats(-50, 100), cy=st.floats(-50, 100), seed=st.integers(0, 99),
)  # fmt: skip
def test_points_match_depth_image_proc(width, height, fx, fy, cx, cy, seed):
    depth, image, labels = inputs(height, width, seed)
    cloud = cloud_of(depth, CameraModel(width, height, fx, fy, cx, cy), image, labels)
    assert cloud.shape == (height, width)
    z = depth.astype(np.float64)
    u, v = np.meshgrid(np.arange(width), np.arange(height))
    np.testing.assert_allclose(cloud["x"], (u - cx) * z / fx, rtol=1e-6, atol=1e-30)
    np.testing.assert_allclose(cloud["y"], (v - cy) * z / fy, rtol=1e-6, atol=1e-30)
    np.testing.assert_array_equal(cloud["z"], depth)


def test_parts_of_a_large_image_give_the_same_points(monkeypatch):
    rng = np.random.default_rng(2)
    depth = torch.from_numpy(rng.uniform(1, 50, (7, 11)).astype(np.float32))
    depth[3, 4] = torch.inf
    rays = torch.from_numpy(rng.normal(size=(7, 11, 2)).astype(np.float32))
    image = torch.from_numpy(rng.integers(0, 256, (7, 11, 3), np.uint8))
    labels = torch.from_numpy(rng.integers(0, 20, (7, 11), np.uint8))
    clouds = []
    for pixels in (projection.PART_PIXELS, 25):
        monkeypatch.setattr(projection, "PART_PIXELS", pixels)
        clouds.append(projection.pack_cloud(depth, rays, image, labels, torch.empty(7, 11, 5)).numpy().tobytes())
    assert clouds[0] == clouds[1]


def test_point_matches_the_formula():
    depth = np.zeros((3, 4), np.float32)
    depth[2, 1] = 10
    cloud = cloud_of(depth, CameraModel(4, 3, 2.0, 5.0, 2.0, 0.5), *inputs(3, 4)[1:])
    assert cloud[2, 1].item()[:3] == ((1 - 2) * 10 / 2, (2 - 0.5) * 10 / 5, 10)


def test_non_finite_depth_yields_nan_with_color_and_label():
    depth, image, labels = inputs(2, 4)
    depth[1] = (math.nan, math.inf, -math.inf, 5)
    cloud = cloud_of(depth, CameraModel(4, 2, 3.0, 3.0, 1.0, 1.0), image, labels)
    for name in "xyz":
        assert np.isnan(cloud[name][1]).tolist() == [True, True, True, False]
        assert np.isfinite(cloud[name][0]).all()
    assert cloud["label"].tolist() == labels.tolist()
    assert (cloud["rgb"] & 255).tolist() == image[..., 2].tolist()


def test_pixel_without_a_ray_yields_nan():
    """NaN is preserved where the optical axis would make x zero for every depth."""
    depth = torch.ones(1, 3)
    rays = torch.tensor([[[0.0, 0.0], [math.nan, math.nan], [1.0, 2.0]]])
    points = backproject(depth, rays, torch.empty(1, 3, 3))[0]
    assert points[0].tolist() == [0, 0, 1]
    assert points[1].isnan().all()
    assert points[2].tolist() == [1, 2, 1]


def test_layout_of_a_point():
    image = np.array([[[0x12, 0x34, 0xFE]]], np.uint8)
    cloud = cloud_of(np.full((1, 1), 4, np.float32), CameraModel(1, 1, 2, 2, 0, 0), image, np.array([[255]], np.uint8))
    assert CLOUD_DTYPE.itemsize == 20
    assert cloud["rgb"][0, 0] == 0x001234FE
    assert cloud["label"][0, 0] == 255
    assert cloud.tobytes() == np.array([0, 0, 4], "<f4").tobytes() + bytes([0xFE, 0x34, 0x12, 0]) + bytes([255, 0, 0, 0])


def test_previous_content_of_the_buffer_is_overwritten():
    depth, image, labels = inputs(5, 6)
    camera = CameraModel(6, 5, 3.0, 3.0, 1.0, 1.0)
    out = torch.full((5, 6, CLOUD_FLOATS), math.nan)
    tensors = [torch.from_numpy(array) for array in (depth, camera.rays(), image, labels)]
    first = pack_cloud(*tensors, out).numpy().tobytes()
    tensors[2] = 255 - tensors[2]
    pack_cloud(*tensors, out)
    tensors[2] = 255 - tensors[2]
    assert pack_cloud(*tensors, out).numpy().tobytes() == first
