"""What is the same for all sources of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mtl_perception.config import Config
from mtl_perception.sources.base import WHOLE, Source, TimeSlice
from mtl_perception.sources.open import open_source


@dataclass(frozen=True)
class Settings:
    """What is the same for all sources of a run.

    Attributes:
        config: Parameters.
        topics: Names of the outputs to write.
        with_input: Whether to write the images and their CameraInfo as well.
        part: Part of each source.
        camera_file: Calibration file to use instead of the sources' calibration.
        image_topic: See `open_source`.
        camera_info_topic: See `open_source`.
        images: Whether to write data sets instead of bags.
    """

    config: Config
    topics: Sequence[str]
    with_input: bool = False
    part: TimeSlice = WHOLE
    camera_file: Path | None = None
    image_topic: str = ""
    camera_info_topic: str = ""
    images: bool = False

    def open(self, spec: str) -> Source:
        """Open a source; see `open_source`."""
        return open_source(
            spec,
            rectified=self.config.input_rectified,
            camera_file=self.camera_file,
            image_topic=self.image_topic,
            camera_info_topic=self.camera_info_topic,
        )
