"""Drive along a random street, rendered with exact labels and depth."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from mtl_perception.camera.transforms import StaticTransform, optical_transform, static_transform
from mtl_perception.errors import SourceError
from mtl_perception.synthetic.appearance.light import Light
from mtl_perception.synthetic.camera import FRAME_ID, kitti_camera
from mtl_perception.synthetic.geometry.mesh import join
from mtl_perception.synthetic.layout.drive_crowd import AHEAD, BEHIND, drive_crowd, traveled
from mtl_perception.synthetic.layout.street import build_street
from mtl_perception.synthetic.layout.styles import drive_style
from mtl_perception.synthetic.parts.library import Library
from mtl_perception.synthetic.render.raycasting import RayCaster, require_open3d
from mtl_perception.synthetic.render.renderer import render
from mtl_perception.types import Frame, Sample

CAMERA_HEIGHT = 1.65
"""Meters above the road."""

START_NS = 1_700_000_000_000_000_000
"""Stamp of the first frame."""


class SyntheticDrive:
    """Images of a level, forward-looking camera on a car that drives along a random street.

    The same arguments give the same bytes in every run.

    Args:
        frames: Number of images.
        width: Image width, pixels; the focal length is KITTI's for an image of this width.
        height: Image height, pixels.
        seed: Seed of the street, its traffic and the light.
        rate_hz: Images per second.

    Raises:
        SourceError: The count, size, rate or seed is out of range.
        DependencyError: Open3D or a system library that it loads is missing.
    """

    def __init__(self, frames: int = 60, width: int = 1242, height: int = 375, seed: int = 0, rate_hz: float = 10.0) -> None:
        if frames < 1 or width < 8 or height < 8 or seed < 0 or not 0 < rate_hz < float("inf"):
            raise SourceError(
                f"synthetic drive: {frames} frames of {width}x{height} at {rate_hz} Hz, seed {seed}: needs at least 1 frame "
                "of 8x8, a rate above 0 and a seed of 0 or more"
            )
        self.name = f"synthetic-{seed}"
        self.rate_hz = float(rate_hz)
        self.seed = seed
        require_open3d()
        self.camera = kitti_camera(width, height)
        self._frames = frames
        rng = np.random.default_rng([seed, 0])
        self._light = Light(rng)
        duration, library = frames / rate_hz, Library(seed)
        self._street = build_street(rng, library, drive_style(rng, traveled(duration)))
        self._users = drive_crowd(rng, self._street, library, duration)
        self._caster = RayCaster(join(self._street.parts))
        self._street.parts.clear()

    def __len__(self) -> int:
        return self._frames

    def __iter__(self) -> Iterator[Frame]:
        for i in range(self._frames):
            yield self.sample(i).frame

    def pose(self, index: int) -> tuple[np.ndarray, float]:
        """Return the position (x, y, z, m) and heading (radians to the left of the y axis) of the camera in the world."""
        time = index / self.rate_hz
        y, road = traveled(time), self._street.road
        lateral = self._street.lane / 2 + 0.12 * float(np.sin(0.4 * time))
        return np.array([*road.at(lateral, y), CAMERA_HEIGHT]), road.heading(y)

    def static_transforms(self) -> list[StaticTransform]:
        """Return the poses of base_link, on the road below the camera, and of the camera."""
        link = static_transform("base_link", "camera_link", (0.0, 0.0, CAMERA_HEIGHT))
        return [link, optical_transform("camera_link", FRAME_ID)]

    def sample(self, index: int) -> Sample:
        """Render image `index` with its labels (of labels.STREET) and depth.

        Raises:
            IndexError: `index` is out of range.
        """
        if not 0 <= index < self._frames:
            raise IndexError(f"{self.name}: no image {index} of {self._frames}")
        time = index / self.rate_hz
        y, road = traveled(time), self._street.road
        position, heading = self.pose(index)
        near = [user for user in self._users if -BEHIND < user.y_at(time) - y < AHEAD]
        scene = self._caster.scene([user.mesh(road, time) for user in near])
        noise = np.random.default_rng([self.seed, 1, index])
        image, labels, depth = render(scene, self._light, self.camera, position, heading, noise)
        stamp = START_NS + round(index * 1e9 / self.rate_hz)
        return Sample(Frame(image, self.camera, stamp, FRAME_ID), labels, depth, f"{self.name}/{index:06d}")
