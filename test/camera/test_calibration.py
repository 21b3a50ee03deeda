"""Calibrations: the camera of an image, rectification, regions and binning, and CameraInfo messages."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from support.calibrations import EYE, LENSES, D, K, P

from mtl_perception.camera.camera_info import calibration_from_camera_info
from mtl_perception.camera.model import Calibration, CameraModel
from mtl_perception.errors import CameraError
from mtl_perception.messages.decode import decode_camera_info


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
        ("named", "lens"),
        [
            ("radtan", "plumb_bob 4"),  # Kalibr
            ("brown_conrady", "plumb_bob 5"),  # RealSense's SDK
            ("Brown Conrady", "plumb_bob 5"),
            ("Plumb Bob", "plumb_bob 5"),
            ("kannala_brandt4", "equidistant"),
            ("KANNALA_BRANDT", "equidistant"),
            ("kannala_brandt", "equidistant, ideal"),
        ],
    )
    def test_other_names_of_distortion_models_are_known(self, named, lens):
        model, coefficients = LENSES[lens]
        calibration = Calibration(1242, 375, K, coefficients, named, EYE, P)
        assert (calibration.distortion_model, calibration.is_distorted) == (model, True)
        expected = Calibration(1242, 375, K, coefficients, model, EYE, P).camera(rectified=False).rays(stride=20)
        assert np.isfinite(expected).any()
        np.testing.assert_array_equal(calibration.camera(rectified=False).rays(stride=20), expected)

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
