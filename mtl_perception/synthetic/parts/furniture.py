"""Street furniture: fences, walls, guard rails, lamps, traffic signs and lights, bins, bollards."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from mtl_perception.synthetic.geometry.mesh import Material, Mesh, Surface, join, srgb, triangles
from mtl_perception.synthetic.geometry.solids import box, loft, quad, tube

STEEL = Surface("pole", Material.PLAIN, srgb(138, 142, 144))
PAINTED_STEEL = Surface("pole", Material.PLAIN, srgb(74, 88, 84))
TIMBERS = (srgb(120, 92, 64), srgb(206, 202, 192), srgb(92, 78, 66), srgb(82, 102, 84))


def fence(rng: np.random.Generator, length: float) -> Mesh:
    """Return a fence along y, centered at the origin: pickets, rails, or a low wall with a rail."""
    kind = rng.integers(3)
    high = rng.uniform(0.95, 1.35)
    surface = Surface("fence", Material.BARK, TIMBERS[rng.integers(len(TIMBERS))])
    ends = (-length / 2, length / 2)
    parts = []
    if kind == 2:
        wall = Surface("fence", Material.PLAIN, srgb(186, 178, 164) * rng.uniform(0.8, 1.0))
        parts.append(box(wall, (-0.1, ends[0], -0.05), (0.1, ends[1], 0.5)))
    post_step, picket_step = 2.4, (0.16 if kind == 0 else 0.12)
    for y in np.arange(ends[0], ends[1] + 0.01, post_step):
        parts.append(box(surface, (-0.05, y - 0.05, -0.05), (0.05, y + 0.05, high + 0.08)))
    heights = (0.3, high - 0.15) if kind == 0 else (0.3, high * 0.6, high) if kind == 1 else (0.6, high)
    for z in heights:
        thick = 0.06 if kind == 1 else 0.03
        parts.append(box(surface, (-0.03, ends[0], z - thick), (0.03, ends[1], z + thick)))
    if kind != 1:
        low, half = (0.1, 0.05) if kind == 0 else (0.5, 0.012)
        for y in np.arange(ends[0] + 0.1, ends[1], picket_step):
            parts.append(box(surface, (-0.045, y - half, low), (-0.02, y + half, high)))
    return join(parts)


def lamp(rng: np.random.Generator) -> Mesh:
    """Return a street lamp with its arm towards +x."""
    high, reach = rng.uniform(6.0, 8.5), rng.uniform(0.8, 1.8)
    surface = STEEL if rng.random() < 0.6 else PAINTED_STEEL
    return join(
        [
            tube(surface, (0, 0, -0.1), (0, 0, 1.1), 0.1, 0.095),
            tube(surface, (0, 0, 1.1), (0, 0, high), 0.075, 0.05),
            tube(surface, (0, 0, high), (reach, 0, high + 0.35), 0.045, 0.04),
            box(surface, (reach - 0.1, -0.14, high + 0.26), (reach + 0.65, 0.14, high + 0.42)),
        ]
    )


def sign(rng: np.random.Generator) -> Mesh:
    """Return a traffic sign on a pole, facing -y."""
    kind = int(rng.integers(5))
    high, half = rng.uniform(2.2, 2.6), rng.uniform(0.3, 0.38)
    if kind == 1:
        outline = np.array([(-1, 0.75), (1, 0.75), (0, -1.0)])
    elif kind == 3:
        outline = np.array([(-1, 0), (0, -1), (1, 0), (0, 1.0)])
    elif kind == 4:
        outline = np.array([(-0.85, -1), (0.85, -1), (0.85, 1), (-0.85, 1.0)])
    else:
        angle = np.arange(20) * np.pi / 10
        outline = np.stack([np.cos(angle), np.sin(angle)], -1)
    parts = [tube(STEEL, (0, 0, -0.1), (0, 0, high + half), 0.035)]
    gray = Surface("sign", Material.PLAIN, srgb(150, 152, 152))
    for y, surface in ((-0.055, Surface("sign", Material.SIGN, srgb(255, 255, 255))), (-0.04, gray)):
        points = np.stack([outline[:, 0] * half, 0 * outline[:, 0] + y, high + outline[:, 1] * half], -1)
        fan = np.arange(1, len(outline) - 1)
        texture = np.concatenate([outline, np.full((len(outline), 1), kind)], axis=1)
        parts.append(triangles(surface, points, np.stack([0 * fan, fan, fan + 1], -1), texture))
    return join(parts)


def traffic_light(rng: np.random.Generator) -> Mesh:
    """Return a traffic light on a pole, facing -y."""
    return join([tube(STEEL, (0, 0, -0.1), (0, 0, 3.4), 0.06), traffic_light_head(rng)])


def traffic_light_head(rng: np.random.Generator) -> Mesh:
    """Return the housing and lamps of a traffic light, 2.5 to 3.45 m above the ground, facing -y."""
    case = Surface("sign", Material.PLAIN, srgb(30, 34, 32))
    parts = [box(case, (-0.17, -0.28, 2.5), (0.17, -0.05, 3.45))]
    lit = int(rng.integers(3))
    colors = (srgb(30, 230, 130), srgb(250, 170, 30), srgb(250, 40, 30))
    for i, color in enumerate(colors):
        on = Surface("sign", Material.GLOW if i == lit else Material.PLAIN, color if i == lit else color * 0.08)
        center = 2.66 + 0.31 * i
        angle = np.arange(12) * np.pi / 6
        face = [np.stack([0.105 * np.cos(angle), 0 * angle + y, center + 0.105 * np.sin(angle)], -1) for y in (-0.31, -0.27)]
        parts.append(loft(on, np.array(face), smooth=False))
        parts.append(box(case, (-0.13, -0.42, center + 0.11), (0.13, -0.28, center + 0.13)))
    return join(parts)


def brick_wall(rng: np.random.Generator, length: float) -> Mesh:
    """Return a brick or plastered wall with coping along y, centered at the origin; its class is `fence`."""
    high = rng.uniform(0.6, 2.2)
    brick = rng.random() < 0.5
    color = srgb(140, 84, 66) if brick else srgb(190, 184, 172)
    surface = Surface("fence", Material.BRICK if brick else Material.PLAIN, color * rng.uniform(0.7, 1.15))
    cap = Surface("fence", Material.PLAIN, srgb(160, 156, 148))
    half = length / 2
    parts = [box(surface, (-0.12, -half, -0.1), (0.12, half, high)), box(cap, (-0.16, -half, high), (0.16, half, high + 0.07))]
    return join(parts)


def bar_fence(rng: np.random.Generator, length: float) -> Mesh:
    """Return a fence of vertical steel bars along y, centered at the origin."""
    high, step = rng.uniform(1.1, 2.1), rng.uniform(0.13, 0.22)
    surface = Surface("fence", Material.PLAIN, (srgb(60, 90, 70), srgb(52, 54, 56), srgb(150, 152, 152))[rng.integers(3)])
    half = length / 2
    parts = [box(surface, (-0.02, -half, z), (0.02, half, z + 0.05)) for z in (0.15, high - 0.12)]
    parts += [box(surface, (-0.03, y - 0.03, -0.1), (0.03, y + 0.03, high + 0.05)) for y in np.arange(-half, half + 0.01, 2.5)]
    bars = [box(surface, (-0.012, y - 0.014, 0.1), (0.012, y + 0.014, high)) for y in np.arange(-half + step, half, step)]
    return join(parts + bars)


def guard_rail(rng: np.random.Generator, length: float) -> Mesh:
    """Return a steel guard rail along y, centered at the origin, facing -x."""
    surface = Surface("fence", Material.PLAIN, srgb(158, 162, 164) * rng.uniform(0.7, 1.1))
    half = length / 2
    profile = ((0.0, 0.42), (-0.08, 0.48), (0.0, 0.57), (-0.08, 0.66), (0.0, 0.74))
    parts = []
    for (x0, z0), (x1, z1) in pairwise(profile):
        parts.append(quad(surface, [(x0, -half, z0), (x0, half, z0), (x1, half, z1), (x1, -half, z1)]))
    parts += [box(surface, (0.0, y - 0.05, -0.1), (0.12, y + 0.05, 0.72)) for y in np.arange(-half, half + 0.01, 2.0)]
    return join(parts)


def bollard(rng: np.random.Generator) -> Mesh:
    """Return a bollard."""
    color = (srgb(60, 62, 64), srgb(150, 150, 148), srgb(140, 60, 44))[rng.integers(3)]
    surface, band = Surface("pole", Material.PLAIN, color), Surface("pole", Material.PLAIN, srgb(230, 228, 224))
    high = rng.uniform(0.75, 1.1)
    return join([tube(surface, (0, 0, -0.1), (0, 0, high), 0.06), tube(band, (0, 0, high - 0.25), (0, 0, high - 0.16), 0.063)])


def utility_pole(rng: np.random.Generator) -> Mesh:
    """Return a wooden utility pole with a crossarm along x."""
    surface = Surface("pole", Material.BARK, srgb(112, 96, 80))
    high = rng.uniform(7, 9.5)
    arm = box(surface, (-1.0, -0.06, high - 0.7), (1.0, 0.06, high - 0.55))
    return join([tube(surface, (0, 0, -0.1), (0, 0, high), 0.15, 0.1), arm])


def trash_can(rng: np.random.Generator) -> Mesh:
    """Return a trash can; it is unlabeled."""
    color = (srgb(44, 46, 48), srgb(40, 90, 56), srgb(52, 80, 120), srgb(150, 120, 40))[rng.integers(4)]
    surface = Surface("void", Material.PLAIN, color)
    wide, high = rng.uniform(0.25, 0.6), rng.uniform(0.8, 1.2)
    lid = Surface("void", Material.PLAIN, color * 0.7)
    return join([
        box(surface, (-wide, -0.3, 0.05), (wide, 0.3, high), taper=1.12),
        box(lid, (-wide * 1.15, -0.36, high), (wide * 1.15, 0.36, high + 0.09), taper=0.85),
    ])  # fmt: skip


def bench(rng: np.random.Generator) -> Mesh:
    """Return a bench along y, facing -x; it is unlabeled."""
    wood = Surface("void", Material.BARK, TIMBERS[rng.integers(len(TIMBERS))])
    iron = Surface("void", Material.PLAIN, srgb(50, 52, 54))
    parts = [box(wood, (-0.3, -0.9, 0.42), (0.15, 0.9, 0.47)), box(wood, (0.15, -0.9, 0.55), (0.2, 0.9, 0.85))]
    parts += [box(iron, (-0.28, y - 0.03, -0.05), (0.2, y + 0.03, 0.44)) for y in (-0.7, 0.7)]
    return join(parts)


def direction_sign(rng: np.random.Generator) -> Mesh:
    """Return a large direction sign on two posts, facing -y."""
    color = (srgb(22, 74, 166), srgb(240, 190, 30), srgb(24, 110, 70), srgb(230, 230, 226))[rng.integers(4)]
    half, low, high = rng.uniform(0.5, 1.5), rng.uniform(1.6, 2.4), rng.uniform(0.5, 1.3)
    face, back = Surface("sign", Material.PLAIN, color), Surface("sign", Material.PLAIN, srgb(140, 142, 142))
    ink = Surface("sign", Material.PLAIN, srgb(235, 235, 232) if color[0] < 0.3 else srgb(20, 20, 22))
    parts = [
        box(face, (-half, -0.06, low), (half, -0.03, low + high)),
        box(back, (-half, -0.03, low), (half, 0.0, low + high)),
    ]
    parts += [tube(STEEL, (x * half, 0.05, -0.1), (x * half, 0.05, low + high), 0.045) for x in (-0.6, 0.6)]
    for z in np.arange(low + 0.12, low + high - 0.15, 0.28):
        width = half * rng.uniform(0.4, 0.85)
        parts.append(box(ink, (-half * 0.9, -0.07, z), (-half * 0.9 + width, -0.055, z + 0.13)))
    return join(parts)


def mast_arm(rng: np.random.Generator) -> Mesh:
    """Return a traffic light with a second one on a mast arm towards -x over the road, both facing -y."""
    reach, high = rng.uniform(3, 5.5), rng.uniform(5.2, 6.0)
    parts = [tube(STEEL, (0, 0, -0.1), (0, 0, high), 0.1, 0.08), tube(STEEL, (0, 0, high), (-reach, 0, high + 0.2), 0.06, 0.05)]
    low = traffic_light(rng)
    lamps = traffic_light_head(rng)
    return join([*parts, low, lamps.placed(-reach, 0.0, high - 3.1)])
