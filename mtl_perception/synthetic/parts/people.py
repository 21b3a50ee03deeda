"""Pedestrians, cyclists, scooter riders and bicycles."""

from __future__ import annotations

import colorsys

import numpy as np

from mtl_perception.synthetic.geometry.mesh import Material, Mesh, Surface, Vector, join, srgb
from mtl_perception.synthetic.geometry.solids import box, ellipsoid, loft, ring, tube

CLOTHES = (
    srgb(42, 50, 74), srgb(120, 36, 38), srgb(196, 190, 180), srgb(58, 60, 58), srgb(70, 92, 116), srgb(150, 118, 60),
    srgb(36, 78, 66), srgb(28, 28, 32), srgb(176, 92, 64), srgb(222, 220, 216), srgb(98, 98, 100), srgb(34, 36, 48),
)  # fmt: skip
TROUSERS = (srgb(40, 46, 62), srgb(58, 66, 88), srgb(36, 34, 34), srgb(122, 108, 86), srgb(82, 96, 124), srgb(70, 68, 66))
SKINS = (srgb(214, 164, 136), srgb(168, 116, 86), srgb(98, 64, 46), srgb(230, 186, 160))
HAIRS = (srgb(44, 32, 26), srgb(94, 66, 40), srgb(24, 22, 22), srgb(150, 120, 76), srgb(150, 148, 144))
BICYCLE_PAINTS = (
    srgb(28, 28, 30), srgb(150, 26, 28), srgb(34, 62, 120), srgb(170, 172, 174), srgb(40, 96, 70), srgb(214, 208, 196),
)  # fmt: skip

ARMS = ("swing", "swing", "swing", "pockets", "phone", "front")
"""Postures of the arms; repeated entries are more likely."""


def random_cloth_color(rng: np.random.Generator, palette: tuple[np.ndarray, ...]) -> np.ndarray:
    """Return a random color of clothes, from the palette or any that is not too bright."""
    if rng.random() < 0.6:
        return np.asarray(palette[rng.integers(len(palette))] * rng.uniform(0.7, 1.3))
    color = colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.1, 0.75), rng.uniform(0.15, 0.9))
    return srgb(*(255 * channel for channel in color))


