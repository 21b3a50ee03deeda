"""What stands along a street: buildings, fences, lamps, traffic signs and lights."""

from __future__ import annotations

import numpy as np

from mtl_perception.sources.street_mesh import Material, Mesh, Stuff, box, join, loft, quad, srgb, triangles, tube

PLASTERS = (
    srgb(222, 206, 172), srgb(206, 190, 160), srgb(198, 172, 138), srgb(232, 226, 212), srgb(188, 178, 168),
    srgb(214, 180, 150), srgb(168, 120, 96), srgb(150, 92, 74), srgb(196, 204, 206), srgb(224, 210, 140),
)  # fmt: skip
TILES = (srgb(140, 74, 54), srgb(112, 62, 50), srgb(78, 70, 68), srgb(96, 90, 88))
STONE = srgb(168, 164, 156)
STEEL = Stuff("pole", Material.PLAIN, srgb(138, 142, 144))
PAINTED_STEEL = Stuff("pole", Material.PLAIN, srgb(74, 88, 84))
TIMBERS = (srgb(120, 92, 64), srgb(206, 202, 192), srgb(92, 78, 66), srgb(82, 102, 84))


def block(rng: np.random.Generator, width: float, depth: float, storeys: int) -> Mesh:
    """A town house: facades with windows all around, cornice, flat or ridged roof. `width` lies along x."""
    wall = PLASTERS[rng.integers(len(PLASTERS))] * rng.uniform(0.85, 1.05)
    height = storeys * rng.uniform(2.9, 3.3) + 0.4
    parts = _walls(rng, wall, width, depth, height, storeys)
    trim = Stuff("building", Material.PLAIN, np.minimum(wall * 1.15, 0.85))
    for z in (height - 0.35, height / storeys):
        parts.append(box(trim, (-width / 2 - 0.12, -depth / 2 - 0.12, z), (width / 2 + 0.12, depth / 2 + 0.12, z + 0.28)))
    if rng.random() < 0.7:
        parts += _roof(rng, width, depth, height, rng.uniform(2.2, 3.6), 0.3)
    else:
        grey = Stuff("building", Material.PLAIN, srgb(128, 126, 122))
        parts.append(box(grey, (-width / 2, -depth / 2, height - 0.07), (width / 2, depth / 2, height + 0.25)))
    if rng.random() < 0.45:
        parts += _balconies(rng, width, depth, height / storeys, storeys)
    return join(parts)


def house(rng: np.random.Generator, width: float, depth: float) -> Mesh:
    """A detached house with a ridged roof and a chimney."""
    storeys = int(rng.integers(1, 3))
    wall = PLASTERS[rng.integers(len(PLASTERS))] * rng.uniform(0.9, 1.05)
    height = storeys * 2.7 + 0.5
    parts = _walls(rng, wall, width, depth, height, storeys)
    parts += _roof(rng, width, depth, height, rng.uniform(2.4, 3.4), 0.5)
    brick = Stuff("building", Material.PLAIN, srgb(126, 72, 58))
    x = rng.uniform(-0.3, 0.3) * width
    parts.append(box(brick, (x - 0.35, -0.4, height), (x + 0.35, 0.4, height + 4.0)))
    return join(parts)


def fence(rng: np.random.Generator, length: float) -> Mesh:
    """A fence along y, centred on the origin: pickets, rails or a low wall with a rail."""
    kind = rng.integers(3)
    high = rng.uniform(0.95, 1.35)
    stuff = Stuff("fence", Material.BARK, TIMBERS[rng.integers(len(TIMBERS))])
    ends = (-length / 2, length / 2)
    parts = []
    if kind == 2:
        wall = Stuff("fence", Material.PLAIN, srgb(186, 178, 164) * rng.uniform(0.8, 1.0))
        parts.append(box(wall, (-0.1, ends[0], -0.05), (0.1, ends[1], 0.5)))
    post_step, picket_step = 2.4, (0.16 if kind == 0 else 0.12)
    for y in np.arange(ends[0], ends[1] + 0.01, post_step):
        parts.append(box(stuff, (-0.05, y - 0.05, -0.05), (0.05, y + 0.05, high + 0.08)))
    heights = (0.3, high - 0.15) if kind == 0 else (0.3, high * 0.6, high) if kind == 1 else (0.6, high)
    for z in heights:
        thick = 0.06 if kind == 1 else 0.03
        parts.append(box(stuff, (-0.03, ends[0], z - thick), (0.03, ends[1], z + thick)))
    if kind != 1:
        low, half = (0.1, 0.05) if kind == 0 else (0.5, 0.012)
        for y in np.arange(ends[0] + 0.1, ends[1], picket_step):
            parts.append(box(stuff, (-0.045, y - half, low), (-0.02, y + half, high)))
    return join(parts)


def lamp(rng: np.random.Generator) -> Mesh:
    """A street lamp, its arm towards +x."""
    high, reach = rng.uniform(6.0, 8.5), rng.uniform(0.8, 1.8)
    stuff = STEEL if rng.random() < 0.6 else PAINTED_STEEL
    return join(
        [
            tube(stuff, (0, 0, -0.1), (0, 0, 1.1), 0.1, 0.095),
            tube(stuff, (0, 0, 1.1), (0, 0, high), 0.075, 0.05),
            tube(stuff, (0, 0, high), (reach, 0, high + 0.35), 0.045, 0.04),
            box(stuff, (reach - 0.1, -0.14, high + 0.26), (reach + 0.65, 0.14, high + 0.42)),
        ]
    )


