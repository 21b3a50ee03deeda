"""Camera models: rays and projection, scaling, cropping, binning, and invalid calibrations."""

from __future__ import annotations

import math
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtl_perception.camera import distortion
from mtl_perception.camera.camera_info import calibration_from_camera_info
from mtl_perception.camera.model import Calibration, CameraModel
from mtl_perception.errors import CameraError
from mtl_perception.messages.decode import decode_camera_info

LENSES = {
    "none": ("", ()),
    "plumb_bob 4": ("plumb_bob", (-0.28, 0.07, 0.001, -0.0005)),
    "plumb_bob 5": ("plumb_bob", (-0.37, 0.2, 0.0003, 0.0007, -0.06)),
    "rational 8": ("rational_polynomial", (8.0, -3.0, 0.0002, -0.0001, 1.0, 8.2, -1.5, 0.5)),
    "equidistant": ("equidistant", (0.08, -0.03, 0.01, -0.002)),
    "equidistant, ideal": ("equidistant", (0.0, 0.0, 0.0, 0.0)),
}
K = (721.5, 0.0, 609.5, 0.0, 722.5, 172.8, 0.0, 0.0, 1.0)
P = (700.0, 0.0, 600.0, 45.0, 0.0, 701.0, 170.0, -1.1, 0.0, 0.0, 1.0, 0.005)
EYE = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
D = (-0.37, 0.2, 0.0003, 0.0007, -0.06)


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


class TestForImage:
    @pytest.mark.parametrize("size", [(621, 188), (621, 187), (2484, 750), (1242, 375), (310, 94)])
    def test_resized_image_scales_the_calibration(self, size):
        fitted = Calibration(1242, 375, K, D, "plumb_bob", EYE, P).for_image(*size)
        assert (fitted.width, fitted.height) == size
        assert fitted.k[0] == pytest.approx(K[0] * size[0] / 1242)
        assert fitted.k[4] == pytest.approx(K[4] * size[1] / 375)

    @pytest.mark.parametrize("size", [(640, 480), (1242, 370), (1216, 352), (375, 1242), (621, 192)])
    def test_another_aspect_ratio_is_rejected(self, size):
        with pytest.raises(CameraError, match=rf"calibration is for 1242x375, the image has {size[0]}x{size[1]}"):
            Calibration(1242, 375, K).for_image(*size)