class Person:
    """Pedestrian or cyclist of random appearance; the phase of the gait or of the pedals moves the limbs.

    Args:
        rng: Random number generator.
        cycling: Rides a bicycle; person and bicycle have the label `cyclist`.
        sides: Sides of limbs and torso; fewer for distant people.
        adult: Adult of average build; otherwise build, age and posture are random.
    """

    def __init__(self, rng: np.random.Generator, cycling: bool = False, sides: int = 8, adult: bool = False) -> None:
        self.cycling, self.sides = cycling, sides
        self.label = "cyclist" if cycling else "person"
        self.size = float(rng.uniform(0.9, 1.06))
        self.girth = float(np.clip(rng.normal(1.02, 0.12), 0.85, 1.4)) if not adult else 1.0
        self.head = 1.0
        if not adult and rng.random() < (0.08 if cycling else 0.14):
            self.size = float(rng.uniform(0.6, 0.85))
            self.head = 1.0 + 0.6 * (0.95 - self.size)
        self.top = self._surface(random_cloth_color(rng, CLOTHES))
        self.legs = self._surface(random_cloth_color(rng, TROUSERS))
        self.skin = self._surface(SKINS[rng.integers(len(SKINS))])
        self.hair = self._surface(HAIRS[rng.integers(len(HAIRS))])
        self.dark = self._surface(srgb(30, 30, 32))
        self.shoes = self.dark if rng.random() < 0.7 else self._surface(random_cloth_color(rng, CLOTHES))
        self.metal = self._surface(BICYCLE_PAINTS[rng.integers(len(BICYCLE_PAINTS))], Material.PAINT)
        self.bag = self._surface(random_cloth_color(rng, CLOTHES)) if rng.random() < 0.4 else None
        self.handbag = bool(rng.random() < 0.2) and not cycling
        self.short_sleeves, self.shorts = bool(rng.random() < 0.3), bool(rng.random() < 0.16)
        self.hem = float(rng.choice((0.0, 0.62, 0.5, 0.72), p=(0.66, 0.12, 0.08, 0.14))) if not cycling else 0.0
        self.dress = bool(rng.random() < 0.6)
        self.long_hair = bool(rng.random() < 0.35)
        self.hat = self._surface(random_cloth_color(rng, CLOTHES)) if rng.random() < (0.55 if cycling else 0.15) else None
        self.arms = ARMS[rng.integers(len(ARMS))] if not adult else "swing"
        self.lean = float(rng.uniform(0.2, 0.5)) if not adult else 0.32
        self.basket = bool(rng.random() < 0.2)

    def advance(self, phase: float, distance: float) -> float:
        """Return the phase after `distance` meters: two steps of 0.8 m, or one turn of a wheel, are 2 pi."""
        return phase - distance / 0.33 if self.cycling else phase + distance / 0.25

    def mesh(self, phase: float, moving: bool = True) -> Mesh:
        """Return the person at the origin, facing +y."""
        parts = self._cyclist(phase) if self.cycling else self._walker(phase if moving else 0.0, 0.42 if moving else 0.04)
        return join(parts).scaled(self.size)

    def _surface(self, color: np.ndarray, material: Material = Material.PLAIN) -> Surface:
        return Surface(self.label, material, color)

    def _tube(self, surface: Surface, start: Vector, end: Vector, radius: float, end_radius: float | None = None) -> Mesh:
        return tube(surface, start, end, radius, end_radius, sides=self.sides)

    def _walker(self, phase: float, stride: float) -> list[Mesh]:
        parts = []
        g = self.girth
        shin = self.skin if self.shorts or self.hem else self.legs
        for side, swing in ((-1, np.sin(phase)), (1, -np.sin(phase))):
            x = side * 0.095 * g
            foot, knee = stride * swing, stride * swing * 0.4 + 0.06
            lift = 0.1 * max(0.0, -swing) * (stride > 0.1)
            parts.append(self._tube(self.legs, (x, 0, 0.88), (x, knee, 0.49), 0.088 * g, 0.062 * g))
            parts.append(self._tube(shin, (x, knee, 0.49), (x, foot - 0.04, 0.09 + lift), 0.06 * g, 0.045 * g))
            parts.append(self._tube(self.shoes, (x, foot - 0.06, 0.045 + lift), (x, foot + 0.13, 0.04 + lift), 0.045))
            parts += self._arm(side, -0.6 * foot)
        if self.hem:
            surface = self.top if self.dress else self.legs
            parts.append(self._skirt(surface, self.hem, 0.15 * g, (0.2 if self.dress else 0.23) * g))
        return parts + self.torso((0, 0, 0.93), (0, 0.01, 1.38))

    def _skirt(self, surface: Surface, hem: float, waist: float, wide: float) -> Mesh:
        angle = np.arange(self.sides + 2) * 2 * np.pi / (self.sides + 2)
        circle = np.stack([np.cos(angle), 0.8 * np.sin(angle), 0 * angle], -1)
        rows = ((0.98, waist * 0.9), (0.9, waist * 1.1), (hem, wide))
        return loft(surface, np.array([circle * radius + (0, 0, z) for z, radius in rows]))

    def _arm(self, side: int, hand: float) -> list[Mesh]:
        x = side * 0.21 * self.girth
        if self.arms == "pockets":
            elbow, wrist = np.array([x * 1.4, -0.1, 1.14]), np.array([x * 0.9, 0.06, 0.95])
        elif self.arms == "front" or (self.arms == "phone" and side > 0):
            elbow, wrist = np.array([x * 1.1, 0.05, 1.12]), np.array([x * 0.4, 0.28, 1.18 if self.arms == "front" else 1.32])
        else:
            elbow, wrist = np.array([x * 1.16, hand * 0.4 - 0.04, 1.12]), np.array([x * 1.1, hand + 0.05, 0.88])
        forearm = self.skin if self.short_sleeves else self.top
        parts = [
            self._tube(self.top, (x * 0.93, 0, 1.36), elbow, 0.055 * self.girth, 0.047),
            self._tube(forearm, elbow, wrist, 0.045, 0.034),
            ellipsoid(self.skin, wrist + (0, 0.01, -0.03), (0.035, 0.045, 0.05), sides=max(4, self.sides - 2)),
        ]
        if self.handbag and side > 0:
            parts.append(box(self.bag or self.dark, wrist + (-0.05, -0.14, -0.36), wrist + (0.06, 0.14, -0.1)))
        return parts

    def torso(self, hip: tuple[float, float, float], neck: tuple[float, float, float]) -> list[Mesh]:
        """Return torso, head, hair, hat and backpack of a person with the torso between `hip` and `neck`."""
        low, high = np.array(hip), np.array(neck)
        sections = ((0.0, 0.15, 0.1), (0.25, 0.145, 0.095), (0.6, 0.185, 0.115), (0.9, 0.2, 0.105), (1.06, 0.09, 0.07))
        count = self.sides + 2
        angle = np.arange(count) * 2 * np.pi / count
        rings = [
            low + (high - low) * at + self.girth * np.stack([wide * np.cos(angle), deep * np.sin(angle), 0 * angle], -1)
            for at, wide, deep in sections
        ]
        head, size = high + (0, 0.03, 0.205), self.head
        crown = np.array([0.086, 0.095, 0.108]) * size
        parts = [
            loft(self.top, np.array(rings)),
            self._tube(self.skin, high, head - (0, 0.02, 0.05), 0.055),
            ellipsoid(self.skin, head, np.array([0.078, 0.095, 0.118]) * size, sides=count),
            ellipsoid(self.hair, head + (0, -0.022, 0.028), crown, sides=count),
        ]
        if self.hat is not None:
            parts.append(ellipsoid(self.hat, head + (0, -0.01, 0.055), crown * (1.12, 1.2, 0.82), sides=count))
        if self.long_hair:
            parts.append(ellipsoid(self.hair, head + (0, -0.075, -0.09), np.array([0.085, 0.055, 0.16]) * size, sides=count))
        if self.bag is not None:
            back = (low + high) / 2 + (0, -0.18 * self.girth, 0.08)
            parts.append(box(self.bag, back - (0.15, 0.09, 0.2), back + (0.15, 0.09, 0.2), taper=0.85))
        return parts

    def _cyclist(self, phase: float) -> list[Mesh]:
        parts = bicycle_parts(self.metal, self.dark, phase, self.basket)
        g, lean = self.girth, self.lean
        shin = self.skin if self.shorts else self.legs
        for side in (-1, 1):
            turn = phase if side > 0 else phase + np.pi
            pedal = np.array([side * 0.11, -0.06 + 0.16 * np.cos(turn), 0.3 + 0.16 * np.sin(turn)])
            hip = np.array([side * 0.09, -0.2, 1.0])
            # Thigh and shin have the same length, so the knee lies in the plane midway between hip and pedal, in front.
            middle = (hip + pedal) / 2
            away = np.array([0, pedal[2] - hip[2], hip[1] - pedal[1]])
            away = away / np.linalg.norm(away) * -np.sqrt(max(0.44**2 - np.sum((hip - pedal) ** 2) / 4, 0.003))
            knee = middle + (away if away[1] > 0 else -away)
            parts.append(self._tube(self.legs, hip, knee, 0.085 * g, 0.06 * g))
            parts.append(self._tube(shin, knee, pedal + (0, 0, 0.06), 0.058 * g, 0.042))
            parts.append(self._tube(self.shoes, pedal + (0, -0.07, 0.03), pedal + (0, 0.13, 0.02), 0.04))
            shoulder = (side * 0.19 * g, lean - 0.2, 1.47 - 0.25 * max(0.0, lean - 0.3))
            elbow = (side * 0.27 * g, lean - 0.1, 1.2)
            parts.append(self._tube(self.top, shoulder, elbow, 0.052, 0.042))
            forearm = self.skin if self.short_sleeves else self.top
            parts.append(self._tube(forearm, elbow, (side * 0.25, 0.33, 1.06), 0.042, 0.033))
        return parts + self.torso((0, -0.2, 0.99), (0, lean - 0.2, 1.45 - 0.25 * max(0.0, lean - 0.3)))


