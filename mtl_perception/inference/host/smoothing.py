"""Temporal smoothing: the network's outputs blended with those of the camera's previous image, aligned by optical flow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mtl_perception.threads import single_thread
from mtl_perception.types import Frame, History

MAX_GAP_NS = 500_000_000
"""Images further apart are not blended: most of the image has moved out of reach of the optical flow."""
GRAY_TOLERANCE = 11.5
"""Difference of aligned gray values, averaged over 3 x 3 cells, at which the weight falls to 1 / e; of 255 levels."""
GRAY_OFFSET = 100.0
"""Added to gray values, so that all differ from the 0 beyond the border by many times the tolerance."""
DEPTH_TOLERANCE = 0.11
"""Difference of log depth at which the weight of the previous depth falls to 1 / e."""
MIN_CELLS = 16
"""Rows and columns of the smallest map that is smoothed; smaller ones have no room for the patches of the optical flow."""
MIN_DEPTH = 1e-6
PATCH_STRIDE = 5
"""Distance of the patches of the optical flow; the preset's 4 takes a third more time."""
MOTION_STEP = 4
"""Every n-th row and column of cells is used to estimate the motion along the optical axis."""


@dataclass(frozen=True)
class _State:
    """Smoothed outputs of one image.

    Attributes:
        key: What must be equal for two images to be blended.
        stamp_ns: Stamp of the image.
        gray: h x w uint8, the image at the size of the outputs.
        logits: C x h x w float32.
        guide: 2 x h x w float32: log depth up to a constant factor, and the gray image plus `GRAY_OFFSET`.
    """

    key: tuple[object, ...]
    stamp_ns: int
    gray: np.ndarray
    logits: Tensor
    guide: Tensor


def smooth(
    frame: Frame, raw: Sequence[Tensor], strength: float, transform: str, source: Sequence[object] = ()
) -> tuple[Tensor, ...]:
    """Return the outputs of a frame, blended with those of the previous one in its history.

    Previous outputs are aligned by dense optical flow (DIS: Kroeger et al., Fast Optical Flow using Dense Inverse Search,
    ECCV 2016). The weight of a cell falls with the difference of the aligned gray values, and is 0 beyond the border. The
    previous depth is first reduced by the median difference of the nearer cells, which is the camera's own motion, and
    its weight also falls with the remaining difference, as that of objects with another motion.

    Args:
        frame: A frame with a history, which is updated.
        raw: The network's outputs: logits C x h x w, raw depth 1 x h x w, and any others, which are returned unchanged.
        strength: Weight of the previous outputs where the images agree, 0 to below 1.
        transform: The description's `depth_transform`: "abs" or "exp".
        source: What else must be equal for two images to be blended, such as the network and the scale of its input.

    Returns:
        Tensors as in `raw`.
    """
    history, size, is_log = frame.history, raw[0].shape[1:], transform == "exp"
    if history is None or min(size) < MIN_CELLS:
        return tuple(raw)
    logits, depth = raw[0], raw[1] if is_log else raw[1].abs().clamp_min(MIN_DEPTH).log()
    key = (frame.image.shape, frame.camera, frame.frame_id, size, *source)
    gray = _shrink(frame.image, size)
    before = _predecessor(history, key, frame.stamp_ns)
    guide = np.stack((depth[0].numpy(), gray), dtype=np.float32)
    guide[1] += GRAY_OFFSET
    if before is None:
        smoothed = logits.clone()
    else:
        positions = torch.from_numpy(_positions(before.gray, gray))[None]
        # Bilinear interpolation takes three times as long; logits, unlike depth and gray values, hardly gain by it.
        smoothed = F.grid_sample(before.logits[None], positions, "nearest", align_corners=True)[0]
        previous = F.grid_sample(before.guide[None], positions, align_corners=True)[0]
        with single_thread(), np.errstate(all="ignore"):
            weight = _blend(guide, previous.numpy(), strength)
            torch.lerp(logits, smoothed, torch.from_numpy(weight), out=smoothed)
    # `vdot` takes a third of the time of `sum`, and is non-finite if any value is.
    if not all(np.isfinite(np.vdot(plane, plane)) for plane in (smoothed.numpy(), guide)):
        # Otherwise, a single failure would spread over all images that follow.
        history.before = history.last = None
        return tuple(raw)
    kept = _State(key, frame.stamp_ns, gray, smoothed, torch.from_numpy(guide))
    history.before, history.last = before, kept
    depth = kept.guide[:1]
    return (smoothed, depth if is_log else depth.exp(), *raw[2:])


