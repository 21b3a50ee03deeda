"""A street drawn by lot: where the road runs, what stands beside it, who moves along it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mtl_perception.synthetic.geometry.mesh import Material, Mesh, Stuff, join, quad, srgb
from mtl_perception.synthetic.layout.road import Road
from mtl_perception.synthetic.parts import buildings, furniture, plants, traffic
from mtl_perception.synthetic.parts.people import Figure

LANE = 3.4
PARKING = 2.3
CURB = 0.12
BEHIND = 45.0
AHEAD = 260.0
"""The street is built from this far behind the drive's start to this far beyond its end, meters."""

ASPHALT = Stuff("road", Material.ROAD, srgb(104, 104, 106))
SLABS = Stuff("sidewalk", Material.PAVING, srgb(142, 136, 130))
CURBSTONE = Stuff("sidewalk", Material.PLAIN, srgb(172, 170, 164))
LAWN = Stuff("terrain", Material.GRASS, srgb(92, 110, 56))


@dataclass(frozen=True)
class Mover:
    """Something that moves along the road.

    Attributes:
        shape: Its mesh at the origin, facing +y, from the meters it has gone.
        lateral: Meters right of the center line.
        start: y at time 0.
        speed: m/s along the road; negative towards the camera.
        z: Height of the ground under it.
        follows: Keeps its distance to the camera's car instead of its own speed.
    """

    shape: Callable[[float], Mesh]
    lateral: float
    start: float
    speed: float
    z: float = 0.0
    follows: bool = False

    def y(self, time: float) -> float:
        """Where it is after `time` seconds."""
        if self.follows:
            return self.start + traveled(time) + 2.5 * float(np.sin(0.25 * time))
        return self.start + self.speed * time


@dataclass(frozen=True)
class Street:
    """What was drawn: the road, all that stands still, and all that moves."""

    road: Road
    static: Mesh
    movers: tuple[Mover, ...]

    def moving(self, time: float) -> Mesh:
        """All that moves near the camera's car, as it is after `time` seconds."""
        here = traveled(time)
        parts = [NOTHING]
        for mover in self.movers:
            y = mover.y(time)
            if here - 25 < y < here + 170:
                turn = np.pi if mover.speed < 0 else 0.0
                parts.append(self.road.put(mover.shape(abs(mover.speed) * time), mover.lateral, y, turn, mover.z))
        return join(parts)


# Out of sight underground, so that there is always something to cast rays at.
NOTHING = quad(LAWN, [(0, 0, -90), (1, 0, -90), (1, 1, -90), (0, 1, -90)])


def traveled(time: float) -> float:
    """Meters that the camera's car has driven after `time` seconds: 8.7 to 9.3 m/s."""
    return 9.0 * time + 0.9 * float(np.sin(0.35 * time))


def build_street(rng: np.random.Generator, duration: float) -> Street:
    """Draw a street long enough to drive on for `duration` seconds."""
    wave = rng.uniform(55, 90)
    road = Road(bend=rng.uniform(-0.1, 0.1) * wave, wave=wave, phase=rng.uniform(0, 2 * np.pi))
    builder = _Builder(rng, road, traveled(duration))
    return Street(road, builder.build(), tuple(builder.movers(duration)))