def sign(rng: np.random.Generator) -> Mesh:
    """A traffic sign on its pole, facing -y."""
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
    grey = Stuff("sign", Material.PLAIN, srgb(150, 152, 152))
    for y, stuff in ((-0.055, Stuff("sign", Material.SIGN, srgb(255, 255, 255))), (-0.04, grey)):
        points = np.stack([outline[:, 0] * half, 0 * outline[:, 0] + y, high + outline[:, 1] * half], -1)
        fan = np.arange(1, len(outline) - 1)
        texture = np.concatenate([outline, np.full((len(outline), 1), kind)], axis=1)
        parts.append(triangles(stuff, points, np.stack([0 * fan, fan, fan + 1], -1), texture))
    return join(parts)


def traffic_light(rng: np.random.Generator) -> Mesh:
    """A traffic light on its pole, facing -y."""
    case = Stuff("sign", Material.PLAIN, srgb(30, 34, 32))
    parts = [tube(STEEL, (0, 0, -0.1), (0, 0, 3.4), 0.06), box(case, (-0.17, -0.28, 2.5), (0.17, -0.05, 3.45))]
    lit = int(rng.integers(3))
    colors = (srgb(30, 230, 130), srgb(250, 170, 30), srgb(250, 40, 30))
    for i, color in enumerate(colors):
        on = Stuff("sign", Material.GLOW if i == lit else Material.PLAIN, color if i == lit else color * 0.08)
        centre = 2.66 + 0.31 * i
        angle = np.arange(12) * np.pi / 6
        face = [np.stack([0.105 * np.cos(angle), 0 * angle + y, centre + 0.105 * np.sin(angle)], -1) for y in (-0.31, -0.27)]
        parts.append(loft(on, np.array(face), smooth=False))
        parts.append(box(case, (-0.13, -0.42, centre + 0.11), (0.13, -0.28, centre + 0.13)))
    return join(parts)


def _walls(rng: np.random.Generator, color: np.ndarray, width: float, depth: float, height: float, storeys: int) -> list[Mesh]:
    stuff = Stuff("building", Material.FACADE, color)
    style, pitch = rng.random(), rng.uniform(2.1, 3.0)
    x, y = width / 2, depth / 2
    corners = [(-x, -y), (x, -y), (x, y), (-x, y)]
    parts = []
    for i, (a, b) in enumerate(zip(corners, corners[1:] + corners[:1], strict=True)):
        columns = max(2, round((width if i % 2 == 0 else depth) / pitch))
        texture = [(0, 0, style), (columns, 0, style), (columns, storeys, style), (0, storeys, style)]
        parts.append(quad(stuff, [(*a, -0.1), (*b, -0.1), (*b, height), (*a, height)], texture))
    return parts


def _roof(rng: np.random.Generator, width: float, depth: float, height: float, rise: float, over: float) -> list[Mesh]:
    """A ridged roof whose ridge runs along x, with gables in the walls' plaster."""
    tiles = Stuff("building", Material.ROOF, TILES[rng.integers(len(TILES))] * rng.uniform(0.85, 1.1))
    gable = Stuff("building", Material.PLAIN, PLASTERS[rng.integers(4)])
    x, y = width / 2 + over, depth / 2 + over
    drop = rise * over / (depth / 2)
    slope = float(np.hypot(y, rise + drop))
    face = [(0, 0, 0), (2 * x, 0, 0), (2 * x, slope, 0), (0, slope, 0)]
    parts = []
    for side in (-1, 1):
        low, high = height - drop + 0.1, height + rise + 0.1
        parts.append(quad(tiles, [(-x, side * y, low), (x, side * y, low), (x, 0, high), (-x, 0, high)], face))
        gx = side * (width / 2 - 0.01)
        points = np.array([(gx, -depth / 2, height - 0.1), (gx, depth / 2, height - 0.1), (gx, 0, height + rise)])
        parts.append(triangles(gable, points, np.array([[0, 1, 2]])))
    return parts


def _balconies(rng: np.random.Generator, width: float, depth: float, storey: float, storeys: int) -> list[Mesh]:
    slab = Stuff("building", Material.PLAIN, STONE)
    rail = Stuff("building", Material.PLAIN, srgb(86, 88, 90))
    parts = []
    x, half = rng.uniform(-0.3, 0.3) * width, 1.5
    for level in range(1, storeys):
        z, front = level * storey + 0.05, -depth / 2
        parts.append(box(slab, (x - half, front - 1.1, z), (x + half, front + 0.1, z + 0.16)))
        parts.append(box(rail, (x - half, front - 1.1, z + 1.05), (x + half, front - 1.05, z + 1.12)))
        for bar in np.arange(x - half, x + half + 0.01, 0.2):
            parts.append(box(rail, (bar - 0.015, front - 1.09, z + 0.15), (bar + 0.015, front - 1.06, z + 1.06)))
    return parts
