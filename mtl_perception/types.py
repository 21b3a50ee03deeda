"""Frames and outputs, with their shapes, data types and units."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from mtl_perception.camera.model import CameraModel

UNLABELED = 255
"""Label of pixels without a class: void in the ground truth, or below the minimum confidence."""

CLOUD_DTYPE = np.dtype([("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("rgb", "<u4"), ("label", "<u4")])
"""One point, 20 bytes: meters in the camera's optical frame (REP 103: x right, y down, z forward), 0x00RRGGBB, class id."""

OUTPUTS = ("labels", "confidence", "depth", "cloud", "normals", "image")
"""What a pipeline computes unless told otherwise."""

ALL_OUTPUTS = (*OUTPUTS, "scores")
"""What a pipeline can compute."""


@dataclass(eq=False)
class History:
    """What `temporal_smoothing` remembers of one camera.

    Give the same object to all frames of a camera (`Frame.history`), in the order of their stamps. It is not thread-safe.
    An image with the stamp of the last one is blended with the same outputs as that one, so that a retry has the same result.
    An image without a usable predecessor is not smoothed: the first one, one with an earlier stamp or after a long gap
    (`MAX_GAP_NS` in inference/host/smoothing.py), and one with another size, calibration or frame_id.

    Attributes:
        last: Smoothed outputs of the latest image; None before the first.
        before: What these were blended with; None: with nothing.
    """

    last: Any = field(default=None, repr=False)
    before: Any = field(default=None, repr=False)


@dataclass(frozen=True)
class Frame:
    """An image with its camera and time stamp.

    Attributes:
        image: H x W x 3 uint8, RGB, C-contiguous or not.
        camera: The camera model for this image size; None if unknown.
        stamp_ns: Time of exposure, nanoseconds since the epoch of the source's clock.
        frame_id: Name of the camera's optical frame (REP 103).
        history: What `temporal_smoothing` remembers of this camera; None: the frame is not smoothed.
    """

    image: np.ndarray
    camera: CameraModel | None = None
    stamp_ns: int = 0
    frame_id: str = ""
    history: History | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Box:
    """A box around an object in an image.

    Attributes:
        name: Class name.
        left: First column, pixels.
        top: First row, pixels.
        right: Last column, pixels.
        bottom: Last row, pixels.
    """

    name: str
    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True)
class Sample:
    """A frame with its ground truth or pseudo-labels.

    Attributes:
        frame: The image and its camera.
        labels: H x W uint8 class ids, 255 = unknown; None without labels.
        depth: H x W float32 meters along the optical Z axis, NaN = unknown, +Inf = infinitely far (sky); None
            without depth.
        name: Unique within its data set: the path relative to the set, without suffix.
        boxes: Boxes of objects, for evaluation; empty without any.
    """

    frame: Frame
    labels: np.ndarray | None = None
    depth: np.ndarray | None = None
    name: str = ""
    boxes: tuple[Box, ...] = ()


@dataclass(frozen=True)
class Outputs:
    """The outputs for one frame, at the output size H x W; what was not requested is None.

    Attributes:
        labels: H x W uint8 class ids, 255 = unlabeled.
        confidence: H x W uint8, the softmax maximum scaled to 0..255.
        depth: H x W float32 meters along the optical Z axis (REP 118), NaN = invalid, +Inf = beyond `max_depth` (REP 117).
        normals: H x W x 3 float32 unit vectors; only from networks with that task.
        cloud: ceil(H / n) x ceil(W / n) structured array of CLOUD_DTYPE, n = `points_stride`; point (v, u) belongs to pixel
            (n v, n u); x, y, z are NaN where depth is NaN or Inf and at depth edges (`points_edge_filter`). None without a
            camera.
        camera: The camera of the outputs: the frame's, scaled to H x W. None without one.
        image: H x W x 3 uint8 RGB, the frame's image at the output size; if that is its own, the frame's array itself.
        scores: C x H x W float32 logits of the classes.
    """

    labels: np.ndarray | None = None
    confidence: np.ndarray | None = None
    depth: np.ndarray | None = None
    normals: np.ndarray | None = None
    cloud: np.ndarray | None = None
    camera: CameraModel | None = None
    image: np.ndarray | None = None
    scores: np.ndarray | None = None
