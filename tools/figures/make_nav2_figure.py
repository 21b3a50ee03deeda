"""Figure of docs/nav2.md: the synthetic drive seen by the layers of config/nav2_costmap.yaml, from above.

    python -m tools.figures.make_nav2_figure docs/images/nav2.jpg

The outputs are those of the `street` network with config/nav2.yaml; the rules of the layers are those of costmap.py. Nav2 is
not run.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
import yaml

from mtl_perception.config import Config
from mtl_perception.pipeline import Pipeline
from mtl_perception.synthetic.drive import SyntheticDrive
from mtl_perception.synthetic.render.renderer import axes
from mtl_perception.visualization.colors import legend, write_text
from tools.figures.costmap import INSCRIBED, LETHAL, UNKNOWN, SemanticLayer, inflate, voxel_marks

ROOT = Path(__file__).resolve().parents[2]
WIDTH, GAP, TITLE = 1242, 9, 24
AHEAD, BEHIND, ASIDE = 11.0, 1.5, 7.5
"""Meters of the map that are drawn."""
UNKNOWN_COLOR, INSCRIBED_COLOR, LETHAL_COLOR = (205, 208, 212), (120, 40, 110), (20, 20, 25)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="image file to write")
    parser.add_argument("--seed", type=int, default=0, help="seed of the drive (default: %(default)s)")
    parser.add_argument("--last", type=int, default=30, help="index of the last image (default: %(default)s)")
    parser.add_argument("--images", type=int, default=15, help="number of images that the layers see (default: %(default)s)")
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    settings = yaml.safe_load((ROOT / "config/nav2.yaml").read_text())["/**"]["ros__parameters"]
    costmap = yaml.safe_load((ROOT / "config/nav2_costmap.yaml").read_text())["local_costmap"]["local_costmap"][
        "ros__parameters"
    ]
    pipeline = Pipeline(config=Config.from_mapping({**settings, "device": args.device}))
    drive = SyntheticDrive(args.last + 1, seed=args.seed)
    resolution = costmap["resolution"]
    layer = SemanticLayer(costmap["semantic_layer"]["camera"], resolution)
    layer.set_classes(dict(enumerate(pipeline.class_set.names)))
    for index in range(args.last + 1 - args.images, args.last + 1):
        frame = drive.sample(index).frame
        result = pipeline(frame)
        position, heading = drive.pose(index)
        points = np.stack([result.cloud[name] for name in "xyz"], axis=-1) @ axes(heading) + position
        layer.update(points, result.labels, result.confidence, position, frame.stamp_ns / 1e9)
    # The voxel layer keeps older marks until rays pass through them, which is not done here: it shows the last image.
    marks = voxel_marks(points, position, costmap["voxel_layer"], resolution)
    cells = round(costmap["width"] / resolution)
    corner = np.round(position[:2] / resolution).astype(int) - cells // 2
    semantic = as_map(layer.costs(), corner, cells)
    voxels = as_map(dict.fromkeys(marks, LETHAL), corner, cells)
    both = inflate(maximum(semantic, voxels), costmap["inflation_layer"], costmap["robot_radius"], resolution)
    maps = {"semantic layer": semantic, "voxel layer": voxels, "maximum of both, inflated": both}
    panels = [draw(costs, title, heading, resolution) for title, costs in maps.items()]
    overlay = cv2.resize(pipeline(frame).overlay(), (WIDTH, round(WIDTH * 375 / 1242)), interpolation=cv2.INTER_NEAREST)
    gap = np.full((len(panels[0]), GAP, 3), 255, np.uint8)
    row = np.hstack([panels[0], gap, panels[1], gap, panels[2]])
    row = cv2.resize(row, (WIDTH, round(len(row) * WIDTH / row.shape[1])), interpolation=cv2.INTER_AREA)
    figure = np.vstack([overlay, legend(pipeline.class_set, WIDTH), row])
    args.out.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(args.out), figure[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88] if args.out.suffix == ".jpg" else [])


def as_map(costs: dict[tuple[int, int], int], corner: np.ndarray, cells: int) -> np.ndarray:
    """Return the costs of a square of cells from the cell `corner` on, indexed by y and x; cells without one are unknown."""
    grid = np.full((cells, cells), UNKNOWN, np.uint8)
    for cell, cost in costs.items():
        x, y = cell - corner
        if 0 <= x < cells and 0 <= y < cells:
            grid[y, x] = cost
    return grid


def maximum(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Combine two maps as combination_method 1 does: the maximum of the known costs."""
    return np.where(one == UNKNOWN, other, np.where(other == UNKNOWN, one, np.maximum(one, other)))


def draw(costs: np.ndarray, title: str, heading: float, resolution: float) -> np.ndarray:
    """Draw the part of the map before the camera, which is at the center, with the driving direction up."""
    scale = (WIDTH - 2 * GAP) / 3 / (2 * ASIDE)
    size = round(2 * ASIDE * scale), round((AHEAD + BEHIND) * scale)
    center = len(costs) / 2
    cos, sin = np.cos(heading) / (scale * resolution), np.sin(heading) / (scale * resolution)
    camera = np.array([ASIDE * scale, AHEAD * scale])
    # From pixels of the panel (right, down) to cells (x, y): rotated by the heading, and y is up.
    turn = np.array([[cos, sin], [sin, -cos]])
    warp = np.column_stack([turn, center - 0.5 - turn @ camera])
    panel = cv2.warpAffine(colors(costs), warp, size, flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP, borderValue=UNKNOWN_COLOR)
    tip, left, right = camera + (0, -16), camera + (-9, 8), camera + (9, 8)
    cv2.fillPoly(panel, [np.array([tip, left, right]).round().astype(np.int32)], (30, 110, 220), cv2.LINE_AA)
    start = np.array([14, size[1] - 14])
    cv2.rectangle(panel, tuple(start - 8), tuple(start + (round(2 * scale) + 40, 9)), (255, 255, 255), -1)
    cv2.line(panel, tuple(start), tuple(start + (round(2 * scale), 0)), (60, 60, 60), 2)
    write_text(panel, "2 m", (int(start[0] + 2 * scale + 8), int(start[1] + 4)), (60, 60, 60))
    head = np.full((TITLE, size[0], 3), 255, np.uint8)
    write_text(head, title, (2, TITLE - 8), (40, 40, 40))
    return np.vstack([head, panel])


def colors(costs: np.ndarray) -> np.ndarray:
    """Return H x W x 3 RGB: white is free, yellow to red are costs, black is lethal."""
    level = np.clip(costs.astype(float) / (INSCRIBED - 1), 0, 1)[..., None]
    ramp = np.where(level < 0.5, (255, 225, 90), (225, 60, 40)) * 1.0
    ramp = np.where(level < 0.5, 255 + (ramp - 255) * 2 * level, (255, 225, 90) + (ramp - (255, 225, 90)) * (2 * level - 1))
    image = ramp.round().astype(np.uint8)
    for cost, color in ((INSCRIBED, INSCRIBED_COLOR), (LETHAL, LETHAL_COLOR), (UNKNOWN, UNKNOWN_COLOR)):
        image[costs == cost] = color
    return image


if __name__ == "__main__":
    main()
