"""Calibrations and intrinsics that are refused."""

from __future__ import annotations

import math

import pytest
from support.calibrations import EYE, D, K, P

from mtl_perception.camera.camera_info import calibration_from_camera_info
from mtl_perception.camera.model import Calibration, CameraModel
from mtl_perception.errors import CameraError


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

    @pytest.mark.parametrize(
        ("fx", "fy"),
        [(1.0, 1.0), (0.8, 1.1), (4.0, 4.0), (500.0, 1.0)],
        ids=["default of image_publisher", "normalized", "millimeters", "fy"],
    )
    @pytest.mark.parametrize("rectified", [True, False])
    def test_focal_lengths_that_are_not_in_pixels_are_rejected(self, fx, fy, rectified):
        """The depth of the node is proportional to the focal length, so the scene would be hundreds of times too near."""
        k, p = (fx, 0.0, 320.0, 0.0, fy, 240.0, 0.0, 0.0, 1.0), (fx, 0.0, 320.0, 0.0, 0.0, fy, 240.0, 0.0, 0.0, 0.0, 1.0, 0.0)
        calibration = calibration_from_camera_info(640, 480, k, (0.0,) * 5, "plumb_bob", EYE, p)
        with pytest.raises(CameraError, match=rf"implausible .* fx {fx}, fy {fy}, .* 177 degrees; they must be in pixels"):
            calibration.camera(rectified)

    def test_widest_lenses_are_accepted(self):
        k, p = (32.5, 0, 320.0, 0, 32.5, 240.0, 0, 0, 1), (32.5, 0, 320.0, 0, 0, 32.5, 240.0, 0, 0, 0, 1, 0)
        assert calibration_from_camera_info(640, 480, k, (), "", EYE, p).camera(rectified=True).fx == 32.5
        assert CameraModel(1280, 1280, 333.0, 333.0, 640.0, 640.0, "equidistant", (0.0,) * 4).is_distorted  # 220 degrees.

    def test_camera_info_of_a_driver_without_calibration_file_is_rejected(self):
        """As usb_cam and gscam send it: everything is 0, the size included."""
        with pytest.raises(CameraError, match="uncalibrated: camera_info is empty; calibrate it, or give its driver the"):
            calibration_from_camera_info(0, 0, (0.0,) * 9, (), "", (0.0,) * 9, (0.0,) * 12)
        with pytest.raises(CameraError, match="no image size: width and height are 0; let its publisher set them"):
            calibration_from_camera_info(0, 0, K, D, "plumb_bob", EYE, P)

    def test_column_major_p_is_rejected(self):
        p = (500.0, 0.0, 0.0, 0.0, 500.0, 0.0, 320.0, 240.0, 1.0, 0.0, 0.0, 0.0)
        calibration = calibration_from_camera_info(640, 480, (500.0, 0, 320, 0, 500, 240, 0, 0, 1), (), "", EYE, p)
        with pytest.raises(CameraError, match=r"not fx 500.0, fy 0.0 \(P\[0\] and P\[5\] of the row-major matrix\)"):
            calibration.camera(rectified=True)

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
