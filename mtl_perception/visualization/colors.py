"""Color images of labels and depth, overlays, the legend and the depth scale. All images are RGB."""

from __future__ import annotations

import math

import cv2
import numpy as np

from mtl_perception.errors import ConfigError, FrameError
from mtl_perception.labels import ClassSet

INVALID_COLOR = (0, 0, 0)
BEYOND_COLOR = (48, 48, 48)
"""Color of depth beyond the range (+Inf); differs from that of invalid depth."""

MIN_DEPTH_RATIO = 1 / 40
"""Lower end of the depth colors relative to the upper end: 2 m for 80 m."""

PANEL_COLOR = (24, 27, 33)
INK_COLOR = (226, 230, 236)


def colorize_labels(labels: np.ndarray, class_set: ClassSet) -> np.ndarray:
    """Color a label image by class.

    Args:
        labels: H x W uint8 class ids; 255 and other ids outside the set become black.
        class_set: The classes.

    Returns:
        H x W x 3 uint8 RGB.

    Raises:
        FrameError: `labels` is not a label image.
    """
    _check_labels(labels)
    # Three times as fast as cv2.LUT, which requires an input of three channels.
    colors: np.ndarray = cv2.applyColorMap(np.ascontiguousarray(labels), class_set.palette()[:, None])
    return colors


def overlay(
    image: np.ndarray, labels: np.ndarray, class_set: ClassSet, opacity: float, colors: np.ndarray | None = None
) -> np.ndarray:
    """Blend class colors over an image; unlabeled pixels keep the image.

    Args:
        image: H x W x 3 uint8 RGB.
        labels: H x W uint8 class ids.
        class_set: The classes.
        opacity: Weight of the class colors, 0..1: (1 - opacity) * image + opacity * color, rounded to nearest.
        colors: Result of `colorize_labels` for `labels`, if already computed; not modified.

    Returns:
        H x W x 3 uint8 RGB.

    Raises:
        FrameError: Shapes or dtypes do not match.
        ConfigError: `opacity` is outside 0..1.
    """
    if not 0.0 <= opacity <= 1.0:
        raise ConfigError(f"overlay: opacity {opacity} is outside 0 to 1")
    _check_labels(labels)
    if image.shape != (*labels.shape, 3) or image.dtype != np.uint8:
        raise FrameError(
            f"overlay: the image is {image.dtype} {image.shape}, but the labels require uint8 {(*labels.shape, 3)}",
            "size_mismatch",
        )
    image = np.ascontiguousarray(image)
    labels = np.ascontiguousarray(labels)
    if colors is None:
        colors = colorize_labels(labels, class_set)
    if labels.max() >= len(class_set):
        unlabeled = (np.arange(256) >= len(class_set)).astype(np.uint8)
        # An image blended with itself is unchanged, so a single pass handles all pixels.
        colors = cv2.copyTo(image, cv2.LUT(labels, unlabeled), colors.copy())
    blended: np.ndarray = cv2.addWeighted(image, 1.0 - opacity, colors, opacity, 0.0)
    return blended


def colorize_depth(depth: np.ndarray, max_depth: float) -> np.ndarray:
    """Color depth with the turbo map on a logarithmic scale, from red (near) to blue (far).

    Args:
        depth: H x W float32 meters.
        max_depth: Upper end of the scale, meters; larger finite depth is clipped to it. The lower end is `max_depth` / 40.

    Returns:
        H x W x 3 uint8 RGB; black where depth is NaN or not positive, dark gray where it is +Inf.

    Raises:
        FrameError: `depth` is not a depth image.
        ConfigError: `max_depth` is not above 0 and finite.
    """
    if depth.ndim != 2 or depth.dtype != np.float32 or depth.size == 0:
        raise FrameError(f"invalid depth image: {depth.dtype} {depth.shape} is not H x W float32", "bad_depth")
    near, far = _depth_range(max_depth)
    valid = depth > 0.0
    beyond = np.isposinf(depth)
    log_depth = np.log(np.clip(np.where(valid, depth, np.float32(far)), near, far))
    levels = (np.float32(math.log(far)) - log_depth) * np.float32(255.0 / math.log(far / near)) + np.float32(0.5)
    image = _turbo(levels.astype(np.uint8))
    image[~valid] = INVALID_COLOR
    image[beyond] = BEYOND_COLOR
    return image


