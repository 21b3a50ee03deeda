"""Buildings: town houses, detached houses, offices, sheds."""

from __future__ import annotations

import numpy as np

from mtl_perception.synthetic.geometry.mesh import Material, Mesh, Surface, join, srgb, triangles
from mtl_perception.synthetic.geometry.solids import box, quad

PLASTERS = (
    srgb(222, 206, 172), srgb(206, 190, 160), srgb(198, 172, 138), srgb(232, 226, 212), srgb(188, 178, 168),
    srgb(214, 180, 150), srgb(168, 120, 96), srgb(150, 92, 74), srgb(196, 204, 206), srgb(224, 210, 140),
)  # fmt: skip
TILES = (srgb(140, 74, 54), srgb(112, 62, 50), srgb(78, 70, 68), srgb(96, 90, 88))
BRICKS = (srgb(150, 84, 66), srgb(120, 70, 58), srgb(168, 120, 92), srgb(134, 100, 84))
STONE = srgb(168, 164, 156)


def town_house(rng: np.random.Generator, width: float, depth: float, stories: int, shop: bool = False) -> Mesh:
    """Return a town house of `width` along x, with windows on all sides, cornice, and flat or gable roof."""
    wall = PLASTERS[rng.integers(len(PLASTERS))] * rng.uniform(0.85, 1.05)
    height = stories * rng.uniform(2.9, 3.3) + 0.4
    parts = _walls(rng, wall, width, depth, height, stories)
    trim = Surface("building", Material.PLAIN, np.minimum(wall * 1.15, 0.85))
    for z in (height - 0.35, height / stories):
        parts.append(box(trim, (-width / 2 - 0.12, -depth / 2 - 0.12, z), (width / 2 + 0.12, depth / 2 + 0.12, z + 0.28)))
    if rng.random() < 0.7:
        parts += _roof(rng, width, depth, height, rng.uniform(2.2, 3.6), 0.3)
    else:
        gray = Surface("building", Material.PLAIN, srgb(128, 126, 122))
        parts.append(box(gray, (-width / 2, -depth / 2, height - 0.07), (width / 2, depth / 2, height + 0.25)))
    if shop:
        parts.append(shopfront(rng, width).placed(0, -depth / 2))
    if rng.random() < 0.45:
        parts += _balconies(rng, width, depth, height / stories, stories)
    return join(parts)


def house(rng: np.random.Generator, width: float, depth: float) -> Mesh:
    """Return a detached house with a gable roof and a chimney."""
    stories = int(rng.integers(1, 3))
    wall = PLASTERS[rng.integers(len(PLASTERS))] * rng.uniform(0.9, 1.05)
    height = stories * 2.7 + 0.5
    parts = _walls(rng, wall, width, depth, height, stories)
    parts += _roof(rng, width, depth, height, rng.uniform(2.4, 3.4), 0.5)
    brick = Surface("building", Material.PLAIN, srgb(126, 72, 58))
    x = rng.uniform(-0.3, 0.3) * width
    parts.append(box(brick, (x - 0.35, -0.4, height), (x + 0.35, 0.4, height + 4.0)))
    return join(parts)


def office(rng: np.random.Generator, width: float, depth: float, stories: int) -> Mesh:
    """Return an office building of `width` along x, with glass facades and a flat roof."""
    color = (srgb(176, 176, 172), srgb(120, 122, 124), srgb(200, 190, 170), srgb(96, 72, 62))[rng.integers(4)]
    wall = color * rng.uniform(0.8, 1.1)
    height = stories * rng.uniform(3.1, 3.7)
    parts = _walls(rng, wall, width, depth, height, stories, Material.OFFICE)
    trim = Surface("building", Material.PLAIN, wall * 0.8)
    parts.append(box(trim, (-width / 2 - 0.05, -depth / 2 - 0.05, height), (width / 2 + 0.05, depth / 2 + 0.05, height + 0.6)))
    return join(parts)


