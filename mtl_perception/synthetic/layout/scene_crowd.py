"""Road users of a single scene, in the field of view of its camera."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mtl_perception.synthetic.layout.crowd import Crowd, RoadUser
from mtl_perception.synthetic.layout.plan import StreetPlan
from mtl_perception.synthetic.parts.library import Library

FAR = 26.0
"""Distance from which people have a simpler shape, m."""

REACH = 0.72
"""Half the width of the field of view per meter of distance; people stand within it."""

TRAFFIC: Mapping[str, float] = {"car": 0.74, "van": 0.1, "truck": 0.08, "bus": 0.05, "tram": 0.03}
"""Kinds of vehicles on the road, with their probabilities."""

ALONGSIDE: Mapping[str, float] = {"car": 0.4, "van": 0.2, "truck": 0.2, "bus": 0.1, "tram": 0.1}
"""Kinds of vehicles next to the camera, with their probabilities."""

EMPTY_LANES = 0.35
"""Share of lanes without moving vehicles, which leave the road visible far ahead."""


def scene_crowd(rng: np.random.Generator, plan: StreetPlan, library: Library, lateral: float, y: float) -> list[RoadUser]:
    """Return random road users that a camera at `lateral` meters right of the center line and at y may see."""
    return _SceneCrowd(rng, plan, library, lateral, y).populate()


class _SceneCrowd(Crowd):
    def __init__(self, rng: np.random.Generator, plan: StreetPlan, library: Library, lateral: float, y: float) -> None:
        super().__init__(rng, plan, library)
        self.lateral, self.y = lateral, y
        self.crossing = plan.nearest_crossing(y)
        self.occupy([(lateral, y, 2.2)])

    def populate(self) -> list[RoadUser]:
        rng = self.rng
        self._traffic()
        busy = rng.gamma(1.6, 0.75) if self.plan.town else rng.gamma(1.0, 0.6)
        if rng.random() < 0.6:
            for _ in range(1 + int(rng.poisson(1.0 * busy))):
                self._cyclist()
        if rng.random() < 0.8:
            for _ in range(1 + int(rng.poisson(3.0 * busy))):
                self._group()
        return self.users

    def _traffic(self) -> None:
        rng, plan = self.rng, self.plan
        for number in range(plan.lanes):
            for way in (1, -1):
                if rng.random() < EMPTY_LANES:
                    continue
                lateral = self.lane_center(number, way)
                gap = float(np.exp(rng.uniform(np.log(9), np.log(120))))
                own = abs(lateral - self.lateral) < 1.6
                y = self.y + (rng.uniform(8, 60) if own else rng.uniform(-2, 45))
                self.fill_lane(lateral, way, y, plan.end, gap, keep=0.9, kinds=TRAFFIC)
        if rng.random() < 0.3:
            # Next to the camera, where a vehicle is seen from the side and in part.
            lateral = self.lateral + rng.choice((-1, 1)) * rng.uniform(2.7, 4.2)
            if abs(lateral) < plan.lane * plan.lanes:
                turn = 0.0 if lateral * plan.hand > 0 else np.pi
                self.add_vehicle(float(lateral), self.y + rng.uniform(0, 11), turn, ALONGSIDE)
        if self.crossing is not None and rng.random() < 0.6:
            start, stop = self.crossing
            for _ in range(int(rng.integers(1, 5))):
                way = rng.choice((-1, 1))
                y = start + (stop - start) * (0.27 if way * plan.hand > 0 else 0.73)
                self.add_vehicle(rng.uniform(-28, 28), y, -way * np.pi / 2)

    def _distance(self, least: float, typical: float) -> float:
        return float(least + self.rng.gamma(1.5, typical / 1.5))

    def _try_person(self, kind: str, lateral: float, y: float, turn: float, z: float) -> bool:
        radius = 0.28 if kind == "person" else 0.5
        if y > self.plan.end - 5 or y < self.plan.start + 2 or not self.is_free(lateral, y, radius):
            return False
        far = np.hypot(lateral - self.lateral, y - self.y) >= FAR
        self.add_person(f"far {kind}" if far else kind, lateral, y, turn, z, radius)
        return True

    def _is_in_view(self, lateral: float, y: float) -> bool:
        return abs(lateral - self.lateral) <= REACH * (y - self.y)

    def _cyclist(self) -> None:
        rng, plan = self.rng, self.plan
        half = plan.lane * plan.lanes
        for _ in range(6):
            y = self.y + self._distance(4.5, 15)
            place, turn = rng.random(), 0.0
            side = plan.hand if rng.random() < 0.62 else -plan.hand
            along = 0.0 if side == plan.hand else np.pi
            z = 0.0
            if place < 0.55:
                lateral = side * (half - rng.uniform(0.2, 1.0))
                turn = along
            elif place < 0.72:
                lateral, turn = rng.uniform(-half, half), along + rng.normal(0, 0.2)
            elif place < 0.88:
                s = plan.sides[side]
                lateral, z = side * rng.uniform(s.walk + 0.3, max(s.front - 0.3, s.walk + 0.4)), s.height
                turn = along + np.pi * (rng.random() < 0.4)
            else:
                lateral, turn = rng.uniform(-half, half), rng.choice((-1, 1)) * np.pi / 2 + rng.normal(0, 0.3)
            if self.crossing is not None and rng.random() < 0.1:
                y, turn = rng.uniform(*self.crossing), rng.choice((-1, 1)) * np.pi / 2
            if self._is_in_view(lateral, y) and self._try_person("cyclist", lateral, y, turn + rng.normal(0, 0.08), z):
                if rng.random() < 0.25:
                    self._try_person("cyclist", lateral + rng.normal(0, 0.3), y + rng.uniform(1.8, 3.5), turn, z)
                return

    def _group(self) -> None:
        """Add one to five people who walk or stand together."""
        rng, plan = self.rng, self.plan
        for _ in range(6):
            y = self.y + self._distance(4.0, 17)
            side = int(rng.choice((-1, 1)))
            s = plan.sides[side]
            place, heading, z = rng.random(), rng.choice((0.0, np.pi)), s.height
            if place < 0.68:
                lateral = side * rng.uniform(s.walk + 0.2, max(s.front - 0.3, s.walk + 0.3))
            elif place < 0.9:
                # On the road, often at the crossing street.
                if self.crossing is not None and rng.random() < 0.6 and self.crossing[0] > self.y + 6:
                    y = self.crossing[0] - rng.uniform(0.4, 3.0)
                lateral, z, heading = rng.uniform(-s.curb, s.curb), 0.0, rng.choice((-1, 1)) * np.pi / 2
            else:
                lateral, heading = side * (s.curb + rng.uniform(0.15, 0.5)), side * np.pi / 2
            if not self._is_in_view(lateral, y):
                continue
            facing_anywhere = rng.random() < 0.2
            placed = 0
            for dx, dy in self.group_offsets():
                turn = rng.uniform(0, 6.3) if facing_anywhere else heading + rng.normal(0, 0.2)
                placed += self._try_person("person", lateral + dx, y + dy, turn, z)
            if placed:
                return
