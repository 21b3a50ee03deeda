"""Protocol of frame sources, and helpers shared by them."""

from __future__ import annotations

import logging
import math
import re
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Protocol

from mtl_perception.camera.model import USING_P, Calibration, CameraModel
from mtl_perception.camera.transforms import StaticTransform
from mtl_perception.errors import CameraError
from mtl_perception.messages.raw_input import describe_raw_input
from mtl_perception.types import Frame

DEFAULT_RATE_HZ = 10.0
"""Rate of sources whose images have no stamps."""

FRAME_ID = "camera_optical_frame"
"""Optical frame of cameras whose source does not name it."""

logger = logging.getLogger(__name__)


class Source(Protocol):
    """Frames in the order of acquisition; each iteration starts at the beginning and loads images on demand.

    Attributes:
        name: Name of the folder or file.
        rate_hz: Nominal frame rate: from the median interval of the stamps, or 10 Hz without stamps.
    """

    name: str
    rate_hz: float

    def __len__(self) -> int:
        """Return the number of images, including unreadable ones."""

    def __iter__(self) -> Iterator[Frame]:
        """Return an iterator over the frames; a frame's camera has the size of its image, or is None."""

    def static_transforms(self) -> list[StaticTransform]:
        """Return the known static transforms of the camera and the vehicle; empty if there are none."""


@dataclass(frozen=True)
class TimeSlice:
    """Part of a source: the frames from `start_s` until before `start_s + duration_s`, in seconds from the first image."""

    start_s: float = 0.0
    duration_s: float = math.inf

    def bounds_ns(self, first_ns: int) -> tuple[int, float]:
        """Return the first time of the slice and the first time after it, for a source whose first image has `first_ns`."""
        start = first_ns + round(self.start_s * 1e9)
        return start, math.inf if math.isinf(self.duration_s) else first_ns + round((self.start_s + self.duration_s) * 1e9)

    def count(self, source: Source) -> int:
        """Return the approximate number of frames of the slice."""
        rest = len(source) - self.start_s * source.rate_hz
        return max(1, round(min(rest, self.duration_s * source.rate_hz)))

    def __str__(self) -> str:
        """Return the slice as "10s-25.5s" or "10s-end"; "" for the whole source."""
        if self == WHOLE:
            return ""
        end = "end" if math.isinf(self.duration_s) else f"{round(self.start_s + self.duration_s, 6):.10g}s"
        return f"{self.start_s:.10g}s-{end}"


WHOLE = TimeSlice()


def timed_frames(source: Source, part: TimeSlice = WHOLE) -> Iterator[tuple[int, Frame]]:
    """Return an iterator over time (ns) and frame of a part of a source: bag time, or the stamp if it is not a bag."""
    if hasattr(source, "timed_frames"):
        yield from source.timed_frames(part)
        return
    bounds: tuple[int, float] | None = None
    for frame in source:
        start, end = bounds = bounds or part.bounds_ns(frame.stamp_ns)
        if frame.stamp_ns >= end:
            return
        if frame.stamp_ns >= start:
            yield frame.stamp_ns, frame


class CameraResolver:
    """Makes camera models for images of any size from calibrations; warns once for each reason why it cannot or should not.

    Args:
        name: Name of the source, for the warning.
        rectified: Whether the images are rectified: use P; otherwise K and the distortion.
        topic: Topic of the images, if they have one.
    """

    def __init__(self, name: str, rectified: bool, topic: str = "") -> None:
        self.name = name
        self.rectified = rectified
        self.topic = topic
        self._warned: set[str] = set()
        self._key: tuple[Calibration, int, int] | None = None
        self._camera: CameraModel | None = None

    def camera(self, calibration: Calibration | None, width: int, height: int) -> CameraModel | None:
        """Return the camera of an image of this size; None without a calibration that fits."""
        if calibration is None:
            return None
        key = (calibration, width, height)
        if key != self._key:
            self._key, self._camera = key, None
            try:
                self._camera = calibration.for_image(width, height).camera(self.rectified)
            except CameraError as error:
                self.warn(f"no camera for images of {width}x{height}: {error}")
            else:
                if calibration.lacks_k:
                    self.warn(USING_P)
                if self._camera.size_mismatch:
                    self.warn(self._camera.size_mismatch)
                if text := describe_raw_input(self.topic, calibration, self.rectified):
                    self.warn(text)
        return self._camera

    def warn(self, text: str) -> None:
        """Log a warning unless it was logged before."""
        if text not in self._warned:
            self._warned.add(text)
            logger.warning("%s: %s", self.name, text)


def rejection_note(source: Source) -> str:
    """Return the number of images that the last iteration skipped, with the reasons, as ", 3 rejected {…}"; "" if none."""
    rejected = dict(getattr(source, "rejected", {}))
    return f", {sum(rejected.values())} rejected {rejected}" if rejected else ""


def median_rate_hz(stamps_ns: Sequence[int]) -> float:
    """Return the frame rate from the median interval of stamps; 10 Hz if no interval is positive."""
    intervals = [after - before for before, after in pairwise(stamps_ns) if after > before]
    return 1e9 / statistics.median(intervals) if intervals else DEFAULT_RATE_HZ


def natural_key(path: Path) -> tuple[list[tuple[int, int, str]], str]:
    """Return a sort key of the file name that orders numbers by value: frame_9 before frame_10."""
    parts = re.split(r"([0-9]+)", path.name)
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts if part], path.name