class TestRectification:
    def test_rectified_camera_uses_p_without_distortion(self):
        camera = Calibration(1242, 375, K, D, "plumb_bob", EYE, P).camera(rectified=True)
        assert (camera.fx, camera.fy, camera.cx, camera.cy) == (700, 701, 600, 170)
        assert not camera.is_distorted

    def test_raw_camera_uses_k_with_distortion(self):
        camera = Calibration(1242, 375, K, D, "plumb_bob", EYE, P).camera(rectified=False)
        assert (camera.fx, camera.fy, camera.cx, camera.cy) == (721.5, 722.5, 609.5, 172.8)
        assert (camera.distortion_model, camera.distortion) == ("plumb_bob", D)

    @pytest.mark.parametrize("p", [(), (0.0,) * 12])
    def test_rectified_camera_without_p_uses_k(self, p):
        calibration = Calibration(1242, 375, K, D, "plumb_bob", EYE, p)
        camera = calibration.camera(rectified=True)
        assert (camera.fx, camera.fy, camera.cx, camera.cy) == (721.5, 722.5, 609.5, 172.8)
        assert not camera.is_distorted
        assert calibration.projection == (721.5, 0, 609.5, 0, 0, 722.5, 172.8, 0, 0, 0, 1, 0)

    @pytest.mark.parametrize("k", [(0.0,) * 9, (0.0,) * 8 + (1.0,)])
    def test_rectified_camera_without_k_uses_p(self, k):
        calibration = Calibration(1242, 375, k, D, "plumb_bob", EYE, P)
        camera = calibration.camera(rectified=True)
        assert (camera.fx, camera.fy, camera.cx, camera.cy) == (700, 701, 600, 170)
        published = Calibration.of(camera)
        assert (published.k, published.p) == ((700, 0, 600, 0, 701, 170, 0, 0, 1), P)
        with pytest.raises(CameraError, match="K.0. is 0 and only P is set, which describes rectified images"):
            calibration.camera(rectified=False)

    @pytest.mark.parametrize(
        ("model", "coefficients", "used"),
        [
            ("plumb_bob", (*D, 0.0), D),
            ("plumb_bob", (*D[:4], 0.0), (*D[:4], 0.0)),
            ("equidistant", (0.08, -0.03, 0.01, -0.002, 0.0), (0.08, -0.03, 0.01, -0.002)),  # RealSense T265
            ("rational_polynomial", (*LENSES["rational 8"][1], 0.0), LENSES["rational 8"][1]),
            ("plumb_bob", (0.0,) * 8, ()),
        ],
    )
    def test_surplus_coefficients_of_zero_are_ignored(self, model, coefficients, used):
        camera = Calibration(1242, 375, K, coefficients, model, EYE, P).camera(rectified=False)
        assert camera.distortion == used
        assert camera.rays().shape == (375, 1242, 2)

    @pytest.mark.parametrize(
        ("named", "coefficients", "meant"),
        [
            ("plumb_bob", (*D, 0.0, 0.0, 0.0), ("plumb_bob", D)),  # Orbbec
            ("plumb_bob", LENSES["rational 8"][1], LENSES["rational 8"]),
            ("rational_polynomial", D, ("plumb_bob", D)),
        ],
    )
    def test_number_of_coefficients_decides_between_the_polynomial_models(self, named, coefficients, meant):
        """As in image_geometry and OpenCV."""
        rays = Calibration(1242, 375, K, coefficients, named, EYE, P).camera(rectified=False).rays(stride=20)
        expected = Calibration(1242, 375, K, meant[1], meant[0], EYE, P).camera(rectified=False).rays(stride=20)
        assert np.isfinite(expected).any()
        np.testing.assert_array_equal(rays, expected)

    @pytest.mark.parametrize(
        ("size", "k", "reported"),
        [
            # Of the resolution 640 x 400 (Orbbec Astra Stereo).
            ((1280, 800), (540.9, 318.4, 477.4, 184.4), True),
            ((320, 200), (540.9, 318.4, 477.4, 184.4), True),
            ((640, 400), (540.9, 318.4, 477.4, 184.4), False),
            # Scaled up twice (Orbbec Femto Mega).
            ((3840, 2160), (13489.9, 11447.9, 13487.8, 6276.5), True),
            # 1280 x 720 for 1920 x 1080.
            ((1920, 1080), (900.0, 640.0, 900.0, 360.0), True),
            # A crop of the upper part, without a region of interest.
            ((1242, 180), (721.5, 609.6, 721.5, 172.9), False),
            ((1242, 375), (721.5, 609.6, 721.5, 172.9), False),
        ],
    )
    @pytest.mark.parametrize("rectified", [True, False])
    def test_intrinsics_of_another_image_size_are_reported(self, size, k, reported, rectified):
        fx, cx, fy, cy = k
        p = (fx, 0.0, cx, 0.0, 0.0, fy, cy, 0.0, 0.0, 0.0, 1.0, 0.0)
        matrix = (fx, 0.0, cx, 0.0, fy, cy, 0.0, 0.0, 1.0)
        camera = calibration_from_camera_info(*size, matrix, (), "plumb_bob", EYE, p).camera(rectified)
        assert (camera.fx, camera.cx) == (fx, cx)
        text = f"principal point ({cx:.1f}, {cy:.1f}) is far from the center of {size[0]}x{size[1]} pixels"
        assert camera.size_mismatch.startswith(text) if reported else camera.size_mismatch == ""

    def test_intrinsics_of_binned_images_that_are_binned_again_are_reported(self):
        """Values of avt_vimba_camera with a calibration of binned images."""
        k = (299.5, 0.0, 254.1, 0.0, 300.1, 183.9, 0.0, 0.0, 1.0)
        calibration = calibration_from_camera_info(2064, 1544, k, (), "plumb_bob", EYE, (), binning=(4, 4))
        camera = calibration.for_image(516, 386).camera(rectified=True)
        assert camera.size_mismatch.startswith("principal point (63.5, 46.0) is far from the center of 516x386 pixels")

    @pytest.mark.parametrize(("roi", "reported"), [((0, 0, 40, 30), False), ((0, 0, 640, 480), True), ((8, 8, 0, 0), True)])
    def test_principal_point_of_a_region_may_be_anywhere(self, roi, reported):
        k = (300.0, 0.0, 100.0, 0.0, 300.0, 100.0, 0.0, 0.0, 1.0)
        camera = calibration_from_camera_info(640, 480, k, (), "plumb_bob", EYE, (), roi=roi).camera(rectified=True)
        assert (camera.size_mismatch != "") == reported

    def test_unknown_model_with_zero_coefficients_is_accepted(self):
        camera = Calibration(1242, 375, K, (0.0,) * 5, "some_vendor", EYE, P).camera(rectified=False)
        assert not camera.is_distorted

    def test_rectified_camera_ignores_an_unknown_distortion_model(self):
        assert Calibration(1242, 375, K, (0.1,) * 6, "some_vendor", EYE, P).camera(rectified=True).fx == 700

    def test_calibration_of_a_camera_model_has_its_intrinsics(self):
        calibration = Calibration.of(CameraModel(96, 60, 70.0, 71.0, 48.0, 30.0))
        assert calibration.k == (70, 0, 48, 0, 71, 30, 0, 0, 1)
        assert calibration.p == (70, 0, 48, 0, 0, 71, 30, 0, 0, 0, 1, 0)
        assert (calibration.distortion_model, calibration.d) == ("plumb_bob", (0.0,) * 5)


