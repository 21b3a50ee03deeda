"""Random dimensions, surfaces and land use of streets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from mtl_perception.synthetic.geometry.mesh import Material, Surface, srgb
from mtl_perception.synthetic.layout.plan import Ground, Side, StreetPlan
from mtl_perception.synthetic.layout.road import Road

PAVINGS = (
    (Material.PAVING, (142, 136, 130)), (Material.PAVING, (160, 150, 136)), (Material.PAVING, (150, 112, 96)),
    (Material.ROAD, (122, 120, 118)), (Material.ROAD, (96, 96, 98)), (Material.PAVING, (178, 172, 164)),
    (Material.BRICK, (148, 104, 88)),
)  # fmt: skip
LAWNS = ((92, 110, 56), (104, 108, 58), (80, 104, 50), (128, 118, 76), (110, 112, 66))
SOILS = ((128, 108, 84), (146, 132, 108), (150, 146, 138))
"""Materials and 8-bit sRGB colors of the ground."""

USES: Mapping[str, Mapping[str, float]] = {
    "city": {"front": 0.8, "houses": 0.05, "park": 0.1, "yard": 0.05},
    "suburb": {"front": 0.12, "houses": 0.54, "park": 0.12, "yard": 0.14, "woods": 0.08},
    "avenue": {"front": 0.25, "houses": 0.16, "park": 0.3, "yard": 0.11, "woods": 0.18},
    "country": {"houses": 0.1, "park": 0.2, "field": 0.33, "woods": 0.37},
}
"""Kinds of street, with the probability of each land use beside them."""

KIND_SHARES = (0.22, 0.4, 0.14, 0.24)
"""Probability of each kind of street."""

MIXED = {"front": 0.33, "houses": 0.42, "park": 0.25}
"""Probability of each land use along a drive."""

MARK_SHARES = {"dashed": 0.15, "center": 0.25, "edged": 0.2, "double": 0.15, "bare": 0.25}
"""Probability of each kind of lane marking on a street with one lane in each direction."""

BEFORE, AFTER = 16.0, 125.0
"""A scene's street begins this far before the first camera and ends this far after the last one, m."""

SCENE_REACH = 45.0
"""Cameras of scenes stand between 0 and this distance along the street, m."""

DRIVE_BEFORE, DRIVE_AFTER = 45.0, 220.0
"""The street of a drive begins this far before its first image and ends this far after its last one, m."""

SCENE_ASPHALT, DRIVE_ASPHALT = (62.0, 165.0), (58.0, 132.0)
"""Darkest and brightest asphalt of scenes and of drives, 8-bit sRGB gray."""


@dataclass(frozen=True)
class Style:
    """A street that is still empty.

    Attributes:
        plan: Dimensions.
        ground: Surfaces.
        uses: Probability of each land use of a block.
        drive: The street is for a drive: tall grass grows near the camera, every object has a class, and no vehicle that blocks
            the view is parked at the curb.
    """

    plan: StreetPlan
    ground: Ground
    uses: Mapping[str, float]
    drive: bool = False


def scene_style(rng: np.random.Generator) -> Style:
    """Return any kind of street, in town or in the country, for single scenes."""
    kind = str(rng.choice(list(USES), p=KIND_SHARES))
    country = kind == "country"
    wave = rng.uniform(45, 110)
    slope = rng.uniform(-0.28, 0.28) if rng.random() < 0.45 else rng.uniform(-0.04, 0.04)
    road = Road(bend=slope * wave, wave=wave, phase=rng.uniform(0, 2 * np.pi))
    lanes = 2 if rng.random() < {"city": 0.3, "suburb": 0.05, "avenue": 0.5, "country": 0.25}[kind] else 1
    lane = float(rng.uniform(2.6, 3.7))
    sides = {side: _scene_side(rng, kind, lanes * lane) for side in (-1, 1)}
    crossings: tuple[tuple[float, float], ...] = ()
    if rng.random() < (0.3 if country else 0.6):
        start = float(rng.uniform(18, 75))
        crossings = ((start, start + float(rng.uniform(6, 13))),)
    hand = 1 if rng.random() < 0.6 else -1
    extent = (-BEFORE, SCENE_REACH + AFTER, SCENE_REACH)
    plan = StreetPlan(road, hand, lane, lanes, sides, crossings, not country, *extent)
    return Style(plan, _scene_ground(rng, _random_ground(rng, lanes, SCENE_ASPHALT)), USES[kind])


