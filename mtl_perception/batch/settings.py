"""What is the same for all sources of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mtl_perception.config import Config
from mtl_perception.sources.base import WHOLE, Source, TimeSlice
from mtl_perception.sources.open import open_source
from mtl_perception.visualization.rerun import RerunOptions


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
        rerun: Recording to write for Rerun: a file, or a folder for one of each output; None for none.
        rerun_options: Content of the recordings.
    """

    config: Config
    topics: Sequence[str]
    with_input: bool = False
    part: TimeSlice = WHOLE
    camera_file: Path | None = None
    image_topic: str = ""
    camera_info_topic: str = ""
    images: bool = False
    rerun: Path | None = None
    rerun_options: RerunOptions = field(default_factory=RerunOptions)

    def open(self, spec: str) -> Source:
        """Open a source; see `open_source`."""
        return open_source(
            spec,
            rectified=self.config.input_rectified,
            camera_file=self.camera_file,
            image_topic=self.image_topic,
            camera_info_topic=self.camera_info_topic,
        )

    def rerun_file(self, out: Path) -> Path | None:
        """Return the recording for Rerun that belongs to an output; None without one."""
        if self.rerun is None or self.rerun.suffix == ".rrd":
            return self.rerun
        return self.rerun / f"{out.stem}.rrd"
