"""Road users along a drive: traffic in both directions, cyclists and pedestrians."""

from __future__ import annotations

import numpy as np

from mtl_perception.synthetic.layout.crowd import Crowd, Motion, RoadUser
from mtl_perception.synthetic.layout.plan import StreetPlan
from mtl_perception.synthetic.parts.library import Library

SPEED, ONCOMING_SPEED, CYCLING_SPEED = 9.0, 9.5, 4.8
"""Mean speed of the camera, of oncoming vehicles, and of cyclists, m/s."""

PASSING = 4.0
"""Pedestrians have a free path from this long before to this long after the camera passes them, s."""

BEHIND, AHEAD = 25.0, 170.0
"""Road users are rendered from this far behind to this far ahead of the camera, m."""


def traveled(time: float) -> float:
    """Return the distance in meters that the camera has driven after `time` seconds, at 8.7 to 9.3 m/s."""
    return SPEED * time + 0.9 * float(np.sin(0.35 * time))


def drive_crowd(rng: np.random.Generator, plan: StreetPlan, library: Library, duration: float) -> list[RoadUser]:
    """Return random road users for a drive of `duration` seconds in the lane next to the center line."""
    return _DriveCrowd(rng, plan, library, duration).populate()


class _DriveCrowd(Crowd):
    def __init__(self, rng: np.random.Generator, plan: StreetPlan, library: Library, duration: float) -> None:
        super().__init__(rng, plan, library)
        self.duration = duration
        self.distance = traveled(duration)

    def populate(self) -> list[RoadUser]:
        self._traffic()
        self._cyclists()
        self._pedestrians()
        return self.users

    def _traffic(self) -> None:
        rng, end = self.rng, self.plan.end
        own, oncoming = (self.lane_center(0, way) for way in (1, -1))
        # All vehicles of a lane have the same motion and keep their distances. Only low vehicles drive ahead of the camera,
        # because trucks and buses would block its view.
        low = {"car": 0.85, "van": 0.15}
        self.fill_lane(own, 1, rng.uniform(19, 30), end, rng.uniform(30, 90), kinds=low, motion=_ahead)
        stop = end + ONCOMING_SPEED * self.duration
        self.fill_lane(oncoming, -1, rng.uniform(25, 45), stop, rng.uniform(25, 60), motion=_steady(ONCOMING_SPEED))

    def _cyclists(self) -> None:
        rng, plan = self.rng, self.plan
        y, way = float(rng.uniform(15, 21)), 1
        while y < plan.end + CYCLING_SPEED * self.duration:
            side = plan.hand * way
            lateral = side * (plan.lane - (0.4 if plan.sides[side].parking else 0.15))
            turn = 0.0 if way > 0 else np.pi
            self.add_person("cyclist", lateral, y, turn, 0.0, 0.5, _steady(CYCLING_SPEED))
            y += float(rng.uniform(30, 70))
            way = 1 if rng.random() < 0.4 else -1

    def _pedestrians(self) -> None:
        y = 9.0
        while y < self.distance + 120:
            self._group(y)
            y += float(self.rng.uniform(3, 10))

    def _group(self, y: float) -> None:
        """Add one to five people on a sidewalk, who walk or stand together where the camera passes them."""
        rng = self.rng
        side, way = int(rng.choice((-1, 1))), int(rng.choice((-1, 1)))
        s = self.plan.sides[side]
        speed = float(rng.uniform(1.1, 1.6)) if rng.random() < 0.85 else 0.0
        offset = rng.uniform(s.walk + 0.3, s.front - 0.3)
        for dx, dy in self.group_offsets():
            lateral = side * float(np.clip(offset + dx, s.walk + 0.25, s.front - 0.15))
            reach = PASSING * speed
            if all(self.is_free(lateral, y + dy + step, 0.25) for step in np.arange(-reach, reach + 0.1, 0.3)):
                turn = np.pi * (way < 0) + rng.normal(0, 0.1) if speed else rng.uniform(0, 2 * np.pi)
                motion = _steady(speed, y / SPEED) if speed else None
                self.add_person("person", lateral, y + dy, turn, s.height, 0.25, motion)


def _ahead(time: float) -> float:
    return traveled(time) + 2.5 * float(np.sin(0.25 * time))


def _steady(speed: float, since: float = 0.0) -> Motion:
    return lambda time: speed * (time - since)