class TestInvalid:
    def test_uncalibrated_camera_is_rejected(self):
        for rectified in (True, False):
            with pytest.raises(CameraError, match="uncalibrated"):
                Calibration(640, 480, (0.0,) * 9).camera(rectified)
            with pytest.raises(CameraError, match="uncalibrated"):
                Calibration(640, 480, (0.0, *K[1:]), p=P).camera(rectified)

    @pytest.mark.parametrize("name", ["k", "d", "r", "p"])
    @pytest.mark.parametrize("value", [math.nan, math.inf])
    def test_non_finite_calibration_is_rejected(self, name, value):
        fields = {"k": list(K), "d": list(D), "r": list(EYE), "p": list(P)}
        fields[name][3] = value
        with pytest.raises(CameraError, match="non-finite"):
            calibration_from_camera_info(1242, 375, distortion_model="plumb_bob", **fields)

    @pytest.mark.parametrize("name", ["fx", "fy", "cx", "cy"])
    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    def test_non_finite_intrinsics_are_rejected(self, name, value):
        with pytest.raises(CameraError, match="non-finite"):
            CameraModel(**{"width": 9, "height": 9, "fx": 1.0, "fy": 1.0, "cx": 1.0, "cy": 1.0, name: value})

    @pytest.mark.parametrize("changes", [{"fx": 1e-9}, {"fy": 1e-300}, {"cx": -1e9}, {"fx": 1e300, "fy": 1e300}])
    def test_implausible_intrinsics_are_rejected(self, changes):
        with pytest.raises(CameraError, match=r"implausible intrinsics for a 9x9 image: fx"):
            CameraModel(**{"width": 9, "height": 9, "fx": 1.0, "fy": 1.0, "cx": 1.0, "cy": 1.0, **changes})

    def test_values_that_could_overflow_are_rejected(self):
        with pytest.raises(CameraError, match=r"values beyond 1e\+12 in K, D, R or P"):
            calibration_from_camera_info(1242, 375, K, D, "plumb_bob", EYE, (*P[:3], 1.7e308, *P[4:]))

    @pytest.mark.parametrize(("name", "value"), [("fx", 0.0), ("fy", -3.0)])
    def test_focal_length_of_zero_or_less_is_rejected(self, name, value):
        with pytest.raises(CameraError, match="focal lengths must be above 0"):
            CameraModel(**{"width": 9, "height": 9, "fx": 1.0, "fy": 1.0, "cx": 1.0, "cy": 1.0, name: value})

    @pytest.mark.parametrize("size", [(0, 5), (5, 0), (-1, 5), (2**40, 5)])
    def test_invalid_size_is_rejected(self, size):
        with pytest.raises(CameraError, match="size"):
            CameraModel(*size, 1.0, 1.0, 1.0, 1.0)
        with pytest.raises(CameraError, match="size"):
            calibration_from_camera_info(*size, K, D, "plumb_bob", EYE, P)

    @pytest.mark.parametrize("lengths", [(8, 9, 12), (9, 3, 12), (9, 9, 11), (0, 9, 12)])
    def test_matrices_of_a_wrong_length_are_rejected(self, lengths):
        k, r, p = ((1.0,) * n for n in lengths)
        with pytest.raises(CameraError, match="K, R, P have"):
            calibration_from_camera_info(640, 480, k, (), "plumb_bob", r, p)

    @pytest.mark.parametrize(
        ("model", "count", "text"),
        [
            ("plumb_bob", 7, "4 or 5 or 8 or 12 or 14"),
            ("plumb_bob", 3, "4 or 5 or 8 or 12 or 14"),
            ("rational_polynomial", 6, "4 or 5 or 8 or 12 or 14"),
            ("equidistant", 5, "has 4"),
            ("pinhole", 5, "known"),
        ],
    )
    def test_wrong_number_of_coefficients_or_unknown_model_is_rejected(self, model, count, text):
        calibration = calibration_from_camera_info(1242, 375, K, (0.1,) * count, model, EYE, P)
        with pytest.raises(CameraError, match=text):
            calibration.camera(rectified=False)

    @pytest.mark.parametrize("model", ["", "none"])
    def test_coefficients_without_a_model_are_rejected(self, model):
        with pytest.raises(CameraError, match="without a distortion model"):
            Calibration(1242, 375, K, D, model, EYE, P).camera(rectified=False)

    def test_roi_beyond_the_image_is_rejected(self):
        with pytest.raises(CameraError, match="roi 100x10 at"):
            calibration_from_camera_info(640, 480, K, D, "plumb_bob", EYE, P, roi=(600, 0, 100, 10))

    def test_binning_beyond_the_image_size_is_rejected(self):
        with pytest.raises(CameraError, match="exceeds the image size"):
            calibration_from_camera_info(640, 3, K, D, "plumb_bob", EYE, P, binning=(1, 4))


