"""Objects between carriageway and sidewalk: lamps, signs, traffic lights, street trees, parked vehicles."""

from __future__ import annotations

import numpy as np

from mtl_perception.synthetic.layout.plan import Builder, Side
from mtl_perception.synthetic.layout.styles import Style
from mtl_perception.synthetic.parts.library import GRASS_WIDTH, SECTION_LENGTH, Library

CROSSWALK = 4.4
"""Distance from a crossing street within which nobody parks, m."""


class Curbside(Builder):
    """Places the objects along the curb of each block.

    Args:
        rng: Random number generator.
        library: Shapes.
        style: Street to fill.
    """

    def __init__(self, rng: np.random.Generator, library: Library, style: Style) -> None:
        super().__init__(rng, library, style.plan, style.ground)
        self.style = style

    def build(self, side: int, start: float, stop: float, paved: bool) -> None:
        """Fill one side (-1, 1) of the block from `start` to `stop`.

        Args:
            side: -1 for the left side, 1 for the right side.
            start: Start of the block, m.
            stop: End of the block, m.
            paved: The adjoining land is paved.
        """
        s = self.plan.sides[side]
        lateral = side * (s.curb + self.rng.uniform(0.35, 0.75))
        self._lamps(side, start, stop, s, lateral)
        self._signs(side, start, stop, s, lateral)
        self._traffic_lights(side, start, stop, s, lateral)
        self._small_objects(side, start, stop, s, lateral)
        self._plants(side, start, stop, s)
        if self.style.drive:
            self._tall_grass(side, start, stop, s.curb + 0.2, s.walk, s.height)
            if not paved:
                self._tall_grass(side, start, stop, s.front + 0.1, s.front + 6, s.height)
        if s.parking:
            # Keep the crosswalks next to crossing streets free.
            first = start + (1.0 if start == self.plan.start else CROSSWALK)
            self._parked(side, first, stop - (7.0 if stop == self.plan.end else 5.0 + CROSSWALK), s)

    def _lamps(self, side: int, start: float, stop: float, s: Side, lateral: float) -> None:
        rng = self.rng
        if rng.random() < (0.75 if self.plan.town else 0.25):
            for y in np.arange(start + rng.uniform(2, 20), stop, rng.uniform(16, 36)):
                self.put("lamp", lateral, y, np.pi * (side > 0), s.height, radius=0.4)
        elif rng.random() < 0.5:
            for y in np.arange(start + rng.uniform(2, 20), stop, rng.uniform(22, 40)):
                self.put("utility pole", side * (s.front - 0.3), y, 0.0, s.height, radius=0.4)

    def _signs(self, side: int, start: float, stop: float, s: Side, lateral: float) -> None:
        rng = self.rng
        for y in np.arange(start + rng.uniform(3, 16), stop, rng.uniform(8, 26) if self.plan.town else rng.uniform(20, 50)):
            kind, offset = ("direction sign", side * 0.3) if rng.random() < 0.12 else ("sign", 0.0)
            back = np.pi * (side != self.plan.hand and rng.random() < 0.6)
            self.put(kind, lateral + offset, y, back + rng.normal(0, 0.1), s.height, radius=0.4)

    def _traffic_lights(self, side: int, start: float, stop: float, s: Side, lateral: float) -> None:
        rng, plan = self.rng, self.plan
        if stop != plan.end and rng.random() < 0.7:
            kind = "mast arm" if side == plan.hand and side > 0 and rng.random() < 0.4 else "traffic light"
            self.put(kind, lateral, stop - 1.2, 0.0, s.height, radius=0.4)
        if start != plan.start and rng.random() < 0.7:
            self.put("traffic light", lateral, start + 1.2, 0.0 if rng.random() < 0.6 else np.pi, s.height, radius=0.4)

    def _small_objects(self, side: int, start: float, stop: float, s: Side, lateral: float) -> None:
        rng, town = self.rng, self.plan.town
        if town and rng.random() < 0.2:
            for y in np.arange(start + rng.uniform(0, 10), min(stop, start + rng.uniform(15, 60)), rng.uniform(1.5, 3)):
                self.put("bollard", lateral, y, z=s.height, radius=0.3)
        if not self.style.drive:
            for _ in range(int(rng.poisson(2 if town else 0.3))):
                kind = "trash can" if rng.random() < 0.7 else "bench"
                self.put(kind, side * (s.front - 0.5), rng.uniform(start, stop), np.pi * (side < 0), s.height, radius=0.8)

    def _plants(self, side: int, start: float, stop: float, s: Side) -> None:
        rng = self.rng
        verge = s.walk - s.curb
        trees = 0.8 if verge > 0.2 else 0.3 if s.front - s.walk > 3 else 0.0
        if self.plan.town and rng.random() < trees:
            off, conifers = side * (s.curb + max(verge / 2, 0.8)), 0.0 if self.style.drive else 0.18
            for y in np.arange(start + rng.uniform(1, 8), stop - 1, rng.uniform(6, 16)):
                if rng.random() < 0.85:
                    self.tree(off, y + rng.uniform(-0.8, 0.8), s.height, 0.6, conifers)
        elif verge > GRASS_WIDTH + 0.2 or not s.height:
            # Without a sidewalk the grass grows behind the shoulder.
            middle = s.curb + verge / 2 if s.height else s.front + GRASS_WIDTH / 2
            self._grass(side * middle, start, stop, s.height)

    def _tall_grass(self, side: int, start: float, stop: float, inner: float, outer: float, z: float) -> None:
        for middle in np.arange(inner + GRASS_WIDTH / 2, outer - GRASS_WIDTH / 2 + 0.01, GRASS_WIDTH):
            self._grass(side * middle, max(start, 0.0), stop, z)

    def _grass(self, lateral: float, start: float, stop: float, z: float) -> None:
        for y in np.arange(start + SECTION_LENGTH / 2, min(stop, self.plan.reach + 15), SECTION_LENGTH):
            self.plan.put(self.pick("tall grass"), lateral, y, z=z)

    def _parked(self, side: int, start: float, stop: float, s: Side) -> None:
        rng = self.rng
        y, share, across = start, rng.uniform(0.3, 0.97), rng.random() < 0.12 and not self.style.drive
        while y < stop:
            if rng.random() < share:
                kinds = ("car", "van", "car" if self.style.drive else "truck")
                kind = "car" if across else kinds[rng.choice(3, p=(0.86, 0.1, 0.04))]
                turn = np.pi / 2 * rng.choice((-1, 1)) if across else np.pi * (side != self.plan.hand) + rng.normal(0, 0.03)
                self.put(kind, side * (s.curb - (0.9 if across else 1.1)), y + 2.6, turn)
                self.plan.obstacles += [(side * (s.curb - 1.1), y + 2.6 + dy, 1.2) for dy in (-1.4, 0.0, 1.4)]
            y += 2.9 if across else rng.uniform(5.3, 6.8)
