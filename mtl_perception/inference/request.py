"""Inference requests: frames of one size with everything that a backend needs to know about them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from mtl_perception.camera.model import CameraModel
from mtl_perception.config import Config
from mtl_perception.network.grid import ResizeSpec, uncropped_size
from mtl_perception.types import Frame


@dataclass(frozen=True)
class Request:
    """Frames of one size to be processed in one pass.

    Attributes:
        frames: Validated images and their cameras.
        wanted: Names of outputs for each frame; see types.ALL_OUTPUTS.
        depth_factors: Meters per unit of transformed depth, for each frame.
        grid: The description's: how the network's outputs lie over the image.
        max_depth: Meters: the parameter, or the weights' own range.
        config: All other parameters.
    """

    frames: Sequence[Frame]
    wanted: Sequence[frozenset[str]]
    depth_factors: Sequence[float]
    grid: str
    max_depth: float
    config: Config

    @cached_property
    def cameras(self) -> list[CameraModel | None]:
        """The outputs' cameras."""
        height, width = self.output_size
        return [None if frame.camera is None else frame.camera.scaled(width, height) for frame in self.frames]

    def outputs(self, index: int) -> frozenset[str]:
        """Return the names of the outputs of frame `index`: a cloud only if it has a camera."""
        wanted = self.wanted[index]
        return wanted if self.frames[index].camera else wanted - {"cloud"}

    def predictions(self, index: int) -> frozenset[str]:
        """Return the names of what the network must predict for frame `index`: a cloud needs labels and depth."""
        outputs = self.outputs(index)
        return (outputs | {"labels", "depth"} if "cloud" in outputs else outputs) - {"cloud", "image"}

    @cached_property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the images."""
        height, width = self.frames[0].image.shape[:2]
        return int(height), int(width)

    @cached_property
    def output_size(self) -> tuple[int, int]:
        """Height and width of the outputs."""
        return scaled_size(*self.image_size, self.config.output_scale)

    @cached_property
    def network_size(self) -> tuple[int, int]:
        """Height and width of the network's input."""
        return scaled_size(*self.image_size, self.config.input_scale)

    @cached_property
    def resize_spec(self) -> ResizeSpec:
        """How the network's outputs are resized to those of the request."""
        uncropped = uncropped_size(self.network_size, self.output_size, self.grid)
        return ResizeSpec(self.output_size, uncropped, self.config.upsampling)


def scaled_size(height: int, width: int, scale: float) -> tuple[int, int]:
    """Return an image's height and width at another scale: whole pixels, at least one."""
    return max(round(height * scale), 1), max(round(width * scale), 1)
