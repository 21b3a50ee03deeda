"""Static transforms between frames of a vehicle and its cameras."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

OPTICAL_IN_LINK = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
"""Axes of an optical frame (x right, y down, z forward) in the frame of its camera (x forward, y left, z up), by REP 103."""


@dataclass(frozen=True)
class StaticTransform:
    """Pose of a child frame in its parent frame, with the fields of geometry_msgs/TransformStamped.

    Attributes:
        parent: Name of the parent frame.
        child: Name of the child frame.
        translation: x, y, z of the child's origin, meters.
        rotation: Quaternion x, y, z, w that rotates vectors of the child frame into the parent frame.
    """

    parent: str
    child: str
    translation: tuple[float, float, float]
    rotation: tuple[float, float, float, float]


def static_transform(
    parent: str, child: str, translation: Sequence[float] | np.ndarray = (0.0, 0.0, 0.0), rotation: np.ndarray | None = None
) -> StaticTransform:
    """Return a transform from the child's origin and axes in the parent frame.

    Args:
        parent: Name of the parent frame.
        child: Name of the child frame.
        translation: x, y, z, meters.
        rotation: 3 x 3 rotation matrix; None: the frames are parallel.
    """
    x, y, z = (float(value) for value in translation)
    return StaticTransform(parent, child, (x, y, z), quaternion(np.eye(3) if rotation is None else rotation))


def optical_transform(link: str, frame_id: str) -> StaticTransform:
    """Return the transform from the frame of a camera to its optical frame, which have the same origin."""
    return static_transform(link, frame_id, rotation=OPTICAL_IN_LINK)


def link_transforms(frame_id: str) -> list[StaticTransform]:
    """Return the transform of an optical frame below a frame for its camera, as far as its name tells that it is one.

    camera_optical_frame is below camera_link; from other names `_optical` is removed. The origins are the same and the rotation
    is that of REP 103, so nothing is assumed about the camera's place on a vehicle.
    """
    prefix, end = frame_id.removesuffix("_optical_frame"), "_link"
    if prefix == frame_id:
        prefix, end = frame_id.replace("_optical", "", 1), ""
    return [] if prefix in (frame_id, "") else [optical_transform(prefix + end, frame_id)]


def quaternion(rotation: np.ndarray) -> tuple[float, float, float, float]:
    """Return the quaternion x, y, z, w of the rotation next to a 3 x 3 matrix; w is not negative (Bar-Itzhack 2000)."""
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = np.asarray(rotation, np.float64)
    matrix = np.array(
        [
            [xx - yy - zz, xy + yx, xz + zx, zy - yz],
            [xy + yx, yy - xx - zz, yz + zy, xz - zx],
            [xz + zx, yz + zy, zz - xx - yy, yx - xy],
            [zy - yz, xz - zx, yx - xy, xx + yy + zz],
        ]
    )
    vector = np.linalg.eigh(matrix)[1][:, -1]
    x, y, z, w = (float(value) for value in (vector if vector[3] >= 0 else -vector))
    return x, y, z, w