def bicycle_parts(metal: Surface, dark: Surface, phase: float, basket: bool = False) -> list[Mesh]:
    """Return a bicycle along y with its wheels rotated by `phase` radians."""
    parts = []
    rear, front, crank, saddle, bars = (0, -0.52, 0.34), (0, 0.54, 0.34), (0, -0.06, 0.3), (0, -0.22, 0.92), (0, 0.38, 1.0)
    for hub in (rear, front):
        parts.append(ring(dark, hub, 0.325, 0.022))
        parts.append(tube(metal, (-0.02, hub[1], hub[2]), (0.02, hub[1], hub[2]), 0.05))
        for angle in np.arange(4) * np.pi / 4 + phase:
            spoke = 0.31 * np.array([0, np.cos(angle), np.sin(angle)])
            parts.append(tube(metal, hub - spoke, hub + spoke, 0.005, sides=3))
    seat = (0, -0.2, 0.78)
    frame = ((crank, saddle), (crank, rear), (rear, seat), (crank, (0, 0.4, 0.72)), (seat, (0, 0.4, 0.8)), (front, bars))
    parts += [tube(metal, a, b, 0.02, sides=5) for a, b in frame]
    parts.append(tube(dark, (-0.28, 0.34, 1.04), (0.28, 0.34, 1.04), 0.018, sides=5))
    parts.append(ellipsoid(dark, (0, -0.22, 0.95), (0.08, 0.13, 0.035), sides=7))
    if basket:
        parts.append(box(dark, (-0.17, 0.44, 0.78), (0.17, 0.74, 1.02), taper=1.15))
    return parts


