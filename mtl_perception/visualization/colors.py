"""Labels and depth as colors: pictures, overlays, the legend and the depth scale. All pictures are RGB."""

from __future__ import annotations

import math

import cv2
import numpy as np

from mtl_perception.errors import ConfigError, FrameError
from mtl_perception.labels import ClassSet

INVALID_COLOR = (0, 0, 0)
BEYOND_COLOR = (48, 48, 48)
"""Depth beyond the range (+Inf): dark, but told apart from invalid depth."""

NEAR_SHARE = 1 / 40
"""The nearest depth told apart, as a share of the farthest, where none is given: 2 m of 80 m."""

PANEL_COLOR = (24, 27, 33)
INK_COLOR = (226, 230, 236)


def colorize_labels(labels: np.ndarray, class_set: ClassSet, out: np.ndarray | None = None) -> np.ndarray:
    """The class colors of a label picture.

    Args:
        labels: H x W uint8 class ids; 255 and other ids outside the set become black.
        class_set: Whose colors.
        out: H x W x 3 uint8, C-contiguous, to write into instead of a new array.

    Returns:
        H x W x 3 uint8 RGB.

    Raises:
        FrameError: `labels` is not a label picture.
    """
    _check_labels(labels)
    _check_out(out, labels.shape)
    # A third of the time of cv2.LUT, which wants three channels in.
    colors: np.ndarray = cv2.applyColorMap(np.ascontiguousarray(labels), class_set.palette()[:, None], dst=out)
    return colors


def overlay(
    image: np.ndarray,
    labels: np.ndarray,
    class_set: ClassSet,
    opacity: float,
    out: np.ndarray | None = None,
    colors: np.ndarray | None = None,
) -> np.ndarray:
    """The class colors blended over the picture; pixels without a class keep the picture.

    Args:
        image: H x W x 3 uint8 RGB.
        labels: H x W uint8 class ids.
        class_set: Whose colors.
        opacity: Weight of the colors, 0..1; each value is (1 - opacity) * picture + opacity * color, rounded to nearest.
        out: H x W x 3 uint8, C-contiguous, to write into instead of a new array; may be `image` itself.
        colors: What `colorize_labels` makes of `labels`, where it is at hand; it is not changed.

    Returns:
        H x W x 3 uint8 RGB.

    Raises:
        FrameError: The sizes or types do not fit.
        ConfigError: `opacity` is outside 0..1.
    """
    if not 0.0 <= opacity <= 1.0:
        raise ConfigError(f"overlay: opacity {opacity} is outside 0 to 1")
    _check_labels(labels)
    if image.shape != (*labels.shape, 3) or image.dtype != np.uint8:
        raise FrameError(
            f"overlay: the picture is {image.dtype} {image.shape}, the labels need uint8 {(*labels.shape, 3)}", "size_mismatch"
        )
    _check_out(out, labels.shape)
    image = np.ascontiguousarray(image)
    labels = np.ascontiguousarray(labels)
    if colors is None:
        colors = colorize_labels(labels, class_set)
    if labels.max() >= len(class_set):
        without_class = (np.arange(256) >= len(class_set)).astype(np.uint8)
        # A picture blended with itself is itself: one pass then serves all pixels, and `out` may be `image`.
        colors = cv2.copyTo(image, cv2.LUT(labels, without_class), colors.copy())
    blended: np.ndarray = cv2.addWeighted(image, 1.0 - opacity, colors, opacity, 0.0, dst=out)
    return blended


def colorize_depth(depth: np.ndarray, max_depth: float, min_depth: float = 0.0) -> np.ndarray:
    """Depth as colors of the turbo map on a logarithmic scale, near red and far blue, so that near things show detail.

    Args:
        depth: H x W float32 meters.
        max_depth: Depth of the last color, meters; finite depth beyond it has that color too.
        min_depth: Depth of the first color, meters; 0: `max_depth` / 40.

    Returns:
        H x W x 3 uint8 RGB; black where depth is NaN or not positive, dark gray where it is +Inf.

    Raises:
        FrameError: `depth` is not a depth picture.
        ConfigError: The range is empty.
    """
    if depth.ndim != 2 or depth.dtype != np.float32 or depth.size == 0:
        raise FrameError(f"depth picture: {depth.dtype} {depth.shape} is not H x W float32", "bad_depth")
    near, far = _depth_range(max_depth, min_depth)
    valid = depth > 0.0
    beyond = np.isposinf(depth)
    log_depth = np.log(np.clip(np.where(valid, depth, np.float32(far)), near, far))
    levels = (np.float32(math.log(far)) - log_depth) * np.float32(255.0 / math.log(far / near)) + np.float32(0.5)
    picture = _turbo(levels.astype(np.uint8))
    picture[~valid] = INVALID_COLOR
    picture[beyond] = BEYOND_COLOR
    return picture


