"""A piece of street of any kind, for single pictures: wide or narrow, in town or in the country."""

from __future__ import annotations

import numpy as np

from mtl_perception.synthetic.geometry.mesh import Material, Mesh, Stuff, join, quad, srgb
from mtl_perception.synthetic.layout.frontage import Frontage
from mtl_perception.synthetic.layout.plan import END, START, Builder, Ground, Plan, Side
from mtl_perception.synthetic.layout.road import Road
from mtl_perception.synthetic.parts import plants
from mtl_perception.synthetic.parts.library import SECTION, TUFTS, Library

PAVINGS = (
    (Material.PAVING, (142, 136, 130)), (Material.PAVING, (160, 150, 136)), (Material.PAVING, (150, 112, 96)),
    (Material.ROAD, (122, 120, 118)), (Material.ROAD, (96, 96, 98)), (Material.PAVING, (178, 172, 164)),
    (Material.BRICK, (148, 104, 88)),
)  # fmt: skip
LAWNS = ((92, 110, 56), (104, 108, 58), (80, 104, 50), (128, 118, 76), (110, 112, 66))
SOILS = ((128, 108, 84), (146, 132, 108), (150, 146, 138))
USES = {
    "city": {"front": 0.8, "houses": 0.05, "park": 0.1, "yard": 0.05},
    "suburb": {"front": 0.12, "houses": 0.62, "park": 0.13, "yard": 0.13},
    "avenue": {"front": 0.3, "houses": 0.2, "park": 0.4, "yard": 0.1},
    "country": {"houses": 0.15, "park": 0.35, "field": 0.5},
}
"""Kinds of street, and how often land beside them is used for what."""

KIND_SHARES = (0.28, 0.32, 0.18, 0.22)


def draw_plan(rng: np.random.Generator, library: Library) -> Plan:
    """Draw a street and all that stands still in it."""
    kind = str(rng.choice(list(USES), p=KIND_SHARES))
    return _StreetBuilder(rng, library, kind).build()


