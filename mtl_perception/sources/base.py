"""What every source of frames is, and what several of them share."""

from __future__ import annotations

import logging
import re
import statistics
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Protocol

from mtl_perception.camera.model import Calibration, CameraModel
from mtl_perception.errors import CameraError
from mtl_perception.types import Frame

DEFAULT_RATE_HZ = 10.0
"""The rate of sources whose pictures have no stamps."""

logger = logging.getLogger(__name__)


class Source(Protocol):
    """Frames in the order in which they were taken; each `iter()` starts anew and loads a picture only when it is due.

    Attributes:
        name: What a person would call it: the folder's or file's name.
        rate_hz: Nominal frames a second: the median of the stamps' distances, or 10 where there are no stamps.
    """

    name: str
    rate_hz: float

    def __len__(self) -> int:
        """Count of pictures, those that turn out to be unreadable included."""

    def __iter__(self) -> Iterator[Frame]:
        """The frames. Each one's camera is for that very picture size, or None."""


class CameraResolver:
    """The camera for pictures of any size, from calibrations; where there is none, a warning once for each cause.

    Args:
        name: The source's, for the warning.
        rectified: The pictures are rectified: P holds, otherwise K and the distortion.
    """

    def __init__(self, name: str, rectified: bool) -> None:
        self.name = name
        self.rectified = rectified
        self._warned: set[str] = set()
        self._key: tuple[Calibration, int, int] | None = None
        self._camera: CameraModel | None = None

    def camera(self, calibration: Calibration | None, width: int, height: int) -> CameraModel | None:
        """The camera of a picture of this size; None without a calibration, or when it cannot be this picture's."""
        if calibration is None:
            return None
        key = (calibration, width, height)
        if key != self._key:
            self._key, self._camera = key, None
            try:
                self._camera = calibration.for_image(width, height).camera(self.rectified)
            except CameraError as error:
                self.warn(f"no camera for the picture of {width}x{height}: {error}")
        return self._camera

    def warn(self, text: str) -> None:
        """Log a warning, unless it has been logged before."""
        if text not in self._warned:
            self._warned.add(text)
            logger.warning("%s: %s", self.name, text)


def median_rate_hz(stamps_ns: Sequence[int]) -> float:
    """Frames a second from the median distance of stamps; 10 where they tell nothing."""
    distances = [after - before for before, after in pairwise(stamps_ns) if after > before]
    return 1e9 / statistics.median(distances) if distances else DEFAULT_RATE_HZ


def natural_key(path: Path) -> tuple[list[tuple[int, int, str]], str]:
    """Sorts names as people do: frame_9 before frame_10."""
    parts = re.split(r"([0-9]+)", path.name)
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts if part], path.name
