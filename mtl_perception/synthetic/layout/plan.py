"""What is drawn of a street, and how things are stood in it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from mtl_perception.synthetic.appearance.patterns import LANE, MARKS
from mtl_perception.synthetic.geometry.mesh import Mesh, Stuff
from mtl_perception.synthetic.layout.road import Road
from mtl_perception.synthetic.parts.library import Library

START, END = -16.0, 170.0
"""Where a street begins and ends, meters along it; cameras stand near 0 to 45."""


@dataclass
class Side:
    """One side of a street, distances from the center line in meters: its curb, its walk from `walk` to `front`."""

    curb: float
    walk: float
    front: float
    parks: bool
    height: float


@dataclass
class Plan:
    """A street drawn by lot.

    Attributes:
        road: Its center line.
        hand: 1 where one drives on the right, -1 on the left.
        lane: Width of a lane.
        lanes: Lanes each way.
        sides: Left (-1) and right (1).
        crossing: Where a street crosses, from and to; None where none does.
        town: Dense: many people.
        parts: What stands there.
        obstacles: What one cannot stand in: lateral, y, radius.
    """

    road: Road
    hand: int
    lane: float
    lanes: int
    sides: dict[int, Side]
    crossing: tuple[float, float] | None
    town: bool
    parts: list[Mesh] = field(default_factory=list)
    obstacles: list[tuple[float, float, float]] = field(default_factory=list)

    def put(self, mesh: Mesh, lateral: float, y: float, turn: float = 0.0, z: float = 0.0, radius: float = 0.0) -> None:
        """Stand a shape `lateral` meters right of the center line at y; people keep `radius` meters off."""
        self.parts.append(self.road.put(mesh, lateral, y, turn, z))
        if radius:
            self.obstacles.append((lateral, y, radius))


@dataclass(frozen=True)
class Ground:
    """What a street's ground is made of, and its plants' looks.

    Attributes:
        asphalt: Of the road.
        paving: Of the walks.
        curb: Of the curbs.
        lawn: What is green.
        soil: What is bare.
        green: RGB factors of the trees' color.
        winter: The trees have no leaves.
    """

    asphalt: Stuff
    paving: Stuff
    curb: Stuff
    lawn: Stuff
    soil: Stuff
    green: np.ndarray
    winter: bool


class Builder:
    """Stands shapes of a library in a street.

    Args:
        rng: Source of choice.
        library: The shapes.
        plan: The street.
        ground: Its materials.
    """

    def __init__(self, rng: np.random.Generator, library: Library, plan: Plan, ground: Ground) -> None:
        self.rng, self.library, self.plan, self.ground = rng, library, plan, ground

    def pick(self, kind: str) -> Mesh:
        """A shape of this kind."""
        return self.library.pick(kind, self.rng)

    def put(self, kind: str, lateral: float, y: float, turn: float = 0.0, z: float = 0.0, radius: float = 0.0) -> None:
        """Stand a shape of this kind, a little larger or smaller, lighter or darker, as `Plan.put` does."""
        shade = self.rng.uniform(0.85, 1.15)
        self.plan.put(self.pick(kind).scaled(self.rng.uniform(0.93, 1.07), shade), lateral, y, turn, z, radius)

    def tree(self, lateral: float, y: float, z: float, radius: float = 0.5) -> None:
        """Stand a tree of the season."""
        rng = self.rng
        kind = "bare tree" if self.ground.winter else "conifer" if rng.random() < 0.18 else "tree"
        mesh = self.pick(kind).scaled(rng.uniform(0.9, 1.15), self.ground.green * rng.uniform(0.85, 1.2))
        self.plan.put(mesh, lateral, y, rng.uniform(0, 6), z, radius)

    def strip(self, stuff: Stuff, y: tuple[float, float], lateral: tuple[float, float], z: float, mark: str = "bare") -> None:
        """Lay flat ground between two y and two distances from the center line; `mark` is one of MARKS."""
        left, right = sorted(lateral)
        stretch = self.plan.lane / LANE if mark != "zebra" else 1.0
        self.plan.parts.append(self.plan.road.strip(stuff, y, (left, right), z, MARKS.index(mark), stretch))