class _StreetBuilder(Builder):
    def __init__(self, rng: np.random.Generator, library: Library, kind: str) -> None:
        self.kind = kind
        super().__init__(rng, library, _draw_road(rng, kind), _draw_ground(rng))
        self.frontage = Frontage(rng, library, self.plan, self.ground)

    def build(self) -> Plan:
        self._carriageway()
        crossing = self.plan.crossing
        spans = [(START, END)] if crossing is None else [(START, crossing[0]), (crossing[1], END)]
        for side in (-1, 1):
            for span in spans:
                self._block(side, *span)
        self._horizon()
        return self.plan

    def _carriageway(self) -> None:
        rng, plan = self.rng, self.plan
        edges = (-plan.sides[-1].curb, plan.sides[1].curb)
        kinds = ("dashed", "center", "edged", "double", "bare")
        mark = "lanes" if plan.lanes == 2 else kinds[rng.choice(5, p=(0.15, 0.25, 0.2, 0.15, 0.25))]
        paths = [(START, END + 60)] if plan.crossing is None else [(START, plan.crossing[0]), (plan.crossing[1], END + 60)]
        for number, (start, stop) in enumerate(paths):
            if plan.crossing is not None:
                zebra, line = rng.random() < 0.55, rng.random() < 0.6
                # Zebra and stop line lie at the crossing's side of this piece.
                pieces = [(3.0, "zebra" if zebra else "bare"), (1.0, "bare"), (0.4, "painted" if line else "bare")]
                for length, what in pieces:
                    piece = (stop - length, stop) if number == 0 else (start, start + length)
                    self.strip(self.ground.asphalt, piece, edges, 0.0, what)
                    start, stop = (start, stop - length) if number == 0 else (start + length, stop)
            elif rng.random() < 0.25:
                at = float(rng.uniform(12, 50))
                self.strip(self.ground.asphalt, (start, at), edges, 0.0, mark)
                self.strip(self.ground.asphalt, (at, at + 3.5), edges, 0.0, "zebra")
                start = at + 3.5
            self.strip(self.ground.asphalt, (start, stop), edges, 0.0, mark)
        if plan.crossing is not None:
            self.strip(self.ground.asphalt, plan.crossing, (-90, 90), 0.0)
            for side in (-1, 1):
                self.put("wood" if rng.random() < 0.6 else "house", side * 96, sum(plan.crossing) / 2, side * -np.pi / 2)

    def _block(self, side: int, start: float, stop: float) -> None:
        rng, s = self.rng, self.plan.sides[side]
        if s.height:
            self.plan.parts.append(self.plan.road.wall(self.ground.curb, (start, stop), side * s.curb, (-0.1, s.height)))
            for y in {start, stop} - {START, END}:
                a, b = (self.plan.road.at(side * lateral, y) for lateral in (s.curb, 60.0))
                self.plan.parts.append(quad(self.ground.curb, [(*a, -0.1), (*b, -0.1), (*b, s.height), (*a, s.height)]))
            self.strip(self.ground.curb, (start, stop), (side * s.curb, side * (s.curb + 0.15)), s.height)
            if s.walk > s.curb + 0.2:
                self.strip(self.ground.lawn, (start, stop), (side * (s.curb + 0.15), side * s.walk), s.height)
            self.strip(self.ground.paving, (start, stop), (side * max(s.walk, s.curb + 0.15), side * s.front), s.height)
        else:
            self.strip(self.ground.soil, (start, stop), (side * s.curb, side * s.front), 0.0)
        shares = USES[self.kind]
        use = str(rng.choice(list(shares), p=list(shares.values())))
        paved = use == "front" or (use == "yard" and rng.random() < 0.5)
        ground = self.ground.paving if paved else self.ground.lawn
        self.strip(ground, (start, stop), (side * s.front, side * (s.front + 4)), s.height)
        self.strip(self.ground.lawn, (start, stop), (side * (s.front + 4), side * 110), s.height)
        self.frontage.uses()[use](side, start, stop, s)
        self._curbside(side, start, stop, s)
        if s.parks:
            self._parked(side, start + 1, stop - 7, s)

    def _curbside(self, side: int, start: float, stop: float, s: Side) -> None:
        rng, town = self.rng, self.plan.town
        lateral = side * (s.curb + rng.uniform(0.35, 0.75))
        inward = np.pi * (side > 0)
        if rng.random() < (0.75 if town else 0.25):
            for y in np.arange(start + rng.uniform(2, 20), stop, rng.uniform(16, 36)):
                self.put("lamp", lateral, y, inward, s.height, radius=0.4)
        elif rng.random() < 0.5:
            for y in np.arange(start + rng.uniform(2, 20), stop, rng.uniform(22, 40)):
                self.put("utility pole", side * (s.front - 0.3), y, 0.0, s.height, radius=0.4)
        for y in np.arange(start + rng.uniform(3, 16), stop, rng.uniform(8, 26) if town else rng.uniform(20, 50)):
            kind = "board" if rng.random() < 0.12 else "sign"
            back = np.pi * (side != self.plan.hand and rng.random() < 0.6)
            self.put(kind, lateral + side * 0.3 * (kind == "board"), y, back + rng.normal(0, 0.1), s.height, radius=0.4)
        crossing = self.plan.crossing
        if crossing is not None and rng.random() < 0.55:
            kind = "light arm" if side == self.plan.hand and side > 0 and rng.random() < 0.4 else "light"
            self.put(kind, lateral, crossing[0] - 1.2, 0.0, s.height, radius=0.4)
            self.put("light", lateral, crossing[1] + 1.2, 0.0 if rng.random() < 0.6 else np.pi, s.height, radius=0.4)
        if town and rng.random() < 0.2:
            for y in np.arange(start + rng.uniform(0, 10), min(stop, start + rng.uniform(15, 60)), rng.uniform(1.5, 3)):
                self.put("bollard", lateral, y, z=s.height, radius=0.3)
        for _ in range(int(rng.poisson(2 if town else 0.3))):
            kind = "bin" if rng.random() < 0.7 else "bench"
            self.put(kind, side * (s.front - 0.5), rng.uniform(start, stop), np.pi * (side < 0), s.height, radius=0.8)
        verge = s.walk - s.curb
        trees = 0.8 if verge > 0.2 else 0.3 if s.front - s.walk > 3 else 0.0
        if town and rng.random() < trees:
            off = side * (s.curb + max(verge / 2, 0.8))
            for y in np.arange(start + rng.uniform(1, 8), stop - 1, rng.uniform(6, 16)):
                if rng.random() < 0.85:
                    self.tree(off, y + rng.uniform(-0.8, 0.8), s.height, radius=0.6)
        elif verge > TUFTS + 0.2 or not s.height:
            # Where there is no walk, behind the shoulder.
            middle = s.curb + verge / 2 if s.height else s.front + TUFTS / 2
            for y in np.arange(start + 3, min(stop, 60), SECTION):
                self.plan.put(self.pick("tufts"), side * middle, y, z=s.height)

    def _parked(self, side: int, start: float, stop: float, s: Side) -> None:
        rng = self.rng
        y, share, across = start, rng.uniform(0.3, 0.97), rng.random() < 0.12
        while y < stop:
            if rng.random() < share:
                kind = ("car", "van", "truck")[rng.choice(3, p=(0.86, 0.1, 0.04))] if not across else "car"
                turn = np.pi / 2 * rng.choice((-1, 1)) if across else np.pi * (side != self.plan.hand) + rng.normal(0, 0.03)
                self.put(kind, side * (s.curb - (0.9 if across else 1.1)), y + 2.6, turn)
                self.plan.obstacles += [(side * (s.curb - 1.1), y + 2.6 + dy, 1.2) for dy in (-1.4, 0.0, 1.4)]
            y += 2.9 if across else rng.uniform(5.3, 6.8)

    def _horizon(self) -> None:
        rng, plan = self.rng, self.plan
        end = rng.random()
        if end < 0.35:
            for lateral in (-60, 0, 60):
                self.put("far wood", lateral, END + 12, np.pi / 2)
        elif end < 0.7 and plan.town:
            for lateral in range(-70, 71, 17):
                self.put(("block", "office")[rng.integers(2)], lateral, END + 60 + rng.uniform(-20, 20), 0.0)
        if rng.random() < 0.6:
            plan.parts.append(plants.ridge(rng, rng.uniform(230, 600), rng.uniform(8, 70)))
        ground = [(-1500, -400, -0.3), (1500, -400, -0.3), (1500, 2500, -0.3), (-1500, 2500, -0.3)]
        plan.parts.append(quad(self.ground.lawn, ground))