def legend(class_set: ClassSet, width: int = 640, scale: float = 1.0) -> np.ndarray:
    """Draw the colors and names of the classes in as many columns as fit.

    Args:
        class_set: The classes.
        width: Width of the image, pixels; at least 160.
        scale: Size of text and colors; at 1 the text is 10 pixels high.

    Returns:
        H x `width` x 3 uint8 RGB.
    """
    swatch, gap, row, margin = (round(size * scale) for size in (16, 8, 26, 14))
    line = max(1, round(scale))
    widest = max((text_width(name, scale) for name in class_set.names), default=0)
    column = swatch + 3 * gap + widest
    width = max(width, 160)
    columns = max(1, (width - 2 * margin + 2 * gap) // column)
    rows = max(1, -(-len(class_set) // columns))
    image = np.full((rows * row + 2 * margin - (row - swatch), width, 3), PANEL_COLOR, np.uint8)
    for index, (name, color) in enumerate(zip(class_set.names, class_set.colors, strict=True)):
        x = margin + index // rows * column
        y = margin + index % rows * row
        # Without an outline, dark colors are invisible on the panel.
        cv2.rectangle(image, (x, y), (x + swatch, y + swatch), (120, 126, 136), -1)
        cv2.rectangle(image, (x + line, y + line), (x + swatch - line, y + swatch - line), color, -1)
        write_text(image, name, (x + swatch + gap, y + swatch - round(3 * scale)), scale=scale)
    return image


def with_legend(image: np.ndarray, class_set: ClassSet) -> np.ndarray:
    """Append the legend of all classes below an image, so that it covers nothing and images of one size stay of one size.

    Args:
        image: H x W x 3 uint8 RGB.
        class_set: The classes.

    Returns:
        H' x max(W, 160) x 3 uint8 RGB, the image in the upper left corner.
    """
    width = image.shape[1]
    # Text of 10 pixels for 1280, as on a display that shows the whole width, and never below 8 pixels.
    strip = legend(class_set, width, max(0.8, width / 1280))
    missing = strip.shape[1] - width
    padded = cv2.copyMakeBorder(image, 0, 0, 0, missing, cv2.BORDER_CONSTANT, value=PANEL_COLOR) if missing else image
    return np.concatenate([padded, strip])


def depth_scale(max_depth: float, width: int) -> np.ndarray:
    """Draw the colors of `colorize_depth` as a bar with ticks in meters.

    Args:
        max_depth: Upper end of the scale, meters.
        width: Width of the image, pixels; at least 160.

    Returns:
        52 x `width` x 3 uint8 RGB.

    Raises:
        ConfigError: `max_depth` is not above 0 and finite.
    """
    near, far = _depth_range(max_depth)
    width = max(width, 160)
    left, right = 14, width - 15
    image = np.full((52, width, 3), PANEL_COLOR, np.uint8)
    bar = np.geomspace(near, far, right - left + 1, dtype=np.float32)[None]
    image[10:26, left : right + 1] = colorize_depth(bar, far)
    taken: list[tuple[int, int]] = []
    for meters in [far, *_ticks(near, far)]:
        x = left + round((right - left) * math.log(meters / near) / math.log(far / near))
        text = f"{meters:g} m"
        start = min(max(x - text_width(text) // 2, 2), width - 2 - text_width(text))
        end = start + text_width(text)
        if any(start < other_end + 8 and other_start < end + 8 for other_start, other_end in taken):
            continue
        image[26:31, x] = INK_COLOR
        write_text(image, text, (start, 44))
        taken.append((start, end))
    return image


def write_text(
    image: np.ndarray, text: str, origin: tuple[int, int], color: tuple[int, int, int] = INK_COLOR, scale: float = 1.0
) -> None:
    """Write small text into an RGB image, with its baseline at `origin` (x, y); non-ASCII characters become '?'."""
    thickness = max(1, round(scale))
    cv2.putText(image, _ascii(text), origin, cv2.FONT_HERSHEY_SIMPLEX, 0.45 * scale, color, thickness, cv2.LINE_AA)


def text_width(text: str, scale: float = 1.0) -> int:
    """Return the width of a text drawn by `write_text`, pixels."""
    return int(cv2.getTextSize(_ascii(text), cv2.FONT_HERSHEY_SIMPLEX, 0.45 * scale, max(1, round(scale)))[0][0])


def _ascii(text: str) -> str:
    # OpenCV 4 draws every byte of a non-ASCII character as a separate '?'.
    return text.encode("ascii", "replace").decode()


def _ticks(near: float, far: float) -> list[float]:
    """Return 1, 2 and 5 times powers of ten within the range."""
    first, last = math.floor(math.log10(near)), math.ceil(math.log10(far))
    steps = [digit * 10.0**power for power in range(first, last + 1) for digit in (1, 2, 5)]
    return [step for step in steps if near * 0.999 <= step <= far * 1.001]


def _turbo(levels: np.ndarray) -> np.ndarray:
    bgr = cv2.applyColorMap(levels, cv2.COLORMAP_TURBO)
    rgb: np.ndarray = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
    return rgb


def _depth_range(max_depth: float) -> tuple[float, float]:
    if not 0 < max_depth < math.inf:
        raise ConfigError(f"invalid depth scale: its upper end of {max_depth:g} m is not above 0 and finite")
    return max_depth * MIN_DEPTH_RATIO, max_depth


def _check_labels(labels: np.ndarray) -> None:
    if labels.ndim != 2 or labels.dtype != np.uint8 or labels.size == 0:
        raise FrameError(f"invalid label image: {labels.dtype} {labels.shape} is not H x W uint8", "bad_labels")
