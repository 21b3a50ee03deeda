"""What is to be done with frames, in numbers: what a pipeline asks of whatever computes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mtl_perception.camera.model import CameraModel
from mtl_perception.network.grid import ResizeSpec, uncropped_size
from mtl_perception.types import Frame


@dataclass(frozen=True)
class Job:
    """Frames of one size to be done in one pass.

    Attributes:
        frames: The pictures, checked, and their cameras.
        wanted: Of types.OUTPUTS, for each frame.
        depth_factors: Meters over transformed depth, for each frame.
        output_size: Height and width.
        grid: Of the network's description: how its outputs lie over the picture.
        input_scale: The network sees the pictures shrunk to this part of their size.
        upsampling: bicubic or bilinear.
        min_depth: Meters.
        max_depth: Meters.
        min_confidence: 0 to 1.
    """

    frames: Sequence[Frame]
    wanted: Sequence[frozenset[str]]
    depth_factors: Sequence[float]
    output_size: tuple[int, int]
    grid: str
    input_scale: float
    upsampling: str
    min_depth: float
    max_depth: float
    min_confidence: float

    @property
    def cameras(self) -> list[CameraModel | None]:
        """The outputs' cameras."""
        height, width = self.output_size
        return [None if frame.camera is None else frame.camera.scaled(width, height) for frame in self.frames]

    def outputs(self, index: int) -> frozenset[str]:
        """What frame `index` is to give: what is wanted, but no cloud without a camera."""
        return self.wanted[index] - (frozenset() if self.frames[index].camera else {"cloud"})

    @property
    def network_size(self) -> tuple[int, int]:
        """Height and width that the network sees."""
        height, width = self.frames[0].image.shape[:2]
        return scaled_size(height, width, self.input_scale)

    @property
    def growth(self) -> ResizeSpec:
        """How the network's outputs become those of the job."""
        return ResizeSpec(self.output_size, uncropped_size(self.network_size, self.output_size, self.grid), self.upsampling)


def scaled_size(height: int, width: int, scale: float) -> tuple[int, int]:
    """A picture's height and width at another scale, whole pixels and at least one."""
    return max(round(height * scale), 1), max(round(width * scale), 1)