class _Builder:
    def __init__(self, rng: np.random.Generator, road: Road, distance: float) -> None:
        self.rng, self.road = rng, road
        self.distance, self.end = distance, distance + AHEAD
        self.parts: list[Mesh] = []
        parking = (bool(rng.random() < 0.75), bool(rng.random() < 0.4))
        self.parks = parking if any(parking) else (True, False)
        self.half = {side: LANE + PARKING * self.parks[side > 0] for side in (-1, 1)}
        verge = rng.uniform(1.8, 2.6, 2) * (rng.random(2) < 0.7)
        self.verge = {-1: float(verge[0]), 1: float(verge[1])}
        self.pavement = {side: float(rng.uniform(1.9, 2.8)) for side in (-1, 1)}
        # Sides of the crossing streets, the same on both sides of the road half the time.
        self.gaps: dict[int, list[float]] = {}
        for side in (-1, 1):
            gaps = [float(rng.uniform(46, 62))]
            while gaps[-1] < self.end - 60:
                gaps.append(gaps[-1] + float(rng.uniform(50, 95)))
            self.gaps[side] = gaps if side < 0 or rng.random() < 0.5 else list(self.gaps[-1])

    def build(self) -> Mesh:
        self._carriageway()
        for side in (-1, 1):
            start = -BEHIND
            for number, gap in enumerate([*self.gaps[side], self.end]):
                stop = min(gap, self.end)
                self._block(side, start, stop, first=number == 0)
                if gap < self.end:
                    self._side_street(side, gap, gap + 7)
                start = gap + 7
                if start >= self.end:
                    break
        self._add(plants.thicket(self.rng, 170, 14, 11, count=50), 0, self.end + 8, np.pi / 2)
        for y in np.arange(0, self.end, 60.0):
            for side in (-1, 1):
                self._add(plants.thicket(self.rng, 66, 16, 11, count=25), side * self.rng.uniform(100, 125), y)
        ground = [(-1500, -200, -0.3), (1500, -200, -0.3), (1500, 2500, -0.3), (-1500, 2500, -0.3)]
        self.parts.append(quad(LAWN, ground))
        return join(self.parts)

    def _add(self, mesh: Mesh, lateral: float, y: float, turn: float = 0.0, z: float = CURB) -> None:
        self.parts.append(self.road.put(mesh, lateral, y, turn, z))

    def _carriageway(self) -> None:
        start = -BEHIND
        sides = (-self.half[-1], self.half[1])
        for gap in [*self.gaps[-1], None]:
            stop = self.end + 30 if gap is None else gap - 5
            self.parts.append(self.road.strip(ASPHALT, (start, stop), sides, 0.0, mark=1))
            if gap is not None:
                zebra = 2.0 if self.rng.random() < 0.5 else 0.0
                self.parts.append(self.road.strip(ASPHALT, (stop, stop + 3.5), sides, 0.0, mark=zebra))
                self.parts.append(self.road.strip(ASPHALT, (stop + 3.5, gap + 8), sides, 0.0))
                start = gap + 8

    def _side_street(self, side: int, start: float, stop: float) -> None:
        edges = sorted((side * self.half[side], side * 90.0))
        self.parts.append(self.road.strip(ASPHALT, (start, stop), (edges[0], edges[1]), 0.0))
        for y in (start, stop):
            near, far = (self.road.at(side * lateral, y) for lateral in (self.half[side], 90.0))
            self.parts.append(quad(CURBSTONE, [(*near, -0.1), (*far, -0.1), (*far, CURB), (*near, CURB)]))
        self._add(plants.thicket(self.rng, 30, 5, 9), side * 92, (start + stop) / 2)
        walk = self.half[side] + 0.5
        pole = furniture.traffic_light if self.rng.random() < 0.5 else furniture.sign
        self._add(pole(self.rng), side * walk, start - 6.5)
        self._add(plants.tree(self.rng, self.rng.uniform(6, 9)), side * 26, start - 5)

    def _block(self, side: int, start: float, stop: float, first: bool) -> None:
        rng, road = self.rng, self.road
        curb, verge = self.half[side], self.verge[side]
        walk = curb + verge
        front = walk + self.pavement[side]
        self.parts.append(road.wall(CURBSTONE, (start, stop), side * curb, (-0.1, CURB)))
        self._ground(CURBSTONE, side, start, stop, curb, curb + 0.15)
        self._ground(LAWN if verge else SLABS, side, start, stop, curb + 0.15, walk + 0.15)
        self._ground(SLABS, side, start, stop, walk + 0.15, front)
        kind = "houses" if first and side > 0 else ("houses", "city", "park")[rng.choice(3, p=(0.42, 0.33, 0.25))]
        if kind == "city":
            self._ground(SLABS, side, start, stop, front, front + 3)
            self._ground(LAWN, side, start, stop, front + 3, 400)
            self._city(side, start, stop, front)
        else:
            self._ground(LAWN, side, start, stop, front, 400)
            self._boundary(side, start, stop, front, first)
            self._houses(side, start, stop, front) if kind == "houses" else self._park(side, start, stop, front)
        for y in np.arange(start + 13, stop + 4, 26.0):
            self._add(plants.thicket(rng, 26, 7, rng.uniform(7, 12)), side * (front + (45 if kind == "city" else 30)), y)
        if verge:
            self._tufts(side, start, stop, curb + 0.2, walk + 0.1)
        if kind != "city":
            self._tufts(side, start, stop, front + 0.1, front + 6)
        self._curbside(side, start, stop, curb + 0.7, walk)
        if self.parks[side > 0]:
            self._parked(side, start + 2, stop - 8)

    def _ground(self, stuff: Stuff, side: int, start: float, stop: float, inner: float, outer: float) -> None:
        edges = sorted((side * inner, side * outer))
        self.parts.append(self.road.strip(stuff, (start, stop), (edges[0], edges[1]), CURB))

    def _tufts(self, side: int, start: float, stop: float, inner: float, outer: float) -> None:
        """Grass that stands, where the camera comes near."""
        for y in np.arange(max(start, 0) + 3, min(stop, self.distance + 45) - 2.9, 6.0):
            self._add(plants.tufts(self.rng, 6, outer - inner), side * (inner + outer) / 2, y)

    def _city(self, side: int, start: float, stop: float, front: float) -> None:
        rng = self.rng
        y = start + 0.5
        stories = int(rng.integers(2, 6))
        while y < stop - 8:
            width = min(float(rng.uniform(9, 17)), stop - 0.5 - y)
            depth = float(rng.uniform(10, 13))
            mesh = buildings.block(rng, width - 0.05, depth, int(np.clip(stories + rng.integers(-1, 2), 2, 6)))
            self._add(mesh, side * (front + 0.3 + depth / 2), y + width / 2, -side * np.pi / 2)
            y += width + (rng.uniform(2, 5) if rng.random() < 0.25 else 0.0)

    def _houses(self, side: int, start: float, stop: float, front: float) -> None:
        rng = self.rng
        setback = rng.uniform(3.5, 8)
        y = start + rng.uniform(1, 3)
        while y < stop - 11:
            width, depth = rng.uniform(8.5, 12.5), rng.uniform(8, 10)
            ridge = rng.random() < 0.7
            mesh = buildings.house(rng, width, depth)
            self._add(mesh, side * (front + setback + 5.5), y + width / 2, -side * np.pi / 2 if ridge else np.pi * (side > 0))
            gap = rng.uniform(4, 8)
            if rng.random() < 0.75:
                crown = plants.conifer(rng, rng.uniform(6, 11)) if rng.random() < 0.3 else self._tree(y, rng.uniform(5, 8.5))
                self._add(crown, side * (front + setback * rng.uniform(0.7, 1.4) + 1), y + width + gap / 2)
            for _ in range(3):
                spot = side * (front + rng.uniform(1, max(setback - 1, 1.2)))
                self._add(plants.bush(rng, rng.uniform(0.7, 1.8)), spot, y + rng.uniform(0, width))
            y += width + gap

    def _park(self, side: int, start: float, stop: float, front: float) -> None:
        rng = self.rng
        for y in np.arange(start + 4, stop - 3, 9.0):
            lateral = front + rng.uniform(4, 20)
            crown = plants.conifer(rng, rng.uniform(7, 13)) if rng.random() < 0.2 else self._tree(y, rng.uniform(7, 12))
            self._add(crown, side * lateral, y + rng.uniform(-3, 3))
            self._add(plants.bush(rng, rng.uniform(1, 2.6)), side * (front + rng.uniform(2, 14)), y + rng.uniform(-4, 4))

    def _boundary(self, side: int, start: float, stop: float, front: float, first: bool) -> None:
        """Fences and hedges along the pavement, with openings between them."""
        rng = self.rng
        y = start + 0.5
        fence = side > 0
        while y < stop - 4:
            length = min(float(rng.uniform(8, 18)), stop - 0.6 - y)
            if not first:
                fence = rng.random() < 0.5
            mesh = furniture.fence(rng, length) if fence else plants.hedge(rng, length, rng.uniform(0.9, 1.9))
            self._add(mesh, side * (front + 0.5), y + length / 2)
            y += length + rng.uniform(0.2, 3.0)
            fence = not fence

    def _curbside(self, side: int, start: float, stop: float, lateral: float, walk: float) -> None:
        """Lamps, signs and street trees."""
        rng = self.rng
        for y in np.arange(start + 9, stop, 27.0):
            self._add(furniture.lamp(rng), side * lateral, y, np.pi * (side > 0))
        for y in np.arange(start + 18, stop, rng.uniform(24, 36)):
            self._add(furniture.sign(rng), side * lateral, y + 2, np.pi * (side < 0 and rng.random() < 0.5))
        if self.verge[side]:
            height = rng.uniform(6, 9.5)
            for y in np.arange(start + 3, stop - 2, rng.uniform(11, 16)):
                if rng.random() < 0.75:
                    middle = (lateral - 0.7 + walk) / 2 + 0.1
                    self._add(self._tree(y, height * rng.uniform(0.85, 1.1)), side * middle, y + rng.uniform(-1, 1))

    def _parked(self, side: int, start: float, stop: float) -> None:
        rng = self.rng
        y = start
        share = rng.uniform(0.35, 0.85)
        while y < stop:
            if rng.random() < share:
                mesh = traffic.van(rng) if rng.random() < 0.12 else traffic.car(rng)
                self._add(mesh, side * (self.half[side] - 1.12), y + 2.6, np.pi * (side < 0) + rng.normal(0, 0.015), z=0.0)
            y += rng.uniform(5.7, 6.6)

    def _tree(self, y: float, height: float) -> Mesh:
        """A tree with fewer leaves where the drive never comes near."""
        return plants.tree(self.rng, height, plants.NEAR if y < self.distance + 50 else plants.FAR)

    def movers(self, duration: float) -> list[Mover]:
        """Vehicles, persons and cyclists for a drive of so many seconds."""
        rng = self.rng
        found: list[Mover] = []
        lane = LANE / 2
        if rng.random() < 0.8:
            lead = traffic.car(rng)
            found.append(Mover(_rigid(lead), lane, float(rng.uniform(19, 30)), 9.0, follows=True))
        y = float(rng.uniform(25, 45))
        while y < self.end + 10 * duration:
            mesh = (traffic.car, traffic.van, traffic.truck)[rng.choice(3, p=(0.76, 0.12, 0.12))](rng)
            found.append(Mover(_rigid(mesh), -lane, y, -9.5))
            y += float(rng.uniform(22, 70))
        for start, lateral, speed in self._riders(duration):
            found.append(self._figure(True, lateral, start, speed, 0.33, 0.0))
        y = 9.0
        while y < self.distance + 120:
            side = int(rng.choice((-1, 1)))
            lateral = side * (self.half[side] + self.verge[side] + rng.uniform(0.5, self.pavement[side] - 0.4))
            speed = float(rng.uniform(1.1, 1.6) * rng.choice((-1, 1)))
            found.append(self._figure(False, lateral, y, speed, 0.25, CURB))
            if rng.random() < 0.3:
                found.append(self._figure(False, lateral + side * 0.6, y + rng.uniform(-0.3, 0.3), speed, 0.25, CURB))
            y += float(rng.uniform(5, 16))
        return found

    def _riders(self, duration: float) -> list[tuple[float, float, float]]:
        """Start, lateral and speed of cyclists: some ahead of the camera's car, some towards it."""
        riders = [(float(self.rng.uniform(15, 21)), LANE - 0.15, 4.6)]
        y = float(self.rng.uniform(34, 60))
        while y < self.end + 5 * duration:
            ahead = self.rng.random() < 0.4
            riders.append((y, LANE - 0.15, 4.8) if ahead else (y, -LANE + 0.3, -5.0))
            y += float(self.rng.uniform(35, 80))
        return riders

    def _figure(self, cycling: bool, lateral: float, start: float, speed: float, wheel: float, z: float) -> Mover:
        figure = Figure(self.rng, cycling)
        first = float(self.rng.uniform(0, 2 * np.pi))
        # A step's phase turns once in two paces of 0.7 m, a wheel's once in its circumference.
        return Mover(lambda gone: figure.mesh(first - gone / wheel * (1 if cycling else -1)), lateral, start, speed, z)


def _rigid(mesh: Mesh) -> Callable[[float], Mesh]:
    return lambda _: mesh