def _positions(before: np.ndarray, gray: np.ndarray) -> np.ndarray:
    """Return where the content of the cells was in the image before, h x w x 2 from -1 to 1 as in `grid_sample`."""
    cells, step = _grid(*gray.shape)
    # A new one for each image: for small images OpenCV changes the object's scales, which affects the next call.
    flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)  # type: ignore[attr-defined]
    # At an eighth of the image's size, and without variational refinement: finer flow takes several times as long.
    flow.setFinestScale(1)
    flow.setPatchStride(PATCH_STRIDE)
    positions: np.ndarray = flow.calc(gray, before, None)
    positions *= step
    positions += cells
    return positions


def _predecessor(history: History, key: tuple[object, ...], stamp_ns: int) -> _State | None:
    """Return the outputs to blend with those of an image."""
    last: _State | None = history.last
    if last is None or last.key != key:
        return None
    if last.stamp_ns == stamp_ns:
        before: _State | None = history.before
        return before
    return last if 0 < stamp_ns - last.stamp_ns <= MAX_GAP_NS else None


@lru_cache(maxsize=4)
def _grid(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the positions of cells, h x w x 2 from -1 to 1 as in `grid_sample`, and their distance, repeated w times."""
    cells = np.stack(np.meshgrid(np.linspace(-1, 1, width), np.linspace(-1, 1, height)), axis=-1).astype(np.float32)
    # Repeated, because NumPy takes five times as long to multiply by two numbers.
    return cells, np.full((width, 2), (2 / (width - 1), 2 / (height - 1)), np.float32)


def _blend(guide: np.ndarray, previous: np.ndarray, strength: float) -> np.ndarray:
    """Blend the log depth of an image's guide, in place, with that of the aligned one of the image before.

    Returns:
        h x w float32, the weight of the previous logits.
    """
    depth, gray = guide
    difference = cv2.blur(cv2.absdiff(previous[1], gray), (3, 3))
    weight: np.ndarray = _similarity(difference, GRAY_TOLERANCE) * np.float32(strength)
    error = _moved(previous[0], depth) - depth
    depth += weight * _similarity(error, DEPTH_TOLERANCE) * error
    return weight


def _similarity(difference: np.ndarray, tolerance: float) -> np.ndarray:
    """Return 1 where there is no difference, 1 / e at the tolerance, and 0 far beyond it."""
    similarity: np.ndarray = np.exp(np.square(difference) * np.float32(-1 / tolerance**2))
    return similarity


def _moved(previous: np.ndarray, current: np.ndarray) -> np.ndarray:
    """Return previous log depth after the camera's motion along the optical axis, estimated from both."""
    depth = np.exp(previous)
    now = np.exp(current[::MOTION_STEP, ::MOTION_STEP])
    motion = _median((depth[::MOTION_STEP, ::MOTION_STEP] - now)[now <= _median(now.ravel())])
    moved: np.ndarray = np.log(np.maximum(depth - motion, depth / 2))
    return moved


def _median(values: np.ndarray) -> np.ndarray:
    """Return the upper median of a vector, in a fifth of the time of NumPy's."""
    middle = len(values) // 2
    return np.partition(values, middle)[middle : middle + 1]


def _shrink(image: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Return the image in gray at this height and width, a quarter of the image's or less."""
    rows, columns = image.shape[0] // 4, image.shape[1] // 4
    # Every other row, because reading all of them takes twice as long.
    half = cv2.resize(image[1 : 4 * rows : 2, : 4 * columns], (2 * columns, rows), interpolation=cv2.INTER_AREA)
    gray = cv2.resize(cv2.cvtColor(half, cv2.COLOR_RGB2GRAY), (columns, rows))
    below, right = size[0] - rows, size[1] - columns
    if 0 <= below <= 1 and 0 <= right <= 1:
        return cv2.copyMakeBorder(gray, 0, below, 0, right, cv2.BORDER_REPLICATE)
    return cv2.resize(gray, (size[1], size[0]), interpolation=cv2.INTER_AREA)
