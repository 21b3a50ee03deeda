"""A data set with its part in a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from mtl_perception.camera.model import CameraModel
from mtl_perception.network.description import KITTI_CAMERA
from mtl_perception.training.data.dataset import Dataset
from mtl_perception.types import Sample


@dataclass(frozen=True)
class TrainingSet:
    """A data set with its part in the run.

    Attributes:
        pictures: The samples.
        share: Its part of each batch, beside the others'.
        focal_length: Assumed where a sample's camera is unknown, pixels; 0: KITTI's field of view.
        teach: Whether a teacher shall fill what its samples leave open: not where the truth is whole, as a renderer's is.
        figures: Whether its people and cyclists may be set into other pictures.
        taught: What a teacher says of the same samples, in the same order; None: there is no teacher.
    """

    pictures: Dataset
    share: float = 1.0
    focal_length: float = 0.0
    teach: bool = True
    figures: bool = True
    taught: Sequence[Sample] | None = None

    def sample(self, index: int) -> Sample:
        """A sample with a camera: its own or the assumed one."""
        sample = self.pictures[index]
        frame = replace(sample.frame, camera=camera_of(sample, self.focal_length))
        return replace(sample, frame=frame)


def camera_of(sample: Sample, focal_length: float = 0.0) -> CameraModel:
    """The sample's camera, or one assumed for a picture whose camera nobody knows.

    Args:
        sample: The picture.
        focal_length: Of the assumed camera, pixels; 0: KITTI's field of view.
    """
    if sample.frame.camera is not None:
        return sample.frame.camera
    height, width = sample.frame.image.shape[:2]
    focal_length = focal_length or KITTI_CAMERA["fx"] * width / KITTI_CAMERA["width"]
    return CameraModel(width, height, focal_length, focal_length, width / 2, height / 2)