def bicycle(rng: np.random.Generator) -> Mesh:
    """Return a parked bicycle; its class is `cyclist`."""
    metal = Surface("cyclist", Material.PAINT, BICYCLE_PAINTS[rng.integers(len(BICYCLE_PAINTS))])
    dark = Surface("cyclist", Material.PLAIN, srgb(30, 30, 32))
    return join(bicycle_parts(metal, dark, rng.uniform(0, np.pi), bool(rng.random() < 0.3)))


def scooter(rng: np.random.Generator, sides: int = 8) -> Mesh:
    """Return a motor scooter with its rider, facing +y."""
    rider = Person(rng, cycling=True, sides=sides, adult=True)
    paint = Surface("cyclist", Material.PAINT, random_cloth_color(rng, BICYCLE_PAINTS))
    dark = rider.dark
    parts = []
    for y in (-0.55, 0.62):
        parts += [ring(dark, (0, y, 0.24), 0.19, 0.06), tube(rider.metal, (-0.06, y, 0.24), (0.06, y, 0.24), 0.12)]
    parts += [
        box(paint, (-0.19, -0.8, 0.32), (0.19, -0.02, 0.74), taper=0.8),
        box(dark, (-0.15, -0.75, 0.72), (0.15, 0.05, 0.82), taper=0.9),
        box(paint, (-0.17, -0.1, 0.2), (0.17, 0.5, 0.3)),
        box(paint, (-0.2, 0.42, 0.28), (0.2, 0.56, 0.95), taper=0.8),
        tube(rider.metal, (0, 0.62, 0.3), (0, 0.42, 1.05), 0.035),
        tube(dark, (-0.33, 0.4, 1.06), (0.33, 0.4, 1.06), 0.022),
    ]
    helmet = Surface("cyclist", Material.PAINT, random_cloth_color(rng, CLOTHES))
    for side in (-1, 1):
        knee, foot = (side * 0.15, 0.24, 0.84), (side * 0.14, 0.2, 0.36)
        parts.append(tube(rider.legs, (side * 0.1, -0.25, 0.86), knee, 0.09, 0.065, sides))
        parts.append(tube(rider.legs, knee, foot, 0.062, 0.05, sides))
        heel, toe = np.array(foot) + (0, -0.06, -0.02), np.array(foot) + (0, 0.15, -0.03)
        parts.append(tube(rider.shoes, heel, toe, 0.045, sides=sides))
        parts.append(tube(rider.top, (side * 0.2, -0.12, 1.3), (side * 0.28, 0.06, 1.06), 0.06, 0.05, sides))
        parts.append(tube(rider.top, (side * 0.28, 0.06, 1.06), (side * 0.27, 0.36, 1.06), 0.048, 0.04, sides))
    parts += rider.torso((0, -0.25, 0.84), (0, -0.12, 1.3))
    parts.append(ellipsoid(helmet, (0, -0.09, 1.52), (0.13, 0.15, 0.15)))
    return join(parts)
