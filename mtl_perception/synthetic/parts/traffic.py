"""Vehicles: cars, vans, trucks, buses, trams."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mtl_perception.synthetic.geometry.mesh import Material, Mesh, Surface, join, srgb
from mtl_perception.synthetic.geometry.solids import box, loft, quad, tube

CAR_PAINTS = (
    srgb(172, 176, 180), srgb(214, 214, 212), srgb(38, 40, 44), srgb(70, 76, 84), srgb(22, 34, 74),
    srgb(128, 18, 22), srgb(120, 126, 130), srgb(40, 70, 108), srgb(52, 66, 52), srgb(186, 170, 140),
)  # fmt: skip

RUBBER = Surface("vehicle", Material.PLAIN, srgb(30, 30, 31))
RIM = Surface("vehicle", Material.PAINT, srgb(150, 152, 156))
TRIM = Surface("vehicle", Material.PLAIN, srgb(34, 35, 37))
GLASS = Surface("vehicle", Material.GLASS, srgb(24, 30, 34))
TAIL = Surface("vehicle", Material.PAINT, srgb(150, 14, 16))
HEAD = Surface("vehicle", Material.PAINT, srgb(226, 230, 232))
PLATE = Surface("vehicle", Material.PLAIN, srgb(222, 222, 214))

CAR_BODY = (
    (-1.0, 0.38, 0.72, 0.82), (-0.985, 0.30, 0.86, 0.92), (-0.9, 0.24, 0.97, 0.97), (-0.5, 0.20, 0.96, 1.0),
    (0.1, 0.20, 0.94, 1.0), (0.5, 0.20, 0.90, 0.985), (0.8, 0.22, 0.80, 0.95), (0.95, 0.26, 0.70, 0.88),
    (1.0, 0.34, 0.58, 0.78),
)  # fmt: skip
"""Cross-sections of a car body from rear to front: y (share of half the length), bottom and top (m), half width (share)."""

CABINS = {
    "hatchback": (-0.91, 0.46, -0.74, 0.06, 1.47),
    "sedan": (-0.72, 0.48, -0.38, 0.06, 1.44),
    "station wagon": (-0.93, 0.46, -0.82, 0.06, 1.48),
    "SUV": (-0.93, 0.42, -0.84, 0.08, 1.72),
    "minivan": (-0.95, 0.62, -0.87, 0.24, 1.68),
    "small": (-0.93, 0.5, -0.82, 0.12, 1.5),
}
"""Cabins: y of the rear and front of windows and roof (shares of half the length), and height of the roof (m)."""


def car(rng: np.random.Generator) -> Mesh:
    """Return a car about 4.3 m long: body, cabin, wheels, lamps, license plates."""
    kind = list(CABINS)[rng.integers(len(CABINS))]
    half, wide = rng.uniform(1.95, 2.3) * (0.84 if kind == "small" else 1.0), rng.uniform(0.85, 0.92)
    raised = 0.12 if kind == "SUV" else 0.0
    paint = Surface("vehicle", Material.BODY, CAR_PAINTS[rng.integers(len(CAR_PAINTS))] * rng.uniform(0.7, 1.15))
    body = [_section(share * half, bottom + raised, top + raised, width * wide) for share, bottom, top, width in CAR_BODY]
    belt = 0.93 + raised
    cabin = _cabin(replace(paint, material=Material.CABIN), half, wide, belt, CABINS[kind])
    parts = [_body(paint, body, half), cabin]
    axle = half * 0.62
    parts += _wheels((-axle, axle), wide, 0.31 + raised / 3)
    for side in (-1, 1):
        x = side * wide * 0.66
        parts.append(box(TAIL, (x - 0.13, -half - 0.02, 0.66 + raised), (x + 0.13, -half + 0.2, 0.84 + raised)))
        parts.append(box(HEAD, (x - 0.17, half * 0.9, 0.52 + raised), (x + 0.15, half * 0.985, 0.66 + raised)))
        mirror = side * wide
        parts.append(box(TRIM, (mirror - 0.09, half * 0.36, belt), (mirror + 0.09, half * 0.44, belt + 0.13)))
    parts.append(box(PLATE, (-0.26, -half - 0.025, 0.5 + raised), (0.26, -half + 0.1, 0.61 + raised)))
    parts.append(box(TRIM, (-wide * 0.8, -half - 0.015, 0.3 + raised), (wide * 0.8, -half + 0.1, 0.42 + raised)))
    parts.append(box(TRIM, (-0.4, half * 0.95, 0.3 + raised), (0.4, half + 0.012, 0.46 + raised)))
    parts.append(box(PLATE, (-0.26, half * 0.9, 0.36 + raised), (0.26, half + 0.02, 0.46 + raised)))
    return join(parts)


def van(rng: np.random.Generator) -> Mesh:
    """Return a delivery van, 5.4 m long."""
    paint = Surface("vehicle", Material.BODY, (srgb(226, 226, 224), srgb(206, 178, 60), srgb(60, 80, 120))[rng.integers(3)])
    half, wide, roof = 2.7, 0.98, rng.uniform(2.1, 2.5)
    outline = (
        (-1.0, 0.4, roof - 0.08, 0.96), (-0.98, 0.32, roof, 1.0), (0.3, 0.3, roof, 1.0), (0.42, 0.3, roof - 0.06, 0.98),
        (0.72, 0.3, 1.22, 0.97), (0.95, 0.32, 0.98, 0.92), (1.0, 0.4, 0.72, 0.84),
    )  # fmt: skip
    body = [_section(share * half, bottom, top, width * wide) for share, bottom, top, width in outline]
    parts = [_body(paint, body, half), *_wheels((-half * 0.62, half * 0.62), wide, 0.34)]
    y0, y1, z0, z1 = half * 0.715, half * 0.435, 1.28, roof - 0.16
    parts.append(quad(GLASS, [(-0.78, y0 + 0.04, z0), (0.78, y0 + 0.04, z0), (0.68, y1 + 0.04, z1), (-0.68, y1 + 0.04, z1)]))
    for side in (-1, 1):
        x = side * (wide + 0.012)
        parts.append(quad(GLASS, [(x, 0.55, 1.25), (x, 1.6, 1.25), (x * 0.97, 1.12, z1), (x * 0.97, 0.55, z1)]))
        parts.append(quad(GLASS, [(side * 0.1, -half - 0.01, 1.3), (side * 0.8, -half - 0.01, 1.3),
                                 (side * 0.76, -half - 0.01, 1.9), (side * 0.1, -half - 0.01, 1.9)]))  # fmt: skip
        parts.append(box(TAIL, (side * 0.86 - 0.07, -half - 0.02, 0.8), (side * 0.86 + 0.07, -half + 0.1, 1.2)))
        parts.append(box(HEAD, (side * 0.68 - 0.15, half * 0.93, 0.62), (side * 0.68 + 0.15, half * 0.99, 0.82)))
    parts.append(box(PLATE, (-0.26, -half - 0.02, 0.55), (0.26, -half + 0.1, 0.66)))
    return join(parts)


def truck(rng: np.random.Generator) -> Mesh:
    """Return a box truck about 8 m long."""
    paint = Surface("vehicle", Material.PAINT, CAR_PAINTS[rng.integers(len(CAR_PAINTS))])
    cargo = Surface("vehicle", Material.LIVERY, (srgb(214, 214, 210), srgb(60, 90, 140), srgb(170, 140, 70))[rng.integers(3)])
    parts = [
        box(cargo, (-1.2, -4.0, 0.95), (1.2, 1.7, 3.4)),
        box(TRIM, (-1.0, -3.9, 0.55), (1.0, 3.6, 0.95)),
        box(paint, (-1.15, 2.0, 0.6), (1.15, 3.9, 2.7), taper=0.95),
        quad(GLASS, [(-1.0, 3.925, 1.6), (1.0, 3.925, 1.6), (0.95, 3.885, 2.45), (-0.95, 3.885, 2.45)]),
        box(TRIM, (-1.1, 3.8, 0.45), (1.1, 4.0, 0.75)),
        box(TRIM, (-1.1, -4.05, 0.5), (1.1, -3.95, 0.7)),
        *_wheels((-2.4, 2.9), 1.12, 0.48),
    ]
    for side in (-1, 1):
        x = side * 1.155
        parts.append(quad(GLASS, [(x, 2.5, 1.55), (x, 3.6, 1.55), (x * 0.97, 3.55, 2.35), (x * 0.97, 2.5, 2.35)]))
        parts.append(box(TAIL, (side * 0.9 - 0.15, -4.06, 0.72), (side * 0.9 + 0.15, -3.96, 0.88)))
        parts.append(box(HEAD, (side * 0.85 - 0.17, 3.8, 0.8), (side * 0.85 + 0.17, 3.93, 1.02)))
    return join(parts)


def tram(rng: np.random.Generator) -> Mesh:
    """Return a tram of two or three sections, 18 to 30 m long."""
    colors = (srgb(226, 200, 40), srgb(196, 36, 40), srgb(224, 226, 224), srgb(40, 84, 150), srgb(70, 74, 80))
    paint = Surface("vehicle", Material.LIVERY, colors[rng.integers(5)] * rng.uniform(0.7, 1.0))
    sections, section, wide, roof = int(rng.integers(2, 4)), rng.uniform(8.5, 10.0), 1.2, rng.uniform(3.2, 3.5)
    parts, start = [], -sections * section / 2
    for number in range(sections):
        y0, y1 = start + number * section, start + (number + 1) * section - 0.5
        parts += [
            box(paint, (-wide, y0, 0.3), (wide, y1, roof), taper=0.97),
            box(TRIM, (-wide * 0.95, y0, 0.12), (wide * 0.95, y1, 0.3)),
            box(TRIM, (-0.8, y0 + 1.0, roof), (0.8, y1 - 1.0, roof + 0.35)),
        ]
        if number:
            parts.append(box(TRIM, (-wide * 0.9, y0 - 0.5, 0.4), (wide * 0.9, y0, roof - 0.2)))
        for side in (-1, 1):
            x = side * (wide + 0.012)
            for y in np.arange(y0 + 0.4, y1 - 1.3, 1.5):
                parts.append(quad(GLASS, [(x, y, 1.15), (x, y + 1.35, 1.15), (x * 0.985, y + 1.35, 2.6), (x * 0.985, y, 2.6)]))
    for y, way in ((start - 0.02, -1), (-start - 0.48, 1)):
        parts.append(quad(GLASS, [(-1.05, y, 1.1), (1.05, y, 1.1), (0.95, y - way * 0.1, 2.6), (-0.95, y - way * 0.1, 2.6)]))
        for side in (-1, 1):
            lamp = HEAD if way > 0 else TAIL
            parts.append(box(lamp, (side * 0.85 - 0.14, y - 0.04, 0.7), (side * 0.85 + 0.14, y + 0.04, 0.9)))
    return join(parts)


def bus(rng: np.random.Generator) -> Mesh:
    """Return a city bus, 9 to 12 m long."""
    color = (srgb(196, 40, 36), srgb(224, 190, 60), srgb(226, 226, 222), srgb(40, 90, 150), srgb(60, 130, 80))[rng.integers(5)]
    paint = Surface("vehicle", Material.LIVERY, color * rng.uniform(0.8, 1.0))
    half, wide, roof = rng.uniform(4.5, 6.0), 1.25, rng.uniform(2.9, 3.2)
    parts = [
        box(paint, (-wide, -half, 0.35), (wide, half, roof)),
        box(TRIM, (-wide + 0.02, -half - 0.02, 0.28), (wide - 0.02, half + 0.02, 0.5)),
        *_wheels((-half * 0.5, half * 0.6), wide, 0.48),
    ]
    for side in (-1, 1):
        x = side * (wide + 0.01)
        for y in np.arange(-half + 0.3, half - 1.4, 1.45):
            parts.append(quad(GLASS, [(x, y, 1.25), (x, y + 1.35, 1.25), (x, y + 1.35, 2.4), (x, y, 2.4)]))
        parts.append(box(TAIL, (side * 1.0 - 0.12, -half - 0.03, 0.75), (side * 1.0 + 0.12, -half, 1.1)))
        parts.append(box(HEAD, (side * 0.95 - 0.16, half, 0.6), (side * 0.95 + 0.16, half + 0.03, 0.8)))
    for y, low in ((half + 0.015, 0.95), (-half - 0.015, 1.5)):
        parts.append(quad(GLASS, [(-1.1, y, low), (1.1, y, low), (1.1, y, 2.45), (-1.1, y, 2.45)]))
        parts.append(box(Surface("vehicle", Material.PLAIN, srgb(24, 24, 24)), (-0.9, y - 0.01, 2.5), (0.9, y + 0.01, 2.8)))
    return join(parts)


def _section(y: float, bottom: float, top: float, half: float) -> list[tuple[float, float, float]]:
    """Return a cross-section of a car body with upright sides and rounded shoulders."""
    right = [
        (0.86, bottom), (0.98, bottom + 0.1), (1.0, (bottom + top) / 2), (0.985, top - 0.14), (0.93, top - 0.035), (0.78, top),
    ]  # fmt: skip
    return [(half * x, y, z) for x, z in right] + [(-half * x, y, z) for x, z in reversed(right)]


def _body(paint: Surface, sections: list[list[tuple[float, float, float]]], half: float) -> Mesh:
    mesh = loft(paint, np.array(sections))
    return replace(mesh, texture=mesh.texture / np.array([1, half, 1], np.float32))


def _cabin(paint: Surface, half: float, wide: float, belt: float, shape: tuple[float, ...]) -> Mesh:
    """Return a rounded cabin above `belt`; `shape` is a value of CABINS."""
    rear, front, roof_rear, roof_front, roof = shape
    rise = np.array([0.0, 0.35, 0.7, 0.93])
    y = np.concatenate([rear + (roof_rear - rear) * rise, np.linspace(roof_rear + 0.05, roof_front - 0.05, 4),
                        front + (roof_front - front) * rise[::-1]]) * half  # fmt: skip
    height = np.concatenate([rise**0.9, [1.0, 1.03, 1.03, 1.0], rise[::-1] ** 0.9])
    top = belt + 0.02 + (roof - belt) * height
    rings, texture = [], []
    for along, z in zip(y, top, strict=True):
        share = (z - belt) / (roof - belt)
        upper = wide * (0.9 - 0.2 * share)
        right = [
            (wide * 0.9, belt - 0.03, 1.0), (wide * (0.9 - 0.08 * share), belt + 0.45 * (z - belt), 1.0),
            (upper, z - 0.09 * share, 1.0), (upper * 0.95, z - 0.035 * share, 0.92), (upper * 0.8, z, 0.8),
            (0.0, z + 0.02 * share, 0.0),
        ]  # fmt: skip
        ring = [*right, *((-x, level, -across) for x, level, across in reversed(right[:-1]))]
        rings.append([(x, along, level) for x, level, _ in ring])
        texture.append([(across, along / half, (level - belt) / (roof - belt)) for _, level, across in ring])
    return loft(paint, np.array(rings), texture=np.array(texture))


def _wheels(axles: tuple[float, ...], half: float, radius: float) -> list[Mesh]:
    parts = []
    for y in axles:
        for side in (-1, 1):
            outer = side * (half + 0.02)
            for surface, size, out in ((RUBBER, radius, outer), (RIM, radius * 0.62, outer + side * 0.015)):
                wheel = tube(surface, (out - side * 0.2, y, radius), (out - side * 0.02, y, radius), size, sides=18)
                # A wheel is a short tube whose rounded ends are flattened.
                inner, outmost = sorted((out - side * 0.25, out))
                wheel.points[..., 0] = np.clip(wheel.points[..., 0], inner, outmost)
                parts.append(wheel)
    return parts
