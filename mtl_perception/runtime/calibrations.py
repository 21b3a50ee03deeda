"""Calibration of a camera, as its CameraInfo messages change it."""

from __future__ import annotations

from dataclasses import dataclass

from mtl_perception.camera.model import Calibration, CameraModel
from mtl_perception.errors import CameraError

CACHE_SIZE = 32
"""Number of camera models kept; a camera that changes its calibration all the time must not fill the memory."""


@dataclass(frozen=True)
class CameraState:
    """Camera model for an image size, or why there is none.

    Attributes:
        model: None while no CameraInfo was received, or if it is unusable.
        error: Why CameraInfo is unusable; empty if it is not.
        note: Remark on a usable CameraInfo; usually empty.
    """

    model: CameraModel | None = None
    error: str = ""
    note: str = ""


class CalibrationCache:
    """Latest calibration of a camera, with the camera models derived from it.

    One thread updates it while another reads it.

    Attributes:
        latest: Latest calibration, or the error in it; None before the first CameraInfo.
        changes: Number of times that the calibration changed.
    """

    def __init__(self) -> None:
        # Replaced as a whole, so that a reader never sees half an update.
        self.latest: Calibration | CameraError | None = None
        self.changes = 0
        self._states: dict[tuple[Calibration, int, int, bool], CameraState] = {}

    def update(self, calibration: Calibration | CameraError) -> None:
        """Replace the calibration; an error replaces it, too, because the camera may have changed."""
        if isinstance(self.latest, Calibration) and calibration != self.latest:
            self.changes += 1
        self.latest = calibration

    def state(self, size: tuple[int, int] | None, rectified: bool) -> CameraState:
        """Return the camera model for an image size.

        Args:
            size: Width and height of the image in pixels; None for the size of the calibration.
            rectified: Whether images are rectified.
        """
        latest = self.latest
        if latest is None:
            return CameraState()
        if isinstance(latest, CameraError):
            return CameraState(error=str(latest))
        width, height = size or (latest.width, latest.height)
        key = (latest, width, height, rectified)
        state = self._states.get(key)
        if state is None:
            if len(self._states) >= CACHE_SIZE:
                self._states.clear()
            state = self._states[key] = _derive(latest, width, height, rectified)
        return state


def _derive(calibration: Calibration, width: int, height: int, rectified: bool) -> CameraState:
    try:
        model = calibration.for_image(width, height).camera(rectified)
    except CameraError as error:
        return CameraState(error=str(error))
    if (calibration.width, calibration.height) == (width, height):
        return CameraState(model)
    note = f"camera_info is for {calibration.width}x{calibration.height}; intrinsics are scaled to the image's {width}x{height}"
    return CameraState(model, note=note)