def _draw_road(rng: np.random.Generator, kind: str) -> Plan:
    country = kind == "country"
    wave = rng.uniform(45, 110)
    slope = rng.uniform(-0.28, 0.28) if rng.random() < 0.45 else rng.uniform(-0.04, 0.04)
    road = Road(bend=slope * wave, wave=wave, phase=rng.uniform(0, 2 * np.pi))
    lanes = 2 if rng.random() < {"city": 0.3, "suburb": 0.05, "avenue": 0.5, "country": 0.1}[kind] else 1
    lane = float(rng.uniform(2.6, 3.7))
    sides = {side: _draw_side(rng, kind, lanes * lane) for side in (-1, 1)}
    crossing = None
    if rng.random() < (0.3 if country else 0.6):
        at = float(rng.uniform(18, 75))
        crossing = (at, at + float(rng.uniform(6, 13)))
    return Plan(road, 1 if rng.random() < 0.6 else -1, lane, lanes, sides, crossing, not country)


def _draw_side(rng: np.random.Generator, kind: str, half: float) -> Side:
    parks = bool(rng.random() < {"city": 0.5, "suburb": 0.6, "avenue": 0.4, "country": 0.0}[kind])
    curb = half + 2.2 * parks
    if kind == "country" and rng.random() < 0.7:
        return Side(curb, curb + 0.4, curb + float(rng.uniform(1.2, 2.5)), False, 0.0)
    green = rng.random() < {"city": 0.12, "suburb": 0.35, "avenue": 0.9, "country": 0.6}[kind]
    verge = float(rng.uniform(1.2, 3.5)) if green else 0.0
    wide = float(rng.uniform(1.9, 5.5) if kind == "city" else rng.uniform(1.3, 3.2))
    return Side(curb, curb + verge, curb + verge + wide, parks, float(rng.uniform(0.05, 0.16)))


def _draw_ground(rng: np.random.Generator) -> Ground:
    gray = rng.uniform(58, 132)
    asphalt = Stuff("road", Material.ROAD, srgb(gray * rng.uniform(0.97, 1.05), gray, gray * rng.uniform(0.96, 1.06)))
    material, slab = PAVINGS[rng.integers(len(PAVINGS))]
    paving = Stuff("sidewalk", material, srgb(*slab) * rng.uniform(0.65, 1.25))
    curb = Stuff("sidewalk", Material.PLAIN, srgb(172, 170, 164) * rng.uniform(0.6, 1.1))
    lawn = Stuff("terrain", Material.GRASS, srgb(*LAWNS[rng.integers(len(LAWNS))]) * rng.uniform(0.75, 1.2))
    earth = SOILS[rng.integers(len(SOILS))]
    soil = Stuff("terrain", Material.GRASS if rng.random() < 0.5 else Material.ROAD, srgb(*earth))
    autumn = 1.0 if rng.random() < 0.75 else rng.uniform(1.1, 1.9)
    green = np.array([rng.uniform(0.9, 1.25) * autumn, 1.0, rng.uniform(0.7, 1.1)]) * rng.uniform(0.8, 1.7)
    winter = bool(rng.random() < 0.12)
    return Ground(asphalt, paving, curb, lawn, soil, green, winter)


def still(plan: Plan) -> Mesh:
    """All that stands in the street, as one mesh."""
    return join(plan.parts)
