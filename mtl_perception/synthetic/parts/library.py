"""Library of shapes that are generated once and placed many times."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from mtl_perception.synthetic.geometry.mesh import Mesh, join
from mtl_perception.synthetic.parts import buildings, furniture, plants, traffic
from mtl_perception.synthetic.parts.people import Person, bicycle, scooter


@dataclass(frozen=True)
class Shape:
    """An object at the origin, facing +y.

    Attributes:
        mesh: Its triangles.
        person: The person to animate; None for rigid objects.
        phase: Phase of the gait or of the pedals in `mesh`, radians.
    """

    mesh: Mesh
    person: Person | None = None
    phase: float = 0.0

    def mesh_after(self, distance: float) -> Mesh:
        """Return the mesh after it has moved `distance` meters; people move their limbs."""
        if self.person is None:
            return self.mesh
        return self.person.mesh(self.person.advance(self.phase, distance))


ShapeFactory = Callable[[np.random.Generator], Mesh | Shape]

SECTION_LENGTH = 6.0
"""Length of a section of fence, hedge, wall, guard rail or tall grass, m."""

GRASS_WIDTH = 0.9
"""Width of a section of tall grass, m."""


def _person(sides: int) -> ShapeFactory:
    def create(rng: np.random.Generator) -> Shape:
        person, phase = Person(rng, sides=sides), rng.uniform(0, 2 * np.pi)
        return Shape(person.mesh(phase, moving=bool(rng.random() < 0.75)), person, phase)

    return create


def _cyclist(sides: int) -> ShapeFactory:
    def create(rng: np.random.Generator) -> Shape:
        if rng.random() < 0.12:
            return Shape(scooter(rng, sides))
        person, phase = Person(rng, cycling=True, sides=sides), rng.uniform(0, 2 * np.pi)
        return Shape(person.mesh(phase), person, phase)

    return create


def _rack(rng: np.random.Generator) -> Mesh:
    """Return one to five bicycles parked side by side along y."""
    return join([
        bicycle(rng).placed(rng.normal(0, 0.06), 0.55 * i + rng.normal(0, 0.05), 0.0, np.pi / 2 + rng.normal(0, 0.12))
        for i in range(int(rng.integers(1, 6)))
    ])  # fmt: skip


def _town_house(rng: np.random.Generator) -> Mesh:
    return buildings.town_house(rng, rng.uniform(7, 17), rng.uniform(10, 13), int(rng.integers(2, 7)))


def _shop_house(rng: np.random.Generator) -> Mesh:
    return buildings.town_house(rng, rng.uniform(7, 15), rng.uniform(10, 13), int(rng.integers(2, 6)), shop=True)


KINDS: Mapping[str, tuple[int, ShapeFactory]] = {
    "person": (220, _person(8)),
    "far person": (120, _person(5)),
    "cyclist": (160, _cyclist(7)),
    "far cyclist": (80, _cyclist(5)),
    "bicycle": (16, bicycle),
    "bicycle rack": (10, _rack),
    "car": (60, traffic.car),
    "van": (10, traffic.van),
    "truck": (8, traffic.truck),
    "bus": (8, traffic.bus),
    "tree": (16, lambda rng: plants.tree(rng, rng.uniform(5, 11), 420)),
    "bare tree": (8, lambda rng: plants.bare_tree(rng, rng.uniform(6, 11))),
    "conifer": (8, lambda rng: plants.conifer(rng, rng.uniform(6, 12), 1500)),
    "bush": (10, lambda rng: plants.bush(rng, rng.uniform(0.7, 2.6))),
    "hedge": (10, lambda rng: plants.hedge(rng, SECTION_LENGTH, rng.uniform(0.8, 2.2))),
    "forest": (8, lambda rng: plants.forest_edge(rng, 24, 7, rng.uniform(6, 12), 90)),
    "far forest": (6, lambda rng: plants.forest_edge(rng, 60, 14, rng.uniform(8, 13), 30)),
    "tall grass": (6, lambda rng: plants.tall_grass(rng, SECTION_LENGTH, GRASS_WIDTH)),
    "fence": (14, lambda rng: furniture.fence(rng, SECTION_LENGTH)),
    "bar fence": (8, lambda rng: furniture.bar_fence(rng, SECTION_LENGTH)),
    "brick wall": (12, lambda rng: furniture.brick_wall(rng, SECTION_LENGTH)),
    "guard rail": (4, lambda rng: furniture.guard_rail(rng, SECTION_LENGTH)),
    "lamp": (10, furniture.lamp),
    "sign": (24, furniture.sign),
    "direction sign": (12, furniture.direction_sign),
    "traffic light": (6, furniture.traffic_light),
    "mast arm": (6, furniture.mast_arm),
    "bollard": (5, furniture.bollard),
    "utility pole": (4, furniture.utility_pole),
    "trash can": (10, furniture.trash_can),
    "bench": (5, furniture.bench),
    "town house": (40, _town_house),
    "shop house": (24, _shop_house),
    "office": (16, lambda rng: buildings.office(rng, rng.uniform(12, 30), rng.uniform(10, 20), int(rng.integers(2, 9)))),
    "house": (24, lambda rng: buildings.house(rng, rng.uniform(8, 13), rng.uniform(8, 10))),
    "shed": (10, lambda rng: buildings.shed(rng, rng.uniform(4, 18), rng.uniform(5, 9))),
    "tram": (6, traffic.tram),
}
"""Number of different shapes of each kind, and the function that generates one."""


class Library:
    """Random shapes by kind. A seed gives the same shapes in whatever order they are requested.

    Args:
        seed: Seed of the shapes.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._shapes: dict[tuple[str, int], Shape] = {}

    def pick(self, kind: str, rng: np.random.Generator) -> Shape:
        """Return a random shape of this kind."""
        count, factory = KINDS[kind]
        number = int(rng.integers(count))
        if (kind, number) not in self._shapes:
            shape_rng = np.random.default_rng([self.seed, list(KINDS).index(kind), number])
            shape = factory(shape_rng)
            self._shapes[kind, number] = shape if isinstance(shape, Shape) else Shape(shape)
        return self._shapes[kind, number]
