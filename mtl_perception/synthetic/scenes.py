"""Random street scenes for training, rendered with exact labels and depth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from mtl_perception.camera.model import CameraModel
from mtl_perception.errors import SourceError
from mtl_perception.labels import STREET
from mtl_perception.synthetic.appearance.light import Light, Weather, random_weather
from mtl_perception.synthetic.appearance.sensor import lens_effects
from mtl_perception.synthetic.appearance.textures import Textures
from mtl_perception.synthetic.camera import FRAME_ID, random_camera
from mtl_perception.synthetic.geometry.mesh import join
from mtl_perception.synthetic.layout.plan import StreetPlan
from mtl_perception.synthetic.layout.scene_crowd import scene_crowd
from mtl_perception.synthetic.layout.street import build_street
from mtl_perception.synthetic.layout.styles import SCENE_REACH, scene_style
from mtl_perception.synthetic.parts.library import Library
from mtl_perception.synthetic.render.raycasting import RayCaster, require_open3d
from mtl_perception.synthetic.render.renderer import render
from mtl_perception.types import Frame, Sample

IMAGES_PER_STREET = 10
"""Default number of images of each street."""

BLOCKED_DISTANCE, BLOCKED_SHARE = 2.4, 0.15
"""A view is blocked and sampled again if more than this share of its pixels is nearer than this distance (m)."""

HEIGHT = 1.68, 0.2
"""Mean and standard deviation of the camera's height above the road, m: behind a windshield or on a roof."""


@dataclass(frozen=True)
class View:
    """Camera pose, intrinsics and light of a scene.

    Attributes:
        camera: Intrinsics.
        position: 3, world meters: x right, y forward, z above the road.
        heading: Radians to the left of the world's y axis.
        pitch: Radians upwards.
        roll: Radians clockwise as the camera sees it.
        weather: The light.
    """

    camera: CameraModel
    position: np.ndarray
    heading: float
    pitch: float
    roll: float
    weather: Weather


class SyntheticScenes:
    """Images of random streets; image `i` of a seed has the same bytes in whatever order images are requested.

    Consecutive images show one street with varying camera, position, light and traffic; sequential
    access is several times faster than random access.

    Args:
        count: Number of images.
        width: Image width, pixels.
        height: Image height, pixels.
        seed: Seed of everything random.
        window: Share of the width of a whole image that an image shows, see `random_camera`.
        per_street: Number of images of each street.

    Raises:
        SourceError: The count, size, seed, window or number of images of a street is out of range.
        DependencyError: Open3D or a system library that it loads is missing.
    """

    license = "Apache-2.0"
    classes = STREET

    def __init__(
        self,
        count: int,
        width: int = 640,
        height: int = 192,
        seed: int = 0,
        window: float = 1.0,
        per_street: int = IMAGES_PER_STREET,
    ) -> None:
        if count < 1 or width < 8 or height < 8 or seed < 0 or not 0 < window <= 1 or per_street < 1:
            raise SourceError(
                f"synthetic scenes: {count} images of {width}x{height}, {per_street} per street, seed {seed}, window "
                f"{window:g}: needs at least 1 image of 8x8, 1 per street, a seed of 0 or more, a window above 0 and up to 1"
            )
        require_open3d()
        self.name = f"scenes-{seed}-{width}x{height}" + ("" if window == 1 else f"-window-{window:g}")
        if per_street != IMAGES_PER_STREET:
            self.name += f"-{per_street}-per-street"
        self.width, self.height, self.seed, self.window, self.per_street = width, height, seed, window, per_street
        self._count = count
        self._library = Library(seed)
        self._textures = Textures(np.random.default_rng([seed, 2]))
        self._street: tuple[int, StreetPlan, RayCaster] | None = None

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Sample:
        return self.sample(index)

    def __getstate__(self) -> dict[str, Any]:
        # A ray caster cannot be pickled; the street and the library are rebuilt from the seed.
        return {**self.__dict__, "_library": Library(self.seed), "_street": None}

    @property
    def keys(self) -> list[str]:
        """Names of the images."""
        return [self._key(i) for i in range(self._count)]

    def _key(self, index: int) -> str:
        return f"{self.name}-{index:06d}"

    def sample(self, index: int) -> Sample:
        """Render image `index` with labels (of labels.STREET; 255 for unlabeled) and depth in meters (+Inf in the sky).

        Raises:
            IndexError: `index` is out of range.
        """
        return self.sample_with_view(index)[1]

    def sample_with_view(self, index: int) -> tuple[View, Sample]:
        """Render image `index` and return its view and sample.

        Raises:
            IndexError: `index` is out of range.
        """
        if not 0 <= index < self._count:
            raise IndexError(f"{self.name}: no image {index} of {self._count}")
        plan, caster = self._load_street(index // self.per_street)
        attempt = 0
        while True:
            rng = np.random.default_rng([self.seed, 4, index, attempt])
            attempt += 1
            view, place = self._random_view(rng, plan)
            if attempt < 8 and any(np.hypot(x - place[0], y - place[1]) < radius + 1.0 for x, y, radius in plan.obstacles):
                continue
            scene = caster.scene([user.mesh(plan.road) for user in scene_crowd(rng, plan, self._library, *place)])
            light = Light(rng, view.weather, self._textures)
            noise = float(rng.gamma(1.5, 0.7))
            tilt = (view.pitch, view.roll)
            image, labels, depth = render(scene, light, view.camera, view.position, view.heading, rng, tilt, noise)
            if attempt >= 8 or np.mean(depth < BLOCKED_DISTANCE) < BLOCKED_SHARE:
                break
        image = lens_effects(rng, image)
        return view, Sample(Frame(image, view.camera, 0, FRAME_ID), labels, depth, self._key(index))

    def _load_street(self, number: int) -> tuple[StreetPlan, RayCaster]:
        if self._street is None or self._street[0] != number:
            rng = np.random.default_rng([self.seed, 3, number])
            plan = build_street(rng, self._library, scene_style(rng))
            self._street = (number, plan, RayCaster(join(plan.parts), threads=1))
        return self._street[1:]

    def _random_view(self, rng: np.random.Generator, plan: StreetPlan) -> tuple[View, tuple[float, float]]:
        """Return a random view, and the lateral position and y of its camera on the street."""
        y = float(rng.uniform(0, SCENE_REACH))
        where = rng.random()
        half = plan.lane * plan.lanes
        if where < 0.62:
            lateral = plan.hand * plan.lane * (0.5 + int(rng.integers(plan.lanes)))
        elif where < 0.82:
            lateral = rng.uniform(-half, half)
        elif where < 0.9:
            lateral = int(rng.choice((-1, 1))) * (half - 0.5)
        else:
            side = int(rng.choice((-1, 1)))
            lateral = side * rng.uniform(plan.sides[side].curb, plan.sides[side].front)
        lateral += rng.normal(0, 0.25)
        yaw = float(np.clip(rng.normal(0, 0.075), -0.1745, 0.1745))
        if rng.random() < 0.12:
            yaw = float(rng.uniform(-0.5, 0.5))
        position = np.array([*plan.road.at(lateral, y), float(np.clip(rng.normal(*HEIGHT), 1.2, 2.2))])
        pitch = float(np.clip(rng.normal(0, 0.016), -0.0524, 0.0524))
        roll = float(np.clip(rng.normal(0, 0.01), -0.0262, 0.0262))
        view = View(
            random_camera(rng, self.width, self.height, self.window),
            position,
            plan.road.heading(y) + yaw,
            pitch,
            roll,
            random_weather(rng),
        )
        return view, (lateral, y)