def shopfront(rng: np.random.Generator, width: float) -> Mesh:
    """Return a shopfront for a facade at y = 0 that faces -y: shop windows, a fascia, sometimes an awning."""
    paint = srgb(*rng.uniform(30, 200, 3))
    fascia = Surface("building", Material.PLAIN, paint)
    glass = Surface("building", Material.GLASS, srgb(40, 44, 46))
    half = width / 2 - 0.3
    parts = [
        box(Surface("building", Material.PLAIN, paint * 0.6), (-half, -0.12, -0.1), (half, 0.02, 0.45)),
        box(glass, (-half, -0.06, 0.45), (half, 0.02, 2.6)),
        box(fascia, (-half - 0.1, -0.25, 2.6), (half + 0.1, 0.02, 3.15)),
        box(
            Surface("building", Material.GLOW, srgb(230, 226, 216) * 0.6), (-half * 0.5, -0.27, 2.74), (half * 0.4, -0.24, 3.0)
        ),
    ]
    posts = np.linspace(-half, half, max(3, int(width / 2)))
    parts += [box(fascia, (x - 0.06, -0.14, 0.0), (x + 0.06, 0.02, 2.6)) for x in posts]
    if rng.random() < 0.4:
        cloth = Surface("building", Material.PLAIN, srgb(*rng.uniform(60, 230, 3)))
        parts.append(quad(cloth, [(-half, -1.3, 2.3), (half, -1.3, 2.3), (half, -0.2, 2.75), (-half, -0.2, 2.75)]))
        parts.append(quad(cloth, [(-half, -1.3, 2.1), (half, -1.3, 2.1), (half, -1.3, 2.3), (-half, -1.3, 2.3)]))
    return join(parts)


def shed(rng: np.random.Generator, width: float, depth: float) -> Mesh:
    """Return a garage, barn or hall without windows."""
    color = BRICKS[rng.integers(4)] if rng.random() < 0.4 else srgb(176, 176, 170) * rng.uniform(0.5, 1.1)
    surface = Surface("building", Material.BRICK if rng.random() < 0.5 else Material.PLAIN, color)
    height = rng.uniform(2.4, 5.0)
    x, y = width / 2, depth / 2
    door = Surface("building", Material.BARK, srgb(*rng.uniform(60, 190, 3)))
    parts = [box(surface, (-x, -y, -0.1), (x, y, height))]
    for at in np.arange(-x + 1.8, x - 1.2, 3.4):
        parts.append(box(door, (at - 1.2, -y - 0.03, 0.0), (at + 1.2, -y, 2.1)))
    if rng.random() < 0.5:
        parts += _roof(rng, width, depth, height, rng.uniform(1.0, 2.6), 0.3)
    return join(parts)


def _walls(
    rng: np.random.Generator,
    color: np.ndarray,
    width: float,
    depth: float,
    height: float,
    stories: int,
    material: Material = Material.FACADE,
) -> list[Mesh]:
    surface = Surface("building", material, color)
    style, pitch = rng.random(), rng.uniform(2.1, 3.0)
    x, y = width / 2, depth / 2
    corners = [(-x, -y), (x, -y), (x, y), (-x, y)]
    parts = []
    for i, (a, b) in enumerate(zip(corners, corners[1:] + corners[:1], strict=True)):
        columns = max(2, round((width if i % 2 == 0 else depth) / pitch))
        texture = [(0, 0, style), (columns, 0, style), (columns, stories, style), (0, stories, style)]
        parts.append(quad(surface, [(*a, -0.1), (*b, -0.1), (*b, height), (*a, height)], texture))
    return parts


def _roof(rng: np.random.Generator, width: float, depth: float, height: float, rise: float, over: float) -> list[Mesh]:
    """Return a gable roof with its ridge along x and plastered gables."""
    tiles = Surface("building", Material.ROOF, TILES[rng.integers(len(TILES))] * rng.uniform(0.85, 1.1))
    gable = Surface("building", Material.PLAIN, PLASTERS[rng.integers(4)])
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


def _balconies(rng: np.random.Generator, width: float, depth: float, story: float, stories: int) -> list[Mesh]:
    slab = Surface("building", Material.PLAIN, STONE)
    rail = Surface("building", Material.PLAIN, srgb(86, 88, 90))
    parts = []
    x, half = rng.uniform(-0.3, 0.3) * width, 1.5
    for level in range(1, stories):
        z, front = level * story + 0.05, -depth / 2
        parts.append(box(slab, (x - half, front - 1.1, z), (x + half, front + 0.1, z + 0.16)))
        parts.append(box(rail, (x - half, front - 1.1, z + 1.05), (x + half, front - 1.05, z + 1.12)))
        for bar in np.arange(x - half, x + half + 0.01, 0.2):
            parts.append(box(rail, (bar - 0.015, front - 1.09, z + 0.15), (bar + 0.015, front - 1.06, z + 1.06)))
    return parts
