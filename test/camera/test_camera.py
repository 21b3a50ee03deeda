"""Camera models: rays and projection, scaling, and cropping."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.calibrations import EYE, LENSES, D, K, P

from mtl_perception.camera import distortion
from mtl_perception.camera.camera_info import calibration_from_camera_info
from mtl_perception.camera.model import Calibration, CameraModel
from mtl_perception.errors import CameraError


def camera_of(lens: str, width: int = 96, height: int = 60) -> CameraModel:
    model, coefficients = LENSES[lens]
    focal = 0.9 * max(width, height)
    return CameraModel(width, height, focal, 1.01 * focal, 0.49 * width, 0.52 * height, model, coefficients)


def pixels_of(camera: CameraModel) -> np.ndarray:
    return np.stack(np.meshgrid(np.arange(camera.width), np.arange(camera.height)), axis=-1).astype(float)


def assert_rays_project_to_their_pixels(camera: CameraModel, depth: np.ndarray | float = 7.5) -> None:
    rays = camera.rays()
    assert rays.shape == (camera.height, camera.width, 2)
    assert rays.dtype == np.float32
    points = np.concatenate([rays, np.ones_like(rays[..., :1])], axis=-1).astype(float) * depth
    assert np.abs(camera.project(points) - pixels_of(camera)).max() < 1e-3


@pytest.mark.parametrize("lens", LENSES)
class TestRoundTrip:
    @settings(max_examples=15, deadline=None)
    @given(
        width=st.integers(16, 120), height=st.integers(16, 80), x=st.floats(0.2, 2.0), y=st.floats(0.2, 2.0),
        depth=st.floats(0.1, 500),
    )  # fmt: skip
    def test_rays_of_a_scaled_camera_project_to_their_pixels(self, lens, width, height, x, y, depth):
        camera = camera_of(lens, width, height)
        assert_rays_project_to_their_pixels(camera, depth)
        assert_rays_project_to_their_pixels(camera.scaled(max(round(width * x), 1), max(round(height * y), 1)), depth)

    def test_cropped_camera_keeps_the_rays(self, lens):
        camera = camera_of(lens)
        part = camera.cropped(11, 7, 40, 30)
        assert_rays_project_to_their_pixels(part)
        np.testing.assert_allclose(part.rays(), camera.rays()[7:37, 11:51], atol=2e-6)

    def test_rays_of_a_binned_region_project_to_their_pixels(self, lens):
        model, coefficients = LENSES[lens]
        k = (70.0, 0.0, 48.0, 0.0, 71.0, 31.0, 0.0, 0.0, 1.0)
        raw = calibration_from_camera_info(96, 64, k, coefficients, model, EYE, (), binning=(2, 2), roi=(8, 4, 60, 40))
        camera = raw.camera(rectified=False)
        assert (camera.width, camera.height) == (30, 20)
        assert (camera.fx, camera.fy, camera.cx, camera.cy) == (35, 35.5, (48 - 8) / 2, (31 - 4) / 2)
        assert_rays_project_to_their_pixels(camera)


@pytest.mark.parametrize("model", ["plumb_bob", "equidistant"])
def test_blocks_of_a_large_image_give_the_same_rays(model, monkeypatch):
    """This camera folds back within the image, so that some pixels have no ray."""
    camera = CameraModel(97, 61, 40.0, 40.0, 48.0, 30.0, model, (-0.35, 0.0, 0.0, 0.0))
    whole = camera.rays()
    assert 0 < np.isnan(whole).sum() < whole.size
    monkeypatch.setattr(distortion, "BLOCK_PIXELS", 500)
    np.testing.assert_array_equal(camera.rays(), whole)


def test_pinhole_model_matches_its_formula():
    camera = CameraModel(4, 3, fx=2.0, fy=4.0, cx=1.0, cy=0.5)
    assert camera.rays()[2, 3].tolist() == [(3 - 1.0) / 2.0, (2 - 0.5) / 4.0]
    assert camera.project(np.array([2.0, -1.0, 4.0])).tolist() == [2.0 * 2 / 4 + 1, 4.0 * -1 / 4 + 0.5]


@pytest.mark.parametrize("count", [4, 5, 8, 12, 14])
def test_polynomial_models_match_opencv(count):
    coefficients = (-0.3, 0.11, 0.002, -0.003, 0.02, 0.05, -0.04, 0.01, 0.003, -0.002, 0.001, 0.004, 0.01, -0.02)[:count]
    model = "plumb_bob" if count < 8 else "rational_polynomial"
    camera = CameraModel(640, 480, 400.0, 410.0, 321.0, 239.0, model, coefficients)
    points = np.random.default_rng(0).uniform((-3, -2, 2), (3, 2, 9), (500, 3))
    expected = cv2.projectPoints(points, np.zeros(3), np.zeros(3), camera.matrix, np.array(coefficients))[0][:, 0]
    np.testing.assert_allclose(camera.project(points), expected, rtol=0, atol=1e-9)


def test_equidistant_model_matches_its_formula():
    """r = f theta: a ray at 45 degrees projects to f pi / 4 from the center, also if all coefficients are 0."""
    camera = CameraModel(200, 100, 100, 100, 100, 50, "equidistant", (0.0, 0.0, 0.0, 0.0))
    assert camera.is_distorted
    assert camera.project(np.array([3.0, 0.0, 3.0])) == pytest.approx([100 + 100 * math.pi / 4, 50])
    raw = Calibration(200, 100, (100.0, 0, 100, 0, 100, 50, 0, 0, 1), (0.0,) * 4, "equidistant").camera(rectified=False)
    assert raw.project(np.array([3.0, 0.0, 3.0])) == pytest.approx([100 + 100 * math.pi / 4, 50])


class TestNoInverse:
    @pytest.mark.parametrize(
        ("model", "coefficients"),
        [
            ("plumb_bob", (-0.35, 0.0, 0.0, 0.0)),
            ("plumb_bob", (0.0, -1.0, 0.0, 0.0, 0.5)),
            ("plumb_bob", (-0.9, 0.9, 0.0, 0.0, -0.25)),
            ("rational_polynomial", (-0.4, 0.1, 0.0, 0.0, 0.0, 0.3, 0.2, 0.1)),
            ("equidistant", (0.1, -0.05, 0.2, -0.1)),
            ("equidistant", (0.0, 0.0, 0.0, 0.0)),
        ],
    )
    def test_pixels_without_a_ray_are_nan(self, model, coefficients):
        """Up to its first maximum, the sampled distortion curve yields the reachable pixels and their rays."""
        camera = CameraModel(160, 120, 60.0, 60.0, 79.5, 59.5, model, coefficients)
        rays = camera.rays().astype(float)
        valid = np.isfinite(rays).all(axis=-1)
        slopes = np.tan(np.linspace(0, math.radians(89.9), 20000))
        radius = camera.project(np.stack([slopes, 0 * slopes, 0 * slopes + 1], axis=-1))[:, 0] - camera.cx
        folds = np.flatnonzero(np.diff(radius) <= 0)
        reach = folds[0] + 1 if folds.size else len(slopes)
        distance = np.hypot(*(pixels_of(camera) - (camera.cx, camera.cy)).transpose(2, 0, 1))
        assert not valid[distance > radius[:reach].max() + 0.5].any()
        assert valid[distance < radius[:reach].max() * 0.75].all()
        well_inside = valid & (distance < radius[:reach].max() - 1)
        expected = np.interp(distance[well_inside], radius[:reach], slopes[:reach])
        np.testing.assert_allclose(np.hypot(*rays[well_inside].T), expected, rtol=1e-3)
        direction = (pixels_of(camera) - (camera.cx, camera.cy))[well_inside]
        assert ((rays[well_inside] * direction).sum(axis=1) > 0).all()


class TestScaling:
    def test_intrinsics_scale_by_the_ratios_of_width_and_height(self):
        camera = CameraModel(1242, 375, 721.5377, 722.25, 609.5593, 172.854).scaled(621, 188)
        assert (camera.width, camera.height) == (621, 188)
        assert (camera.fx, camera.cx) == (721.5377 * 0.5, 609.5593 * 0.5)
        assert (camera.fy, camera.cy) == (722.25 * (188 / 375), 172.854 * (188 / 375))

    def test_calibration_is_scaled_too(self):
        camera = Calibration(1242, 375, K, D, "plumb_bob", EYE, P).camera(rectified=True).scaled(621, 125)
        k, p = camera.calibration.k, camera.calibration.p
        assert k == pytest.approx((K[0] / 2, 0, K[2] / 2, 0, K[4] / 3, K[5] / 3, 0, 0, 1), rel=1e-12)
        assert p == pytest.approx((350, 0, 300, 22.5, 0, P[5] / 3, P[6] / 3, P[7] / 3, 0, 0, 1, 0.005), rel=1e-12)
        assert camera.calibration.d == D
        assert (camera.fx, camera.cy) == pytest.approx((p[0], p[6]))

    def test_crop_shifts_the_centers_of_k_and_p(self):
        camera = Calibration(1242, 375, K, D, "plumb_bob", EYE, P).camera(rectified=True).cropped(42, 25, 1200, 350)
        assert (camera.cx, camera.cy) == (558, 145)
        assert (camera.calibration.k[2], camera.calibration.k[5]) == (K[2] - 42, K[5] - 25)
        assert (camera.calibration.p[2], camera.calibration.p[6]) == (558, 145)
        assert (camera.calibration.width, camera.calibration.height) == (1200, 350)

    @pytest.mark.parametrize("crop", [(-1, 0, 5, 5), (0, -1, 5, 5), (92, 0, 5, 5), (0, 56, 5, 5)])
    def test_crop_beyond_the_image_is_rejected(self, crop):
        with pytest.raises(CameraError, match="exceeds the image of 96x60"):
            camera_of("none").cropped(*crop)
