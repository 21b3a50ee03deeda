"""Who is on a street when a picture is taken: vehicles, people on foot, cyclists."""

from __future__ import annotations

import numpy as np

from mtl_perception.synthetic.geometry.mesh import Mesh, join
from mtl_perception.synthetic.layout.plan import END, START, Plan
from mtl_perception.synthetic.parts.library import Library

FAR = 26.0
"""Figures further away than this, meters, are simpler."""

REACH = 0.72
"""Half the width of what a camera sees, meters for each meter of distance: figures stand within it."""


def crowd(rng: np.random.Generator, plan: Plan, library: Library, lateral: float, y: float) -> list[Mesh]:
    """Whoever a camera at `lateral` meters right of the center line and at `y` may see, in places where nothing else stands."""
    return _Crowd(rng, plan, library, lateral, y).draw()


class _Crowd:
    def __init__(self, rng: np.random.Generator, plan: Plan, library: Library, lateral: float, y: float) -> None:
        self.rng, self.plan, self.library = rng, plan, library
        self.lateral, self.y = lateral, y
        self.parts: list[Mesh] = []
        # Lateral, y, radius of what stands in the way.
        self._taken = np.array([*plan.obstacles, (lateral, y, 2.2)])

    def draw(self) -> list[Mesh]:
        rng = self.rng
        self._traffic()
        busy = rng.gamma(1.6, 0.75) if self.plan.town else rng.gamma(1.0, 0.6)
        if rng.random() < 0.92:
            for _ in range(1 + int(rng.poisson(1.9 * busy))):
                self._cyclist()
        if rng.random() < 0.94:
            for _ in range(1 + int(rng.poisson(4.0 * busy))):
                self._group()
        return self.parts

    def _free(self, lateral: float, y: float, radius: float) -> bool:
        x, along, size = self._taken.T
        return bool(np.all(np.hypot(x - lateral, along - y) > size + radius))

    def _take(self, spots: list[tuple[float, float, float]]) -> None:
        self._taken = np.concatenate([self._taken, spots])

    def _vehicle(self, lateral: float, y: float, turn: float) -> None:
        rng = self.rng
        kind = ("car", "van", "truck", "bus")[rng.choice(4, p=(0.76, 0.1, 0.07, 0.07))]
        half = {"car": 2.2, "van": 2.8, "truck": 4.1, "bus": 6.0}[kind]
        along = np.array([-np.sin(turn), np.cos(turn)])
        spots = [np.array([lateral, y]) + along * step for step in np.arange(-half + 1, half - 0.9, 1.0)]
        if all(self._free(float(spot[0]), float(spot[1]), 1.1) for spot in spots):
            self.parts.append(self.plan.road.put(self.library.pick(kind, rng), lateral, y, turn + rng.normal(0, 0.015)))
            self._take([(spot[0], spot[1], 1.25) for spot in spots])

    def _traffic(self) -> None:
        rng, plan = self.rng, self.plan
        for number in range(plan.lanes):
            for way in (1, -1):
                middle = plan.hand * way * (number + 0.5) * plan.lane
                own = abs(middle - self.lateral) < 1.6
                gap = float(np.exp(rng.uniform(np.log(9), np.log(120))))
                y = self.y + (rng.uniform(8, 60) if own else rng.uniform(-2, 45))
                while y < END and rng.random() < 0.9:
                    self._vehicle(middle + rng.normal(0, 0.15), y, 0.0 if way > 0 else np.pi)
                    y += max(6.5, rng.exponential(gap))
        if plan.crossing is not None and rng.random() < 0.6:
            start, stop = plan.crossing
            for _ in range(int(rng.integers(1, 5))):
                way = rng.choice((-1, 1))
                at = start + (stop - start) * (0.27 if way * plan.hand > 0 else 0.73)
                self._vehicle(rng.uniform(-28, 28), at, -way * np.pi / 2)

    def _distance(self, least: float, typical: float) -> float:
        return float(least + self.rng.gamma(1.5, typical / 1.5))

    def _figure(self, kind: str, lateral: float, y: float, turn: float, z: float) -> bool:
        near = np.hypot(lateral - self.lateral, y - self.y)
        radius = 0.28 if kind == "person" else 0.5
        if y > END - 5 or y < START + 2 or not self._free(lateral, y, radius):
            return False
        rng = self.rng
        shape = self.library.pick(kind if near < FAR else f"far {kind}", rng)
        shape = shape.scaled(rng.uniform(0.95, 1.05), rng.uniform(0.8, 1.2))
        self.parts.append(self.plan.road.put(shape, lateral, y, turn, z))
        self._take([(lateral, y, radius)])
        return True

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
            if plan.crossing is not None and rng.random() < 0.1:
                y, turn = rng.uniform(*plan.crossing), rng.choice((-1, 1)) * np.pi / 2
            if abs(lateral - self.lateral) > REACH * (y - self.y):
                continue
            if self._figure("cyclist", lateral, y, turn + rng.normal(0, 0.08), z):
                if rng.random() < 0.25:
                    self._figure("cyclist", lateral + rng.normal(0, 0.3), y + rng.uniform(1.8, 3.5), turn, z)
                return

    def _group(self) -> None:
        """One to five people who go or stand together."""
        rng, plan = self.rng, self.plan
        for _ in range(6):
            y = self.y + self._distance(4.0, 17)
            side = int(rng.choice((-1, 1)))
            s = plan.sides[side]
            place, heading, z = rng.random(), rng.choice((0.0, np.pi)), s.height
            if place < 0.68:
                lateral = side * rng.uniform(s.walk + 0.2, max(s.front - 0.3, s.walk + 0.3))
            elif place < 0.9:
                # Across the road, at a crossing where there is one near.
                if plan.crossing is not None and rng.random() < 0.6 and plan.crossing[0] > self.y + 6:
                    y = plan.crossing[0] - rng.uniform(0.4, 3.0)
                lateral, z, heading = rng.uniform(-s.curb, s.curb), 0.0, rng.choice((-1, 1)) * np.pi / 2
            else:
                lateral, heading = side * (s.curb + rng.uniform(0.15, 0.5)), side * np.pi / 2
            if abs(lateral - self.lateral) > REACH * (y - self.y):
                continue
            turned = rng.random() < 0.2
            count = 1 + min(4, int(rng.geometric(0.6)) - 1)
            placed = 0
            for dx, dy in [(0.0, 0.0), *rng.normal(0, 0.75, (count - 1, 2))]:
                turn = rng.uniform(0, 6.3) if turned else heading + rng.normal(0, 0.2)
                placed += self._figure("person", lateral + dx, y + dy, turn, z)
            if placed:
                return


def moving(parts: list[Mesh], ground: Mesh) -> Mesh:
    """The crowd as one mesh; never empty, so that rays can be cast at it."""
    return join([ground, *parts])
