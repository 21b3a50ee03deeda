"""Temporal smoothing: the network's outputs blended with those of the camera's previous image, aligned by optical flow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mtl_perception.types import Frame

MAX_GAP_NS = 500_000_000
"""Images further apart are not blended: most of the image has moved out of reach of the optical flow."""
GRAY_TOLERANCE = 10.0
"""Difference of aligned gray values, averaged over 3 x 3 cells, at which the weight falls to 1 / e; of 255 levels."""
DEPTH_TOLERANCE = 0.1
"""Difference of log depth at which the weight of the previous depth falls to 1 / e."""
MIN_CELLS = 16
"""Rows and columns of the smallest map that is smoothed; smaller ones have no room for the patches of the optical flow."""
MIN_DEPTH = 1e-6
MOTION_STEP = 4
"""Every n-th row and column of cells is used to estimate the motion along the optical axis."""


@dataclass(frozen=True)
class _State:
    """Smoothed outputs of one image.

    Attributes:
        key: What must be equal for two images to be blended.
        stamp_ns: Stamp of the image.
        gray: h x w uint8, the image at the size of the outputs.
        planes: (C + 1) x h x w float32: logits, and log depth up to a constant factor.
    """

    key: tuple[object, ...]
    stamp_ns: int
    gray: np.ndarray
    planes: np.ndarray


class History:
    """What temporal smoothing remembers of one camera: the smoothed outputs of its last two images.

    Give the same object to all frames of a camera (`Frame.history`), in the order of their stamps. It is not thread-safe.
    An image with the stamp of the last one is blended with the same outputs as that one, so that a retry has the same result.
    An image without a usable predecessor is not smoothed: the first one, one with an earlier stamp or after a gap of more than
    `MAX_GAP_NS`, and one with another size, calibration or frame_id.
    """

    def __init__(self) -> None:
        self._before: _State | None = None
        self._last: _State | None = None

    def clear(self) -> None:
        """Forget all images."""
        self._before = self._last = None

    def smooth(
        self, frame: Frame, raw: Sequence[Tensor], strength: float, transform: str, source: Sequence[object] = ()
    ) -> tuple[Tensor, ...]:
        """Return the outputs of a frame, blended with those of the previous one.

        Previous outputs are aligned by dense optical flow (DIS: Kroeger et al., Fast Optical Flow using Dense Inverse Search,
        ECCV 2016). The weight of a cell falls with the difference of the aligned gray values, and is 0 beyond the border. The
        previous depth is first reduced by the median difference of the nearer cells, which is the camera's own motion, and
        its weight also falls with the remaining difference, as that of objects with another motion.

        Args:
            frame: Image, camera and stamp.
            raw: The network's outputs: logits C x h x w, raw depth 1 x h x w, and any others, which are returned unchanged.
            strength: Weight of the previous outputs where the images agree, 0 to below 1.
            transform: The description's `depth_transform`: "abs" or "exp".
            source: What else must be equal for two images to be blended, such as the network and the scale of its input.

        Returns:
            Tensors as in `raw`.
        """
        size = raw[0].shape[1:]
        if min(size) < MIN_CELLS:
            return tuple(raw)
        depth = raw[1] if transform == "exp" else raw[1].abs().clamp_min(MIN_DEPTH).log()
        planes = np.concatenate((raw[0].numpy(), depth.numpy()))
        # `vdot` takes a third of the time of `sum`, and is non-finite if any value is.
        if not np.isfinite(np.vdot(planes, planes)):
            # Otherwise, a single failure would spread over all images that follow.
            self.clear()
            return tuple(raw)
        key = (frame.image.shape, frame.camera, frame.frame_id, size, *source)
        gray = _shrink(frame.image, size)
        before = self._predecessor(key, frame.stamp_ns)
        if before is not None:
            _blend(planes, gray, before, strength)
        self._before, self._last = before, _State(key, frame.stamp_ns, gray, planes)
        smoothed = torch.from_numpy(planes[-1:])
        return (torch.from_numpy(planes[:-1]), smoothed if transform == "exp" else smoothed.exp(), *raw[2:])

    def _predecessor(self, key: tuple[object, ...], stamp_ns: int) -> _State | None:
        last = self._last
        if last is not None and last.stamp_ns == stamp_ns and last.key == key:
            return self._before
        if last is None or last.key != key or not 0 < stamp_ns - last.stamp_ns <= MAX_GAP_NS:
            return None
        return last


def _blend(planes: np.ndarray, gray: np.ndarray, before: _State, strength: float) -> None:
    """Blend the planes in place with those of the image before."""
    height, width = gray.shape
    # At an eighth of the image's size, and without variational refinement: finer flow takes several times as long.
    method = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)  # type: ignore[attr-defined]
    method.setFinestScale(1)
    flow = method.calc(gray, before.gray, None)
    x = flow[..., 0] + np.arange(width, dtype=np.float32)
    y = flow[..., 1] + np.arange(height, dtype=np.float32)[:, None]
    aligned = _sample(before.planes, x, y)
    aligned_gray = cv2.remap(before.gray, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    difference = cv2.blur(cv2.absdiff(aligned_gray, gray).astype(np.float32), (3, 3))
    weight = strength * np.exp(-np.square(difference / GRAY_TOLERANCE))
    weight *= (x >= 0) & (y >= 0) & (x <= width - 1) & (y <= height - 1)
    logits, changes = planes[:-1], aligned[:-1]
    np.subtract(changes, logits, out=changes)
    np.multiply(changes, weight, out=changes)
    np.add(logits, changes, out=logits)
    error = _moved(aligned[-1], planes[-1]) - planes[-1]
    planes[-1] += weight * np.exp(-np.square(error / DEPTH_TOLERANCE)) * error


def _sample(planes: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return planes, C x h x w float32, at h x w float32 columns and rows, by bilinear interpolation; borders are replicated.

    PyTorch takes less than half the time of OpenCV, which needs the planes as channels.
    """
    height, width = x.shape
    grid = torch.from_numpy(np.stack((x * (2 / (width - 1)) - 1, y * (2 / (height - 1)) - 1), axis=-1))
    sampled = F.grid_sample(torch.from_numpy(planes)[None], grid[None], padding_mode="border", align_corners=True)
    return np.asarray(sampled[0].numpy())


def _moved(previous: np.ndarray, current: np.ndarray) -> np.ndarray:
    """Return previous log depth after the camera's motion along the optical axis, estimated from both."""
    depth = np.exp(previous)
    now = np.exp(current[::MOTION_STEP, ::MOTION_STEP])
    motion = (depth[::MOTION_STEP, ::MOTION_STEP] - now)[now <= np.median(now)]
    moved: np.ndarray = np.log(np.maximum(depth - np.median(motion), depth / 2))
    return moved


def _shrink(image: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Return the image in gray at this height and width, halved as often as it has twice the size."""
    # Halved first: the conversion of the whole image to gray would take as long as all else.
    gray = cv2.cvtColor(_halve(image), cv2.COLOR_RGB2GRAY)
    while all((side + 1) // 2 >= least for side, least in zip(gray.shape, size, strict=True)):
        gray = _halve(gray)
    return gray if gray.shape == tuple(size) else cv2.resize(gray, (size[1], size[0]))


def _halve(image: np.ndarray) -> np.ndarray:
    """Return an image of half the size, rounded up."""
    height, width = image.shape[:2]
    # OpenCV takes four times as long for an odd size, and stretches.
    even = image[: height // 2 * 2, : width // 2 * 2]
    half = cv2.resize(even, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
    return cv2.copyMakeBorder(half, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE) if height % 2 or width % 2 else half
