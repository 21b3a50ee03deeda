"""Point clouds as binary PLY files and as rendered images, without OpenGL."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np

from mtl_perception.errors import FrameError
from mtl_perception.labels import ClassSet
from mtl_perception.types import CLOUD_DTYPE
from mtl_perception.visualization.files import replacing

EYE = (0.0, -3.2, -5.5)
TARGET = (0.0, 0.4, 14.0)
"""Default viewpoint and look-at point, meters in the camera's optical frame: slightly behind and above the camera."""

BACKGROUND = (17, 20, 26)
UNLABELED_COLOR = (110, 114, 122)
"""Color of unlabeled points; black would be invisible on the background."""

GRID_COLOR = (52, 60, 74)
GRID_STEP = 5
"""Meters."""
NEAR_PLANE = 0.3
SUPERSAMPLING = 2
MAX_RADIUS = 12

# `int` for the label, because Open3D skips properties of type `uint`.
_PLY_DTYPE = np.dtype(
    [("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("red", "u1"), ("green", "u1"), ("blue", "u1"), ("label", "<i4")]
)
_PLY_TYPES = {"<f4": "float", "|u1": "uchar", "<i4": "int"}


def finite_points(cloud: np.ndarray) -> np.ndarray:
    """Return the points of a cloud with finite coordinates.

    Args:
        cloud: Array of CLOUD_DTYPE of any shape.

    Returns:
        N points of CLOUD_DTYPE in row-major order.

    Raises:
        FrameError: The dtype is not CLOUD_DTYPE.
    """
    if cloud.dtype != CLOUD_DTYPE:
        raise FrameError(f"invalid cloud: dtype {cloud.dtype} is not x y z rgb label", "bad_cloud")
    flat = cloud.reshape(-1)
    points: np.ndarray = flat[np.isfinite(flat["x"]) & np.isfinite(flat["y"]) & np.isfinite(flat["z"])]
    return points


def sample_points(cloud: np.ndarray, count: int) -> np.ndarray:
    """Return at most `count` of the finite points of a cloud, in row-major order.

    The choice is random but reproducible, because a regular stride leaves stripes. Its density is proportional to the square
    root of the distance along Z, because distant points are sparser.

    Args:
        cloud: Array of CLOUD_DTYPE of any shape.
        count: Maximum number of points.

    Returns:
        N points of CLOUD_DTYPE.

    Raises:
        FrameError: The dtype is not CLOUD_DTYPE.
    """
    if cloud.size <= count:
        return finite_points(cloud)
    flat = cloud.reshape(-1)
    weights = np.sqrt(np.abs(flat["z"])) * np.random.default_rng(0).random(flat.size, np.float32)
    total = np.cumsum(np.where(np.isfinite(weights), weights, 0), dtype=np.float64)
    # The point with which the total passes a multiple of total / count; there are at most `count`.
    intervals = (total * (count / max(total[-1], 1e-9))).astype(np.int32)
    return finite_points(flat[np.diff(intervals, prepend=0) > 0])


def rgb_of(points: np.ndarray) -> np.ndarray:
    """Return the image colors of N points of CLOUD_DTYPE as N x 3 uint8 RGB."""
    packed = points["rgb"]
    return np.stack([packed >> 16 & 255, packed >> 8 & 255, packed & 255], axis=-1).astype(np.uint8)


def label_colors_of(points: np.ndarray, class_set: ClassSet) -> np.ndarray:
    """Return the class colors of N points of CLOUD_DTYPE as N x 3 uint8 RGB; gray for unlabeled points."""
    palette = class_set.palette()
    palette[len(class_set) :] = UNLABELED_COLOR
    colors: np.ndarray = palette[np.minimum(points["label"], 255)]
    return colors


def write_ply(path: str | Path, cloud: np.ndarray) -> int:
    """Write the finite points as binary little-endian PLY: float x y z, uchar red green blue, int label.

    Args:
        path: Output file, replaced atomically.
        cloud: Array of CLOUD_DTYPE of any shape.

    Returns:
        The number of points written.

    Raises:
        FrameError: `cloud` is not a cloud.
        SourceError: The file cannot be written.
    """
    points = finite_points(cloud)
    vertices = np.empty(len(points), _PLY_DTYPE)
    for name in ("x", "y", "z", "label"):
        vertices[name] = points[name]
    vertices["red"], vertices["green"], vertices["blue"] = rgb_of(points).T
    properties = [f"property {_PLY_TYPES[_PLY_DTYPE[name].str]} {name}" for name in _PLY_DTYPE.names or ()]
    header = [
        "ply",
        "format binary_little_endian 1.0",
        "comment meters in the camera's optical frame: x right, y down, z forward",
        f"element vertex {len(vertices)}",
        *properties,
        "end_header",
    ]
    with replacing(path) as temporary, open(temporary, "wb") as file:
        file.write(("\n".join(header) + "\n").encode("ascii"))
        file.write(vertices.tobytes())
    return len(vertices)


def render_cloud(
    cloud: np.ndarray,
    size: tuple[int, int] = (1280, 640),
    eye: tuple[float, float, float] = EYE,
    target: tuple[float, float, float] = TARGET,
    class_set: ClassSet | None = None,
    point_size: float = 0.06,
    field_of_view: float = 60.0,
) -> np.ndarray:
    """Render a cloud with a ground grid and hidden-point removal.

    Args:
        cloud: Array of CLOUD_DTYPE of any shape.
        size: Width and height of the image, pixels.
        eye: Viewpoint, meters in the frame of the cloud.
        target: Look-at point, meters in the frame of the cloud.
        class_set: Color points by class; None colors them by image.
        point_size: Diameter of a point, meters.
        field_of_view: Horizontal field of view, degrees.

    Returns:
        height x width x 3 uint8 RGB.

    Raises:
        FrameError: `cloud` is not a cloud.
    """
    points = finite_points(cloud)
    colors = rgb_of(points) if class_set is None else label_colors_of(points, class_set)
    positions = np.stack([points["x"], points["y"], points["z"]], axis=-1)
    width, height = size[0] * SUPERSAMPLING, size[1] * SUPERSAMPLING
    focal = 0.5 * width / math.tan(math.radians(field_of_view) / 2)
    rotation = _look_at(np.array(eye), np.array(target))
    image = np.full((height, width, 3), BACKGROUND, np.uint8)
    if len(positions):
        _draw_grid(image, positions, rotation, np.array(eye), focal)
    _splat(image, (positions - np.array(eye, np.float32)) @ rotation.T.astype(np.float32), colors, focal, point_size)
    resized: np.ndarray = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return resized


def _look_at(eye: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return the 3 x 3 rotation from the cloud's frame to the viewer's; both are x right, y down, z forward."""
    forward = (target - eye) / np.linalg.norm(target - eye)
    # Looking straight down, the cloud's forward axis points up in the image.
    down = np.array((0.0, 1.0, 0.0)) if abs(forward[1]) < 0.999 else np.array((0.0, 0.0, -1.0))
    right = np.cross(down, forward)
    right /= np.linalg.norm(right)
    return np.stack([right, np.cross(forward, right), forward])


def _splat(image: np.ndarray, positions: np.ndarray, colors: np.ndarray, focal: float, point_size: float) -> None:
    """Draw points, given in the viewer's frame, as discs shaded by depth discontinuities."""
    height, width = image.shape[:2]
    visible = positions[:, 2] > NEAR_PLANE
    positions, colors = positions[visible], colors[visible]
    far_first = np.argsort(-positions[:, 2], kind="stable")
    positions, colors = positions[far_first], colors[far_first]
    z = positions[:, 2]
    u = np.rint(positions[:, 0] / z * focal + (width - 1) / 2).astype(np.int64)
    v = np.rint(positions[:, 1] / z * focal + (height - 1) / 2).astype(np.int64)
    radius = np.clip(0.5 * point_size * focal / z, SUPERSAMPLING, MAX_RADIUS).astype(np.int64)
    margin = MAX_RADIUS
    # A margin receives the parts of discs outside the image, which saves bounds checks.
    canvas = np.full((height + 2 * margin, width + 2 * margin, 3), BACKGROUND, np.uint8)
    canvas[margin:-margin, margin:-margin] = image
    depth = np.full(canvas.shape[:2], np.inf, np.float32)
    inside = (u >= 0) & (u < width) & (v >= 0) & (v < height)
    flat_canvas, flat_depth = canvas.reshape(-1, 3), depth.reshape(-1)
    stride = canvas.shape[1]
    # Points are sorted far to near and nearer ones are never smaller, so the nearest point is written last.
    for r in np.unique(radius):
        group = inside & (radius == r)
        dv, du = np.mgrid[-r : r + 1, -r : r + 1]
        disc = du * du + dv * dv <= (r + 0.35) ** 2
        offsets = (dv * stride + du)[disc]
        index = ((v[group] + margin) * stride + u[group] + margin)[:, None] + offsets
        flat_canvas[index] = colors[group][:, None]
        flat_depth[index] = z[group][:, None]
    _shade(canvas, depth)
    image[:] = canvas[margin:-margin, margin:-margin]


def _shade(image: np.ndarray, depth: np.ndarray, reach: int = 3, strength: float = 9.0) -> None:
    """Darken pixels that lie behind their neighbors (eye-dome lighting)."""
    covered = np.isfinite(depth)
    if not covered.any():
        return
    log_depth = np.log(np.where(covered, depth, depth[covered].max()))
    behind = np.zeros_like(log_depth)
    for shift, axis in ((reach, 0), (-reach, 0), (reach, 1), (-reach, 1)):
        behind += np.clip(log_depth - np.roll(log_depth, shift, axis), 0.0, 0.1)
    light = np.where(covered, np.exp(-strength * behind / 4), 1.0).astype(np.float32)
    image[:] = np.rint(image * light[..., None]).astype(np.uint8)


def _draw_grid(image: np.ndarray, positions: np.ndarray, rotation: np.ndarray, eye: np.ndarray, focal: float) -> None:
    """Draw a grid with GRID_STEP at the height of the lowest points; it fades with distance."""
    height, width = image.shape[:2]
    ground = float(np.percentile(positions[:, 1], 95))
    along, reach = np.arange(-5.0, 91.0), np.arange(-40.0, 41.0)
    lines = [np.stack([np.full_like(along, x), np.full_like(along, ground), along], axis=-1) for x in reach[::GRID_STEP]]
    lines += [np.stack([reach, np.full_like(reach, ground), np.full_like(reach, z)], axis=-1) for z in along[::GRID_STEP]]
    for line in lines:
        view = (line - eye) @ rotation.T
        for start, end in pairwise(view):
            if min(start[2], end[2]) <= NEAR_PLANE:
                continue
            fade = math.exp(-((start[2] / 45.0) ** 2))
            color = [round(b + (g - b) * fade) for b, g in zip(BACKGROUND, GRID_COLOR, strict=True)]
            ends = [(round(p[0] / p[2] * focal + width / 2), round(p[1] / p[2] * focal + height / 2)) for p in (start, end)]
            if max(abs(c) for point in ends for c in point) < 4 * width:
                cv2.line(image, ends[0], ends[1], color, SUPERSAMPLING, cv2.LINE_AA)