class TestCameraInfo:
    def fields(self, upper: bool = False, **changes):
        names = {"k": np.array(K), "d": np.array(D), "r": np.array(EYE), "p": np.array(P)}
        names = {name.upper() if upper else name: value for name, value in names.items()}
        roi = SimpleNamespace(x_offset=40, y_offset=20, width=1000, height=300, do_rectify=False)
        return SimpleNamespace(
            **{"width": 1242, "height": 375, "distortion_model": "plumb_bob", "binning_x": 2, "binning_y": 0, "roi": roi}
            | names
            | changes
        )

    @pytest.mark.parametrize("upper", [False, True], ids=["ROS 2", "ROS 1"])
    def test_roi_and_binning_are_applied(self, upper):
        calibration = decode_camera_info(self.fields(upper))
        assert (calibration.width, calibration.height) == (500, 300)
        assert calibration.k == pytest.approx((K[0] / 2, 0, (K[2] - 40) / 2, 0, K[4], K[5] - 20, 0, 0, 1))
        assert calibration.p[:8] == pytest.approx((350, 0, 280, 22.5, 0, 701, 150, -1.1))
        assert (calibration.d, calibration.r, calibration.distortion_model) == (D, EYE, "plumb_bob")

    def test_binning_of_an_odd_size_rounds_down(self):
        message = self.fields(roi=SimpleNamespace(x_offset=0, y_offset=0, width=0, height=0), binning_x=4, binning_y=4)
        calibration = decode_camera_info(message)
        assert (calibration.width, calibration.height) == (310, 93)
        assert (calibration.k[0], calibration.k[4]) == (K[0] / 4, K[4] / 4)

    def test_zero_rotation_becomes_the_identity(self):
        assert decode_camera_info(self.fields(r=np.zeros(9))).r == EYE

    def test_unreadable_values_are_rejected(self):
        with pytest.raises(CameraError, match="cannot be read"):
            decode_camera_info(self.fields(d=["x"]))
