"""Road users: vehicles, cyclists and pedestrians, each with its motion."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from mtl_perception.synthetic.geometry.mesh import Mesh
from mtl_perception.synthetic.layout.plan import StreetPlan
from mtl_perception.synthetic.layout.road import Road
from mtl_perception.synthetic.parts.library import Library, Shape

Motion = Callable[[float], float]
"""Distance in meters that a road user has moved forward along the road, from the time in seconds."""

HALF_LENGTHS = {"car": 2.2, "van": 2.8, "truck": 4.1, "bus": 6.0, "tram": 15.0}
TRAFFIC: Mapping[str, float] = {"car": 0.76, "van": 0.1, "truck": 0.07, "bus": 0.07}
"""Kinds of vehicles on the road, with their probabilities."""


@dataclass(frozen=True)
class RoadUser:
    """A vehicle, cyclist or pedestrian.

    Attributes:
        shape: Its shape.
        lateral: Meters to the right of the center line.
        y: Meters along the center line, before it moves.
        turn: Rotation against the road, radians to the left.
        z: Height of the ground under it, m.
        size: Scale factor.
        tint: Factor on its color.
        motion: Motion along the road; None for standing.
    """

    shape: Shape
    lateral: float
    y: float
    turn: float
    z: float = 0.0
    size: float = 1.0
    tint: float = 1.0
    motion: Motion | None = None

    def y_at(self, time: float) -> float:
        """Return the position along the center line after `time` seconds, m."""
        if self.motion is None:
            return self.y
        return self.y + self.motion(time) * (1 if np.cos(self.turn) > 0 else -1)

    def mesh(self, road: Road, time: float = 0.0) -> Mesh:
        """Return the mesh in the world after `time` seconds; walking and cycling people move their limbs."""
        mesh = self.shape.mesh if self.motion is None else self.shape.mesh_after(self.motion(time))
        return road.put(mesh.scaled(self.size, self.tint), self.lateral, self.y_at(time), self.turn, self.z)


class Crowd:
    """Adds road users at free places of a street.

    Args:
        rng: Random number generator.
        plan: The street.
        library: Shapes.

    Attributes:
        users: The road users added so far.
    """

    def __init__(self, rng: np.random.Generator, plan: StreetPlan, library: Library) -> None:
        self.rng, self.plan, self.library = rng, plan, library
        self.users: list[RoadUser] = []
        self._occupied = np.array(plan.obstacles).reshape(-1, 3)

    def occupy(self, spots: list[tuple[float, float, float]]) -> None:
        """Keep circles free, given by lateral position, y and radius in meters."""
        self._occupied = np.concatenate([self._occupied, spots])

    def is_free(self, lateral: float, y: float, radius: float) -> bool:
        """Return whether a circle, given by lateral position, y and radius in meters, is free of obstacles."""
        x, along, size = self._occupied.T
        return bool(np.all(np.hypot(x - lateral, along - y) > size + radius))

    def lane_center(self, number: int, way: int) -> float:
        """Return the lateral position of a lane: counted from the center line, along (1) or against (-1) the camera."""
        return self.plan.hand * way * (number + 0.5) * self.plan.lane

    def fill_lane(
        self,
        lateral: float,
        way: int,
        start: float,
        stop: float,
        gap: float,
        keep: float = 1.0,
        kinds: Mapping[str, float] = TRAFFIC,
        motion: Motion | None = None,
    ) -> None:
        """Add vehicles to a lane.

        Args:
            lateral: Center of the lane, m.
            way: 1 for vehicles that face +y, -1 for the opposite direction.
            start: Position of the first vehicle, m.
            stop: Upper limit of the positions, m.
            gap: Mean distance between vehicles, m.
            keep: Probability of adding another vehicle.
            kinds: Kinds of vehicles, with their probabilities.
            motion: Motion of the vehicles; None for standing.
        """
        rng, y = self.rng, start
        while y < stop and rng.random() < keep:
            self.add_vehicle(lateral + rng.normal(0, 0.15), y, 0.0 if way > 0 else np.pi, kinds, motion)
            y += max(6.5, rng.exponential(gap))

    def add_vehicle(
        self, lateral: float, y: float, turn: float, kinds: Mapping[str, float] = TRAFFIC, motion: Motion | None = None
    ) -> None:
        """Add a random vehicle if its place is free."""
        rng = self.rng
        kind = list(kinds)[rng.choice(len(kinds), p=list(kinds.values()))]
        half = HALF_LENGTHS[kind]
        along = np.array([-np.sin(turn), np.cos(turn)])
        spots = [np.array([lateral, y]) + along * step for step in np.arange(-half + 1, half - 0.9, 1.0)]
        if all(self.is_free(float(spot[0]), float(spot[1]), 1.1) for spot in spots):
            shape = self.library.pick(kind, rng)
            self.users.append(RoadUser(shape, lateral, y, turn + rng.normal(0, 0.015), motion=motion))
            self.occupy([(spot[0], spot[1], 1.25) for spot in spots])

    def add_person(
        self, kind: str, lateral: float, y: float, turn: float, z: float, radius: float, motion: Motion | None = None
    ) -> None:
        """Add a random person of a kind of the library, of random size and brightness."""
        rng = self.rng
        shape, size, tint = self.library.pick(kind, rng), rng.uniform(0.95, 1.05), rng.uniform(0.8, 1.2)
        self.users.append(RoadUser(shape, lateral, y, turn, z, size, tint, motion))
        self.occupy([(lateral, y, radius)])

    def group_offsets(self) -> list[tuple[float, float]]:
        """Return lateral and y offsets of one to five people who are together."""
        count = 1 + min(4, int(self.rng.geometric(0.6)) - 1)
        return [(0.0, 0.0), *(tuple(offset) for offset in self.rng.normal(0, 0.75, (count - 1, 2)))]
