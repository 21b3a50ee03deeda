"""Static part of a street: carriageway, sidewalks, and the objects along and behind them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mtl_perception.synthetic.geometry.solids import quad
from mtl_perception.synthetic.layout.curbside import Curbside
from mtl_perception.synthetic.layout.frontage import Frontage
from mtl_perception.synthetic.layout.plan import Builder, StreetPlan
from mtl_perception.synthetic.layout.styles import Style
from mtl_perception.synthetic.parts import plants
from mtl_perception.synthetic.parts.library import Library


def build_street(rng: np.random.Generator, library: Library, style: Style) -> StreetPlan:
    """Add ground and static objects to the plan of `style`, and return it."""
    _StreetBuilder(rng, library, style).build()
    return style.plan


class _StreetBuilder(Builder):
    def __init__(self, rng: np.random.Generator, library: Library, style: Style) -> None:
        super().__init__(rng, library, style.plan, style.ground)
        self.uses, self.drive = style.uses, style.drive
        self.frontage = Frontage(rng, library, style.plan, style.ground)
        self.curbside = Curbside(rng, library, style)

    def build(self) -> None:
        self._carriageway()
        for side in (-1, 1):
            for start, stop in self.plan.blocks():
                self._block(side, start, stop)
        self._horizon()

    def _carriageway(self) -> None:
        rng, plan, asphalt = self.rng, self.plan, self.ground.asphalt
        edges = (-plan.sides[-1].curb, plan.sides[1].curb)
        for start, stop in plan.blocks():
            first, last = start == plan.start, stop == plan.end
            if last:
                stop += 60
            if not first:
                start = self._stop_line(start, 1, edges)
            if not last:
                stop = self._stop_line(stop, -1, edges)
            if first and last and rng.random() < 0.25:
                crosswalk = float(rng.uniform(12, 50))
                self._lanes(start, crosswalk)
                self.strip(asphalt, (crosswalk, crosswalk + 3.5), edges, 0.0, "crosswalk")
                start = crosswalk + 3.5
            self._lanes(start, stop)
        for crossing in plan.crossings:
            self.strip(asphalt, crossing, (-90, 90), 0.0)
            for side in (-1, 1):
                self.put("forest" if rng.random() < 0.6 else "house", side * 96, sum(crossing) / 2, side * -np.pi / 2)

    def _lanes(self, start: float, stop: float) -> None:
        """Add the lanes between two crosswalks: parking lanes at the edges, repaired patches, worn or damp stretches."""
        rng, plan, ground, half = self.rng, self.plan, self.ground, self.plan.lane * self.plan.lanes
        for side, s in plan.sides.items():
            surface = ground.parking if s.parking else ground.asphalt
            if s.curb > half:
                self.strip(surface, (start, stop), (side * half, side * s.curb), 0.0)
        self.strip(ground.asphalt, (start, stop), (-half, half), 0.0, ground.mark)
        for _ in range(0 if self.drive else int(rng.poisson(2.5))):
            y, lateral = rng.uniform(start, stop), rng.uniform(-half, half)
            length, wide = np.exp(rng.uniform(np.log(0.8), np.log(25))), rng.uniform(0.5, plan.lane)
            tone = ground.asphalt.color * np.float32(rng.uniform(0.55, 1.4))
            patch = replace(ground.asphalt, color=tone)
            # A millimeter above the road, so that rays hit the patch.
            self.strip(patch, (y, min(y + length, stop)), (max(lateral - wide, -half), lateral), 0.001, ground.mark)

    def _stop_line(self, y: float, way: int, edges: tuple[float, float]) -> float:
        """Add the road next to a crossing street from `y` in direction `way` (-1, 1), and return its other end."""
        crosswalk, line = self.rng.random() < 0.55, self.rng.random() < 0.6
        for length, mark in ((3.0, "crosswalk" if crosswalk else "bare"), (1.0, "bare"), (0.4, "solid" if line else "bare")):
            after = y + way * length
            self.strip(self.ground.asphalt, (min(y, after), max(y, after)), edges, 0.0, mark)
            y = after
        return y

    def _block(self, side: int, start: float, stop: float) -> None:
        rng, plan, ground, s = self.rng, self.plan, self.ground, self.plan.sides[side]
        if s.height:
            plan.parts.append(plan.road.wall(ground.curb, (start, stop), side * s.curb, (-0.1, s.height)))
            for y in (start, stop):
                if y not in (plan.start, plan.end):
                    a, b = (plan.road.at(side * lateral, y) for lateral in (s.curb, 60.0))
                    plan.parts.append(quad(ground.curb, [(*a, -0.1), (*b, -0.1), (*b, s.height), (*a, s.height)]))
            self.strip(ground.curb, (start, stop), (side * s.curb, side * (s.curb + 0.15)), s.height)
            if s.walk > s.curb + 0.2:
                self.strip(ground.lawn, (start, stop), (side * (s.curb + 0.15), side * s.walk), s.height)
            self.strip(ground.paving, (start, stop), (side * max(s.walk, s.curb + 0.15), side * s.front), s.height)
        else:
            self.strip(ground.soil, (start, stop), (side * s.curb, side * s.front), 0.0)
        use = str(rng.choice(list(self.uses), p=list(self.uses.values())))
        paved = use == "front" or (use == "yard" and rng.random() < 0.5)
        self.strip(ground.paving if paved else ground.lawn, (start, stop), (side * s.front, side * (s.front + 4)), s.height)
        self.strip(ground.lawn, (start, stop), (side * (s.front + 4), side * 110), s.height)
        self.frontage.uses()[use](side, start, stop, s)
        self.curbside.build(side, start, stop, paved)

    def _horizon(self) -> None:
        rng, plan = self.rng, self.plan
        closed = rng.random()
        # Trees across the road hide the horizon in many scenes, so that networks do not learn to take the lower edge of the sky
        # for it. A drive keeps its road.
        trees, houses = (0.35, 0.7) if self.drive else (0.55, 0.8)
        if closed < trees:
            end = plan.end + 12
            if not self.drive:
                end -= float(rng.uniform(0, 85))
            for lateral in (-60, 0, 60):
                self.put("far forest", lateral, end, np.pi / 2)
        elif closed < houses and plan.town:
            for lateral in range(-70, 71, 17):
                self.put(("town house", "office")[rng.integers(2)], lateral, plan.end + 60 + rng.uniform(-20, 20), 0.0)
        if rng.random() < 0.6:
            plan.parts.append(plants.ridge(rng, rng.uniform(plan.end + 60, plan.end + 430), rng.uniform(8, 70)))
        # A plane below everything else, up to the horizon.
        far = [(x, y, -0.3) for x, y in ((-1500, -400), (1500, -400), (1500, plan.end + 2330), (-1500, plan.end + 2330))]
        plan.parts.append(quad(self.ground.lawn, far))
