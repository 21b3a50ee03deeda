"""Calibration of a camera, as its CameraInfo messages change it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mtl_perception.camera.model import USING_P, Calibration, CameraModel
from mtl_perception.errors import CameraError

CACHE_SIZE = 32
"""Number of camera models kept; a camera that changes its calibration all the time must not fill the memory."""


@dataclass(frozen=True)
class CameraState:
    """Camera model for an image size, or why there is none.

    Attributes:
        model: None while no CameraInfo was received, or if it is unusable.
        error: Why CameraInfo is unusable; empty if it is not.
        notes: Remarks on a usable CameraInfo by stable names; usually empty.
    """

    model: CameraModel | None = None
    error: str = ""
    notes: Mapping[str, str] = field(default_factory=dict)


class CalibrationCache:
    """Latest calibration of a camera, with the camera models derived from it.

    One thread updates it while another reads it.

    Attributes:
        latest: Calibration in the latest CameraInfo, or why that is unusable; None before the first one.
        changes: Number of times that the calibration changed.
    """

    def __init__(self) -> None:
        # Replaced as a whole, so that a reader never sees half an update.
        self.latest: Calibration | str | None = None
        self.changes = 0
        self._states: dict[tuple[Calibration, int, int, bool], CameraState] = {}

    def update(self, latest: Calibration | str) -> None:
        """Replace the calibration; an unusable CameraInfo replaces it, too, because the camera may have changed."""
        if isinstance(self.latest, Calibration) and latest != self.latest:
            self.changes += 1
        self.latest = latest

    def state(self, size: tuple[int, int] | None, rectified: bool) -> CameraState:
        """Return the camera model for an image size.

        Args:
            size: Width and height of the image in pixels; None for the size of the calibration.
            rectified: Whether images are rectified.
        """
        calibration = self.latest
        if calibration is None:
            return CameraState()
        if isinstance(calibration, str):
            return CameraState(error=calibration)
        width, height = size or (calibration.width, calibration.height)
        key = (calibration, width, height, rectified)
        state = self._states.get(key)
        if state is None:
            if len(self._states) >= CACHE_SIZE:
                self._states.clear()
            state = self._states[key] = _derive(calibration, width, height, rectified)
        return state


def _derive(calibration: Calibration, width: int, height: int, rectified: bool) -> CameraState:
    try:
        model = calibration.for_image(width, height).camera(rectified)
    except CameraError as error:
        return CameraState(error=str(error))
    notes = {}
    if (calibration.width, calibration.height) != (width, height):
        size = f"{calibration.width}x{calibration.height}"
        notes["scaled"] = f"camera_info is for {size}; intrinsics are scaled to the image's {width}x{height}"
    if calibration.lacks_k:
        notes["no K"] = USING_P
    if model.size_mismatch:
        notes["size mismatch"] = model.size_mismatch
    return CameraState(model, notes=notes)
