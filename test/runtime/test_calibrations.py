"""Camera models derived from the latest CameraInfo."""

from __future__ import annotations

from mtl_perception.camera.model import Calibration
from mtl_perception.runtime.calibrations import CACHE_SIZE, CalibrationCache, CameraState

K = (40.0, 0.0, 15.5, 0.0, 41.0, 11.5, 0.0, 0.0, 1.0)
CALIBRATION = Calibration(32, 24, K)


def test_no_camera_model_before_the_first_camera_info() -> None:
    assert CalibrationCache().state((32, 24), rectified=True) == CameraState()


def test_model_is_scaled_to_the_image_with_a_note() -> None:
    cache = CalibrationCache()
    cache.update(CALIBRATION)
    same, half = cache.state(None, rectified=True), cache.state((16, 12), rectified=True)
    assert same.model is not None and (same.model.width, same.model.fx, same.notes) == (32, 40.0, {})
    assert half.model is not None and (half.model.width, half.model.fx) == (16, 20.0)
    assert half.notes == {"scaled": "camera_info is for 32x24; intrinsics are scaled to the image's 16x12"}


def test_use_of_p_in_place_of_a_missing_k_is_noted() -> None:
    cache = CalibrationCache()
    cache.update(Calibration(32, 24, (0.0,) * 9, p=(*K[:3], 0.0, *K[3:6], 0.0, *K[6:], 0.0)))
    state = cache.state(None, rectified=True)
    assert state.model is not None and state.model.fx == 40.0
    assert state.notes == {"no K": "K in camera_info is 0; using P"}
    assert cache.state(None, rectified=False).error.startswith("camera is uncalibrated: K[0] is 0 and only P is set")


def test_intrinsics_of_another_image_size_are_noted_and_used() -> None:
    cache = CalibrationCache()
    cache.update(Calibration(64, 48, K))
    state = cache.state((64, 48), rectified=True)
    assert state.model is not None and state.model.cx == 15.5
    assert state.notes == {
        "size mismatch": "principal point (15.5, 11.5) is far from the center of 64x48 pixels: "
        "K and P in camera_info do not seem to match this image size"
    }


def test_unusable_camera_info_replaces_the_calibration() -> None:
    cache = CalibrationCache()
    cache.update(CALIBRATION)
    cache.update("camera_info has non-finite values")
    assert cache.state((32, 24), rectified=True) == CameraState(error="camera_info has non-finite values")


def test_image_of_another_aspect_ratio_has_no_model() -> None:
    cache = CalibrationCache()
    cache.update(CALIBRATION)
    state = cache.state((32, 32), rectified=True)
    assert state.model is None
    assert "the image has 32x32" in state.error


def test_changes_are_counted_from_a_usable_calibration() -> None:
    cache = CalibrationCache()
    other = Calibration(32, 24, (50.0, *K[1:]))
    counts = []
    for calibration in (CALIBRATION, CALIBRATION, other, "unusable", "unusable", CALIBRATION):
        cache.update(calibration)
        counts.append(cache.changes)
    assert counts == [0, 0, 1, 2, 2, 2]


def test_models_of_many_sizes_do_not_fill_the_memory() -> None:
    cache = CalibrationCache()
    cache.update(CALIBRATION)
    for i in range(1, 3 * CACHE_SIZE):
        assert cache.state((32 * i, 24 * i), rectified=True).model is not None
        assert len(cache._states) <= CACHE_SIZE
