"""Land beyond the sidewalks of a street: town houses, gardens, parks, fields, yards."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mtl_perception.synthetic.layout.plan import Builder, Side
from mtl_perception.synthetic.parts.library import SECTION_LENGTH

Use = Callable[[int, float, float, Side], None]
"""Builds on one side (-1, 1) of a street, from one y to another."""


class Frontage(Builder):
    """Builds on the land beyond the sidewalks."""

    def uses(self) -> dict[str, Use]:
        """Return the function that builds each kind of land use."""
        return {
            "front": self._town_houses,
            "houses": self._houses,
            "park": self._park,
            "field": self._field,
            "yard": self._yard,
            "woods": self._woods,
        }

    def _town_houses(self, side: int, start: float, stop: float, s: Side) -> None:
        """Build a closed row of town houses."""
        rng = self.rng
        y, kinds = start + 0.3, ("town house", "shop house", "office")
        share = rng.dirichlet((1.2, 1.2, 0.6))
        while y < stop - 4:
            mesh = self.pick(kinds[rng.choice(3, p=share)])
            width, depth = (float(np.abs(mesh.points[..., axis]).max()) * 2 for axis in (0, 1))
            if y + width > stop + 1:
                break
            mesh = mesh.scaled(1.0, rng.uniform(0.75, 1.2))
            self.plan.put(mesh, side * (s.front + 0.1 + depth / 2), y + width / 2, -side * np.pi / 2, s.height)
            y += width + (rng.uniform(1, 6) if rng.random() < 0.15 else -0.5)
        if rng.random() < 0.35:
            for _ in range(int(rng.integers(1, 6))):
                self.put("bicycle rack", side * (s.front - 0.9), rng.uniform(start, stop), z=s.height, radius=1.4)

    def _houses(self, side: int, start: float, stop: float, s: Side) -> None:
        rng = self.rng
        setback = rng.uniform(2.5, 9)
        self._boundary(side, start, stop, s)
        y = start + rng.uniform(0, 3)
        while y < stop - 10:
            kind = "house" if rng.random() < 0.85 else "shed"
            turn = -side * np.pi / 2 if rng.random() < 0.7 else np.pi * (side > 0)
            self.put(kind, side * (s.front + setback + 6.5), y + 6, turn, s.height)
            if rng.random() < 0.75:
                self.tree(side * (s.front + setback * rng.uniform(0.4, 1.3) + 1), y + 13, s.height)
            for _ in range(3):
                self.put("bush", side * (s.front + rng.uniform(1, setback + 1)), y + rng.uniform(0, 12), z=s.height)
            y += rng.uniform(13, 20)
        self._forest(side, start, stop, s, s.front + 26, 26)

    def _park(self, side: int, start: float, stop: float, s: Side) -> None:
        rng = self.rng
        if rng.random() < 0.6:
            self._boundary(side, start, stop, s)
        for y in np.arange(start + 3, stop - 2, rng.uniform(5, 11)):
            self.tree(side * (s.front + rng.uniform(1.5, 16)), y + rng.uniform(-2, 2), s.height)
            self.put("bush", side * (s.front + rng.uniform(1.2, 12)), y + rng.uniform(-3, 3), z=s.height)
        self._forest(side, start, stop, s, s.front + (18 if rng.random() < 0.5 else 34), 22)

    def _field(self, side: int, start: float, stop: float, s: Side) -> None:
        rng = self.rng
        if rng.random() < 0.5:
            kind = "guard rail" if rng.random() < 0.6 else "fence"
            self._row(kind, side, start, stop, s.front - 0.3 * (s.height == 0), s.height)
        if rng.random() < 0.5:
            self.strip(self.ground.soil, (start, stop), (side * (s.front + 8), side * 110), s.height + 0.02)
        for _ in range(int(rng.integers(0, 9))):
            self.tree(side * (s.front + rng.uniform(3, 60)), rng.uniform(start, stop), s.height)
        if rng.random() < 0.3:
            self.put("shed", side * (s.front + rng.uniform(14, 50)), rng.uniform(start, stop), -side * np.pi / 2, s.height)
        self._forest(side, start, stop, s, rng.uniform(40, 100), 40)

    def _woods(self, side: int, start: float, stop: float, s: Side) -> None:
        """Build a wall of trees and bushes next to the road, sometimes behind a guard rail or a fence."""
        rng = self.rng
        if rng.random() < 0.45:
            kind = ("guard rail", "bar fence", "fence")[rng.choice(3, p=(0.7, 0.15, 0.15))]
            self._row(kind, side, start, stop, s.front + 0.2, s.height)
        edge = s.front + rng.uniform(1.0, 7.0)
        for y in np.arange(start + 2, stop - 1, rng.uniform(3.5, 8)):
            if rng.random() < 0.7:
                self.tree(side * (edge + rng.uniform(-0.5, 2.5)), y + rng.uniform(-1.5, 1.5), s.height, conifers=0.1)
            self.put("bush", side * (edge + rng.uniform(-0.8, 2.0)), y + rng.uniform(-2, 2), z=s.height)
        for y in np.arange(start + 10, stop + 10, 20.0):
            self.put("forest", side * (edge + 4.5), y, z=s.height)
            self.put("forest", side * (edge + 13), y + rng.uniform(-6, 6), z=s.height)

    def _yard(self, side: int, start: float, stop: float, s: Side) -> None:
        """Build an open yard with sheds and parked cars."""
        rng = self.rng
        if rng.random() < 0.5:
            self._row(("bar fence", "fence", "brick wall")[rng.integers(3)], side, start, stop, s.front + 0.3, s.height)
        for y in np.arange(start + 3, stop - 3, rng.uniform(2.6, 3.4)):
            if rng.random() < 0.45:
                self.put("car", side * (s.front + 3.6), y, np.pi / 2 * rng.choice((-1, 1)), s.height, radius=2.3)
        for y in np.arange(start + 8, stop - 6, 24.0):
            kind = ("shed", "office", "forest")[rng.integers(3)]
            self.put(kind, side * (s.front + 18), y, -side * np.pi / 2 if kind != "forest" else 0.0, s.height)

    def _forest(self, side: int, start: float, stop: float, s: Side, lateral: float, step: float) -> None:
        for y in np.arange(start + step / 2, stop + step / 2, step):
            self.put("forest" if step < 30 else "far forest", side * lateral, y, z=s.height)

    def _row(self, kind: str, side: int, start: float, stop: float, lateral: float, z: float) -> None:
        mesh = self.pick(kind)
        for y in np.arange(start + SECTION_LENGTH / 2, stop - SECTION_LENGTH / 2, SECTION_LENGTH):
            self.plan.put(mesh, side * lateral, y, np.pi * (side < 0), z)

    def _boundary(self, side: int, start: float, stop: float, s: Side) -> None:
        rng = self.rng
        y = start + SECTION_LENGTH / 2 + 0.3
        kind, mesh = "", None
        while y < stop - SECTION_LENGTH / 2:
            if mesh is None or rng.random() < 0.4:
                kind = ("fence", "hedge", "brick wall", "bar fence", "")[rng.choice(5, p=(0.27, 0.3, 0.2, 0.13, 0.1))]
                mesh = self.pick(kind) if kind else None
            if mesh is not None:
                self.plan.put(mesh, side * (s.front + 0.5), y, np.pi * (side < 0), s.height)
            y += SECTION_LENGTH + (rng.uniform(0.5, 3.5) if rng.random() < 0.25 else 0.0)
