"""Clouds as files and pictures: binary PLY, and a splatted view from any point, without OpenGL."""

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
"""Whence and whither a cloud is seen by default, meters in its camera's optical frame: a little behind and above the camera."""

BACKGROUND = (17, 20, 26)
UNLABELED_COLOR = (110, 114, 122)
"""Points without a class: black ones would not be seen on the background."""

GRID_COLOR = (52, 60, 74)
GRID_STEP = 5
"""Meters."""
NEAR_PLANE = 0.3
SUPERSAMPLING = 2
MAX_RADIUS = 12

# The label is an `int`: Open3D skips properties of type `uint`.
_PLY_DTYPE = np.dtype(
    [("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("red", "u1"), ("green", "u1"), ("blue", "u1"), ("label", "<i4")]
)
_PLY_TYPES = {"<f4": "float", "|u1": "uchar", "<i4": "int"}


def finite_points(cloud: np.ndarray) -> np.ndarray:
    """The points of a cloud that have a place.

    Args:
        cloud: Array of CLOUD_DTYPE, of any shape.

    Returns:
        N of CLOUD_DTYPE, in row-major order.

    Raises:
        FrameError: Another dtype.
    """
    if cloud.dtype != CLOUD_DTYPE:
        raise FrameError(f"cloud: dtype {cloud.dtype} is not that of a cloud (x y z rgb label)", "bad_cloud")
    flat = cloud.reshape(-1)
    points: np.ndarray = flat[np.isfinite(flat["x"]) & np.isfinite(flat["y"]) & np.isfinite(flat["z"])]
    return points


def rgb_of(points: np.ndarray) -> np.ndarray:
    """Colors of N points of CLOUD_DTYPE: N x 3 uint8 RGB."""
    packed = points["rgb"]
    return np.stack([packed >> 16 & 255, packed >> 8 & 255, packed & 255], axis=-1).astype(np.uint8)


def label_colors_of(points: np.ndarray, class_set: ClassSet) -> np.ndarray:
    """Class colors of N points of CLOUD_DTYPE: N x 3 uint8 RGB; gray without a class."""
    palette = class_set.palette()
    palette[len(class_set) :] = UNLABELED_COLOR
    colors: np.ndarray = palette[np.minimum(points["label"], 255)]
    return colors


def write_ply(path: str | Path, cloud: np.ndarray) -> int:
    """Write the finite points as binary little-endian PLY: float x y z, uchar red green blue, int label.

    Args:
        path: The file; it is replaced at once when the new one is whole.
        cloud: Array of CLOUD_DTYPE, of any shape.

    Returns:
        The number of points written.

    Raises:
        FrameError: `cloud` is no cloud.
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
    """A picture of a cloud: near points hide far ones, and a grid lies where the ground is.

    Args:
        cloud: Array of CLOUD_DTYPE, of any shape.
        size: Width and height of the picture, pixels.
        eye: Place of the viewer, meters in the cloud's frame.
        target: Point in the middle of the picture, meters in the cloud's frame.
        class_set: Whose class colors to use; None: the points' own colors.
        point_size: Diameter of a point, meters.
        field_of_view: Horizontal, degrees.

    Returns:
        height x width x 3 uint8 RGB.

    Raises:
        FrameError: `cloud` is no cloud.
    """
    points = finite_points(cloud)
    colors = rgb_of(points) if class_set is None else label_colors_of(points, class_set)
    places = np.stack([points["x"], points["y"], points["z"]], axis=-1)
    width, height = size[0] * SUPERSAMPLING, size[1] * SUPERSAMPLING
    focal = 0.5 * width / math.tan(math.radians(field_of_view) / 2)
    rotation = _look_at(np.array(eye), np.array(target))
    picture = np.full((height, width, 3), BACKGROUND, np.uint8)
    if len(places):
        _draw_grid(picture, places, rotation, np.array(eye), focal)
    _splat(picture, (places - np.array(eye, np.float32)) @ rotation.T.astype(np.float32), colors, focal, point_size)
    small: np.ndarray = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    return small


def _look_at(eye: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Rotation from the cloud's frame to the viewer's, both x right, y down, z forward; 3 x 3."""
    forward = (target - eye) / np.linalg.norm(target - eye)
    # Seen from straight above, the cloud's forward is up in the picture.
    down = np.array((0.0, 1.0, 0.0)) if abs(forward[1]) < 0.999 else np.array((0.0, 0.0, -1.0))
    right = np.cross(down, forward)
    right /= np.linalg.norm(right)
    return np.stack([right, np.cross(forward, right), forward])


def _splat(picture: np.ndarray, places: np.ndarray, colors: np.ndarray, focal: float, point_size: float) -> None:
    """Draw points, given in the viewer's frame, as discs into the picture; creases and edges are shaded by depth."""
    height, width = picture.shape[:2]
    visible = places[:, 2] > NEAR_PLANE
    places, colors = places[visible], colors[visible]
    far_first = np.argsort(-places[:, 2], kind="stable")
    places, colors = places[far_first], colors[far_first]
    z = places[:, 2]
    u = np.rint(places[:, 0] / z * focal + (width - 1) / 2).astype(np.int64)
    v = np.rint(places[:, 1] / z * focal + (height - 1) / 2).astype(np.int64)
    radius = np.clip(0.5 * point_size * focal / z, SUPERSAMPLING, MAX_RADIUS).astype(np.int64)
    margin = MAX_RADIUS
    # A border takes what sticks out, so that no offset needs a check of its own.
    seen = np.full((height + 2 * margin, width + 2 * margin, 3), BACKGROUND, np.uint8)
    seen[margin:-margin, margin:-margin] = picture
    depth = np.full(seen.shape[:2], np.inf, np.float32)
    inside = (u >= 0) & (u < width) & (v >= 0) & (v < height)
    flat_seen, flat_depth = seen.reshape(-1, 3), depth.reshape(-1)
    stride = seen.shape[1]
    # Nearer points come later and are never smaller: going through the radii in order, whatever is written last is nearest.
    for r in np.unique(radius):
        group = inside & (radius == r)
        dv, du = np.mgrid[-r : r + 1, -r : r + 1]
        disc = du * du + dv * dv <= (r + 0.35) ** 2
        offsets = (dv * stride + du)[disc]
        index = ((v[group] + margin) * stride + u[group] + margin)[:, None] + offsets
        flat_seen[index] = colors[group][:, None]
        flat_depth[index] = z[group][:, None]
    _shade(seen, depth)
    picture[:] = seen[margin:-margin, margin:-margin]


def _shade(seen: np.ndarray, depth: np.ndarray, reach: int = 3, strength: float = 9.0) -> None:
    """Darken pixels that lie behind their neighbors: eye-dome lighting, which gives an unlit cloud its shape."""
    covered = np.isfinite(depth)
    if not covered.any():
        return
    log_depth = np.log(np.where(covered, depth, depth[covered].max()))
    behind = np.zeros_like(log_depth)
    for shift, axis in ((reach, 0), (-reach, 0), (reach, 1), (-reach, 1)):
        behind += np.clip(log_depth - np.roll(log_depth, shift, axis), 0.0, 0.1)
    light = np.where(covered, np.exp(-strength * behind / 4), 1.0).astype(np.float32)
    seen[:] = np.rint(seen * light[..., None]).astype(np.uint8)


def _draw_grid(picture: np.ndarray, places: np.ndarray, rotation: np.ndarray, eye: np.ndarray, focal: float) -> None:
    """Squares of GRID_STEP meters at the height of the lowest points, fading with distance."""
    height, width = picture.shape[:2]
    ground = float(np.percentile(places[:, 1], 95))
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
                cv2.line(picture, ends[0], ends[1], color, SUPERSAMPLING, cv2.LINE_AA)