def legend(class_set: ClassSet, width: int = 640) -> np.ndarray:
    """The classes with their colors and names, in as many columns as fit.

    Args:
        class_set: The classes.
        width: Width of the picture, pixels; at least 160.

    Returns:
        H x `width` x 3 uint8 RGB.
    """
    swatch, row, margin = 16, 26, 14
    widest = max((_text_width(name) for name in class_set.names), default=0)
    column = swatch + 8 + widest + 18
    width = max(width, 160)
    columns = max(1, (width - 2 * margin + 18) // column)
    rows = max(1, -(-len(class_set) // columns))
    picture = np.full((rows * row + 2 * margin - (row - swatch), width, 3), PANEL_COLOR, np.uint8)
    for index, (name, color) in enumerate(zip(class_set.names, class_set.colors, strict=True)):
        x = margin + index // rows * column
        y = margin + index % rows * row
        # Dark classes would vanish in the panel without an edge.
        cv2.rectangle(picture, (x, y), (x + swatch, y + swatch), (120, 126, 136), -1)
        cv2.rectangle(picture, (x + 1, y + 1), (x + swatch - 1, y + swatch - 1), color, -1)
        write_text(picture, name, (x + swatch + 8, y + swatch - 3))
    return picture


def depth_scale(max_depth: float, min_depth: float = 0.0, width: int = 640) -> np.ndarray:
    """The colors of `colorize_depth` as a bar with ticks in meters.

    Args:
        max_depth: As given to `colorize_depth`.
        min_depth: As given to `colorize_depth`.
        width: Width of the picture, pixels; at least 160.

    Returns:
        52 x `width` x 3 uint8 RGB.

    Raises:
        ConfigError: The range is empty.
    """
    near, far = _depth_range(max_depth, min_depth)
    width = max(width, 160)
    left, right = 14, width - 15
    picture = np.full((52, width, 3), PANEL_COLOR, np.uint8)
    bar = np.geomspace(near, far, right - left + 1, dtype=np.float32)[None]
    picture[10:26, left : right + 1] = colorize_depth(bar, far, near)
    taken: list[tuple[int, int]] = []
    for meters in [far, *_ticks(near, far)]:
        x = left + round((right - left) * math.log(meters / near) / math.log(far / near))
        text = f"{meters:g} m"
        start = min(max(x - _text_width(text) // 2, 2), width - 2 - _text_width(text))
        end = start + _text_width(text)
        if any(start < other_end + 8 and other_start < end + 8 for other_start, other_end in taken):
            continue
        picture[26:31, x] = INK_COLOR
        write_text(picture, text, (start, 44))
        taken.append((start, end))
    return picture


def write_text(picture: np.ndarray, text: str, origin: tuple[int, int], color: tuple[int, int, int] = INK_COLOR) -> None:
    """Write small text into an RGB picture, its base line starting at `origin` (x, y); non-ASCII letters become '?'."""
    cv2.putText(picture, _ascii(text), origin, cv2.FONT_HERSHEY_SIMPLEX, 0.45, color, 1, cv2.LINE_AA)


def _text_width(text: str) -> int:
    return int(cv2.getTextSize(_ascii(text), cv2.FONT_HERSHEY_SIMPLEX, 0.45, 1)[0][0])


def _ascii(text: str) -> str:
    # OpenCV 4 draws ASCII only, and each byte of anything else as a '?' of its own.
    return text.encode("ascii", "replace").decode()


def _ticks(near: float, far: float) -> list[float]:
    """1, 2, 5 times powers of ten within the range."""
    first, last = math.floor(math.log10(near)), math.ceil(math.log10(far))
    steps = [digit * 10.0**power for power in range(first, last + 1) for digit in (1, 2, 5)]
    return [step for step in steps if near * 0.999 <= step <= far * 1.001]


def _turbo(levels: np.ndarray) -> np.ndarray:
    bgr = cv2.applyColorMap(levels, cv2.COLORMAP_TURBO)
    rgb: np.ndarray = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
    return rgb


def _depth_range(max_depth: float, min_depth: float) -> tuple[float, float]:
    near = min_depth if min_depth > 0 else max_depth * NEAR_SHARE
    if not 0 < near < max_depth < math.inf:
        raise ConfigError(f"depth colors: the range {near:g} to {max_depth:g} m is empty or not finite")
    return near, max_depth


def _check_labels(labels: np.ndarray) -> None:
    if labels.ndim != 2 or labels.dtype != np.uint8 or labels.size == 0:
        raise FrameError(f"label picture: {labels.dtype} {labels.shape} is not H x W uint8", "bad_labels")


def _check_out(out: np.ndarray | None, shape: tuple[int, ...]) -> None:
    # OpenCV would quietly return another array.
    if out is not None and (out.shape != (*shape, 3) or out.dtype != np.uint8 or not out.flags.c_contiguous):
        raise FrameError(f"out: {out.dtype} {out.shape} is not a C-contiguous uint8 {(*shape, 3)}", "bad_out")
