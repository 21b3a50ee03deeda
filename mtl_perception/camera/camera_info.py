"""Calibrations from the values of sensor_msgs/CameraInfo."""

from __future__ import annotations

import math
from collections.abc import Sequence

from mtl_perception.camera.model import IDENTITY, LARGEST, MAX_SIDE, Calibration
from mtl_perception.errors import CameraError, truncated_repr


def calibration_from_camera_info(
    width: int,
    height: int,
    k: Sequence[float],
    d: Sequence[float],
    distortion_model: str,
    r: Sequence[float],
    p: Sequence[float],
    binning: tuple[int, int] = (0, 0),
    roi: tuple[int, int, int, int] = (0, 0, 0, 0),
) -> Calibration:
    """Make a calibration from the values of a CameraInfo, with region of interest and binning applied.

    Args:
        width: Full resolution width.
        height: Full resolution height.
        k: 9 values, for the full resolution.
        d: Distortion coefficients.
        distortion_model: ROS name of the model.
        r: 9 values; all zeros are taken as the identity.
        p: 12 values, for the full resolution.
        binning: Pixels combined along u and v; 0 means 1.
        roi: x_offset, y_offset, width, height at full resolution; width and height 0 mean all.

    Raises:
        CameraError: Sizes are 0, values are not finite, or the region exceeds the image.
    """
    values = (*k, *d, *r, *p)
    if not all(math.isfinite(value) for value in values):
        raise CameraError("camera_info has non-finite values (NaN or Inf) in K, D, R or P")
    if not all(abs(value) <= LARGEST for value in values):
        raise CameraError(f"camera_info has values beyond {LARGEST:g} in K, D, R or P")
    if width == height == 0:
        if not any((*k, *p)):
            raise CameraError(
                "camera is uncalibrated: camera_info is empty; calibrate it, or give its driver the calibration file"
            )
        raise CameraError("camera_info has no image size: width and height are 0; let its publisher set them")
    if not (1 <= width <= MAX_SIDE and 1 <= height <= MAX_SIDE):
        raise CameraError(f"camera_info has an invalid image size ({truncated_repr(width)}x{truncated_repr(height)})")
    rotation = tuple(map(float, r)) if any(r) else IDENTITY
    calibration = Calibration(
        width, height, tuple(map(float, k)), tuple(map(float, d)), distortion_model, rotation, tuple(map(float, p))
    )
    x, y, roi_width, roi_height = roi
    if roi_width and roi_height and roi != (0, 0, width, height):
        if x + roi_width > width or y + roi_height > height:
            raise CameraError(f"camera_info's roi {roi_width}x{roi_height} at ({x}, {y}) exceeds the image of {width}x{height}")
        calibration = calibration.cropped(x, y, roi_width, roi_height)
    return calibration.binned(max(binning[0], 1), max(binning[1], 1))