def drive_style(rng: np.random.Generator, distance: float) -> Style:
    """Return a street in town with right-hand traffic, long enough to drive `distance` meters."""
    wave = rng.uniform(55, 90)
    road = Road(bend=rng.uniform(-0.1, 0.1) * wave, wave=wave, phase=rng.uniform(0, 2 * np.pi))
    lane = float(rng.uniform(3.3, 3.6))
    parking = (bool(rng.random() < 0.4), bool(rng.random() < 0.75))
    sides = {side: _drive_side(rng, lane, park) for side, park in zip((-1, 1), parking, strict=True)}
    end = distance + DRIVE_AFTER
    crossings, start = [], float(rng.uniform(46, 62))
    while start < end - 40:
        crossings.append((start, start + float(rng.uniform(6, 10))))
        start = crossings[-1][1] + float(rng.uniform(45, 85))
    plan = StreetPlan(road, 1, lane, 1, sides, tuple(crossings), True, -DRIVE_BEFORE, end, distance)
    ground = replace(_random_ground(rng, 1, DRIVE_ASPHALT), winter=False, mark=str(rng.choice(("dashed", "center", "edged"))))
    return Style(plan, ground, MIXED, drive=True)


def _scene_side(rng: np.random.Generator, kind: str, half: float) -> Side:
    parking = bool(rng.random() < {"city": 0.5, "suburb": 0.6, "avenue": 0.4, "country": 0.0}[kind])
    curb = half + 2.2 * parking
    if kind == "country" and rng.random() < 0.7:
        return Side(curb, curb + 0.4, curb + float(rng.uniform(1.2, 2.5)), False, 0.0)
    green = rng.random() < {"city": 0.12, "suburb": 0.35, "avenue": 0.9, "country": 0.6}[kind]
    verge = float(rng.uniform(1.2, 3.5)) if green else 0.0
    wide = float(rng.uniform(1.9, 5.5) if kind == "city" else rng.uniform(1.3, 3.2))
    return Side(curb, curb + verge, curb + verge + wide, parking, float(rng.uniform(0.05, 0.16)))


def _drive_side(rng: np.random.Generator, half: float, parking: bool) -> Side:
    curb = half + 2.2 * parking
    walk = curb + (float(rng.uniform(1.8, 2.6)) if rng.random() < 0.7 else 0.0)
    return Side(curb, walk, walk + float(rng.uniform(2.2, 3.2)), parking, 0.12)


def _scene_ground(rng: np.random.Generator, ground: Ground) -> Ground:
    """Vary surfaces so that material and brightness alone do not separate road and sidewalk."""
    asphalt, paving, curb, parking = ground.asphalt, ground.paving, ground.curb, ground.parking
    if rng.random() < 0.35:
        paving = replace(paving, material=Material.ROAD, color=asphalt.color * rng.uniform(0.75, 1.4))
    if rng.random() < 0.3:
        curb = replace(curb, color=asphalt.color * rng.uniform(0.75, 1.4))
    if rng.random() < 0.3:
        material, slab = PAVINGS[rng.integers(len(PAVINGS))]
        parking = replace(parking, material=material, color=srgb(*slab) * rng.uniform(0.5, 1.1))
    if ground.mark == "bare" and rng.random() < 0.3:
        asphalt = replace(asphalt, material=Material.PAVING, color=asphalt.color * np.array([1.06, 1.0, 0.93], np.float32))
    return replace(ground, asphalt=asphalt, paving=paving, curb=curb, parking=parking)


def _random_ground(rng: np.random.Generator, lanes: int, asphalt_range: tuple[float, float]) -> Ground:
    gray = rng.uniform(*asphalt_range)
    asphalt = Surface("road", Material.ROAD, srgb(gray * rng.uniform(0.97, 1.05), gray, gray * rng.uniform(0.96, 1.06)))
    material, slab = PAVINGS[rng.integers(len(PAVINGS))]
    paving = Surface("sidewalk", material, srgb(*slab) * rng.uniform(0.65, 1.25))
    curb = Surface("sidewalk", Material.PLAIN, srgb(172, 170, 164) * rng.uniform(0.6, 1.1))
    lawn = Surface("terrain", Material.GRASS, srgb(*LAWNS[rng.integers(len(LAWNS))]) * rng.uniform(0.75, 1.2))
    earth = SOILS[rng.integers(len(SOILS))]
    soil = Surface("terrain", Material.GRASS if rng.random() < 0.5 else Material.ROAD, srgb(*earth))
    autumn = 1.0 if rng.random() < 0.75 else rng.uniform(1.1, 1.9)
    green = np.array([rng.uniform(0.9, 1.25) * autumn, 1.0, rng.uniform(0.7, 1.1)]) * rng.uniform(0.8, 1.7)
    winter = bool(rng.random() < 0.12)
    mark = "lanes" if lanes == 2 else list(MARK_SHARES)[rng.choice(5, p=list(MARK_SHARES.values()))]
    return Ground(asphalt, asphalt, paving, curb, lawn, soil, green, winter, mark)
