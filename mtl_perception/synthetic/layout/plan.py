"""Plan of a street: dimensions, surfaces and the objects in it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from mtl_perception.synthetic.appearance.patterns import LANE_WIDTH, MARKS
from mtl_perception.synthetic.geometry.mesh import Mesh, Surface
from mtl_perception.synthetic.layout.road import Road
from mtl_perception.synthetic.parts.library import Library


@dataclass(frozen=True)
class Side:
    """One side of a street. Distances are in meters from the center line.

    Attributes:
        curb: Edge of the carriageway.
        walk: Inner edge of the sidewalk; a verge lies between curb and sidewalk.
        front: Outer edge of the sidewalk, where the adjoining land begins.
        parking: The outermost 2.2 m of the carriageway are a parking lane.
        height: Height of the sidewalk above the road, m; 0 where there is no sidewalk.
    """

    curb: float
    walk: float
    front: float
    parking: bool
    height: float


@dataclass(frozen=True)
class Ground:
    """Surfaces of a street and the look of its plants.

    Attributes:
        asphalt: Road surface.
        parking: Surface of parking lanes.
        paving: Sidewalk surface.
        curb: Curbstones.
        lawn: Grass.
        soil: Bare ground.
        green: RGB factors on the color of trees.
        winter: Trees have no leaves.
        mark: Lane markings, one of MARKS.
    """

    asphalt: Surface
    parking: Surface
    paving: Surface
    curb: Surface
    lawn: Surface
    soil: Surface
    green: np.ndarray
    winter: bool
    mark: str


@dataclass
class StreetPlan:
    """A street from `start` to `end`, in meters along its center line.

    Attributes:
        road: Center line.
        hand: 1 for right-hand traffic, -1 for left-hand traffic.
        lane: Lane width, m.
        lanes: Lanes in each direction.
        sides: Left (-1) and right (1) side.
        crossings: Start and end of each crossing street, in order.
        town: Built-up area, with more people.
        start: Where the street begins.
        end: Where the street ends.
        reach: Cameras stand between 0 and here.
        parts: Meshes of ground and static objects.
        obstacles: Lateral position, y and radius of objects that nobody can walk or drive through.
    """

    road: Road
    hand: int
    lane: float
    lanes: int
    sides: dict[int, Side]
    crossings: tuple[tuple[float, float], ...]
    town: bool
    start: float
    end: float
    reach: float
    parts: list[Mesh] = field(default_factory=list)
    obstacles: list[tuple[float, float, float]] = field(default_factory=list)

    def blocks(self) -> list[tuple[float, float]]:
        """Return start and end of each block: the stretches between crossing streets."""
        edges = [self.start, *(y for crossing in self.crossings for y in crossing), self.end]
        return list(zip(edges[::2], edges[1::2], strict=True))

    def nearest_crossing(self, y: float) -> tuple[float, float] | None:
        """Return start and end of the crossing street nearest to y, None if there is none."""
        return min(self.crossings, key=lambda crossing: abs(sum(crossing) / 2 - y), default=None)

    def put(self, mesh: Mesh, lateral: float, y: float, turn: float = 0.0, z: float = 0.0, radius: float = 0.0) -> None:
        """Place an object.

        Args:
            mesh: The object at the origin, facing +y.
            lateral: Meters to the right of the center line.
            y: Meters along the center line.
            turn: Rotation against the road, radians to the left.
            z: Height of the ground, m.
            radius: Radius in which the object is an obstacle, m; 0 for none.
        """
        self.parts.append(self.road.put(mesh, lateral, y, turn, z))
        if radius:
            self.obstacles.append((lateral, y, radius))


class Builder:
    """Places shapes of a library in a street.

    Args:
        rng: Random number generator.
        library: Shapes.
        plan: Street to fill.
        ground: Surfaces of the street.
    """

    def __init__(self, rng: np.random.Generator, library: Library, plan: StreetPlan, ground: Ground) -> None:
        self.rng, self.library, self.plan, self.ground = rng, library, plan, ground

    def pick(self, kind: str) -> Mesh:
        """Return a random shape of this kind."""
        return self.library.pick(kind, self.rng).mesh

    def put(self, kind: str, lateral: float, y: float, turn: float = 0.0, z: float = 0.0, radius: float = 0.0) -> None:
        """Place a random shape of this kind with a small variation of size and brightness; see `StreetPlan.put`."""
        shade = self.rng.uniform(0.85, 1.15)
        self.plan.put(self.pick(kind).scaled(self.rng.uniform(0.93, 1.07), shade), lateral, y, turn, z, radius)

    def tree(self, lateral: float, y: float, z: float, radius: float = 0.5, conifers: float = 0.18) -> None:
        """Place a random tree in the color of the season; `conifers` is the probability of a conifer."""
        rng = self.rng
        kind = "bare tree" if self.ground.winter else "conifer" if rng.random() < conifers else "tree"
        mesh = self.pick(kind).scaled(rng.uniform(0.9, 1.15), self.ground.green * rng.uniform(0.85, 1.2))
        self.plan.put(mesh, lateral, y, rng.uniform(0, 6), z, radius)

    def strip(
        self, surface: Surface, y: tuple[float, float], lateral: tuple[float, float], z: float, mark: str = "bare"
    ) -> None:
        """Add flat ground between two y and two distances from the center line; `mark` is one of MARKS."""
        left, right = sorted(lateral)
        stretch = self.plan.lane / LANE_WIDTH if mark != "crosswalk" else 1.0
        self.plan.parts.append(self.plan.road.strip(surface, y, (left, right), z, MARKS.index(mark), stretch))
