"""Contact sheets of a frame's errors: truth, prediction and error of labels and depth. All images are RGB."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from mtl_perception.labels import ClassSet
from mtl_perception.types import UNLABELED
from mtl_perception.visualization.colors import (
    INK_COLOR,
    PANEL_COLOR,
    colorize_depth,
    depth_scale,
    legend,
    overlay,
    text_width,
    write_text,
)

WRONG_COLOR = (232, 40, 40)
MAX_ERROR = 0.5
"""Relative depth error at both ends of the color scale; larger errors are clipped."""

CELL_WIDTH = 560
MAX_CELL_HEIGHT = 480
MARGIN = 12
CAPTION = 26
# Blue, light gray and red, which differ from the colors of the depth scale.
_TOO_NEAR, _CORRECT, _TOO_FAR = (40, 96, 214), (236, 236, 236), (214, 32, 40)


@dataclass(frozen=True)
class LabelErrors:
    """Labels of the sheet.

    Attributes:
        classes: Classes of both label images.
        truth: H x W uint8, 255 = ignored.
        labels: H x W uint8, the prediction.
        note: Scores of this frame, for the caption.
    """

    classes: ClassSet
    truth: np.ndarray
    labels: np.ndarray
    note: str = ""


@dataclass(frozen=True)
class DepthErrors:
    """Depth of the sheet.

    Attributes:
        truth: H x W float32 meters, NaN = unknown, +Inf = beyond the range.
        depth: H x W float32 meters, the prediction.
        counted: H x W bool, the evaluated pixels.
        cap: Upper end of the depth scale, meters.
        note: Scores of this frame, for the caption.
    """

    truth: np.ndarray
    depth: np.ndarray
    counted: np.ndarray
    cap: float
    note: str = ""


def error_sheet(
    image: np.ndarray, title: Sequence[str], labels: LabelErrors | None = None, depth: DepthErrors | None = None
) -> np.ndarray:
    """Draw the sheet: image, title and legends on top, then truth, prediction and error of each task.

    Args:
        image: H x W x 3 uint8 RGB.
        title: Lines of text; the first line is larger.
        labels: Labels, or None to omit their row.
        depth: Depth, or None to omit its row.

    Returns:
        H x W x 3 uint8 RGB, 1,728 pixels wide.
    """
    height, width = image.shape[:2]
    scale = min(CELL_WIDTH / width, MAX_CELL_HEIGHT / height)
    cell = (max(round(height * scale), 1), max(round(width * scale), 1))
    gray = cv2.cvtColor(cv2.cvtColor(_fitted(image, cell), cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    head = _cell(_fitted(image, cell), "image")
    rows = [_beside([head, _information(title, labels, depth, head.shape[0], 2 * CELL_WIDTH + MARGIN)])]
    if labels is not None:
        rows.append(
            _beside(
                [
                    _cell(_fitted(overlay(image, labels.truth, labels.classes, 0.65), cell), "labels: truth"),
                    _cell(_fitted(overlay(image, labels.labels, labels.classes, 0.65), cell), "labels: prediction"),
                    _cell(_wrong(gray, labels), f"labels: errors red, ignored dark   {labels.note}"),
                ]
            )
        )
    if depth is not None:
        clipped = np.where(depth.depth > depth.cap, np.float32(np.inf), depth.depth)
        rows.append(
            _beside(
                [
                    _cell(_points(gray, colorize_depth(depth.truth, depth.cap), depth.truth > 0, depth.truth), "depth: truth"),
                    _cell(_fitted(colorize_depth(clipped, depth.cap), cell), "depth: prediction"),
                    _cell(
                        _points(gray, _error_colors(depth), depth.counted, depth.truth),
                        f"depth: errors of evaluated pixels   {depth.note}",
                    ),
                ]
            )
        )
    return _framed(np.concatenate(rows))


def error_scale(width: int) -> np.ndarray:
    """Draw the colors of relative depth errors as a bar with ticks: 52 x `width` x 3 uint8 RGB."""
    image = np.full((52, width, 3), PANEL_COLOR, np.uint8)
    left, right = 14, width - 15
    image[10:26, left : right + 1] = _diverging(np.linspace(-MAX_ERROR, MAX_ERROR, right - left + 1, dtype=np.float32))
    for share, text in ((0.0, f"{-MAX_ERROR:.0%} too near"), (0.5, "0"), (1.0, f"+{MAX_ERROR:.0%} too far")):
        x = left + round((right - left) * share)
        image[26:31, x] = INK_COLOR
        write_text(image, text, (round(x - share * text_width(text)) - (2 if share == 0.5 else 0), 44))
    return image


def _information(
    title: Sequence[str], labels: LabelErrors | None, depth: DepthErrors | None, height: int, width: int
) -> np.ndarray:
    """Draw title and legends in a panel of at least the given height."""
    panel = np.full((26 + 24 * len(title) + 6, width, 3), PANEL_COLOR, np.uint8)
    for number, line in enumerate(title):
        size = 0.62 if number == 0 else 0.5
        text = line.encode("ascii", "replace").decode()
        cv2.putText(panel, text, (14, 30 + 24 * number), cv2.FONT_HERSHEY_SIMPLEX, size, INK_COLOR, 1, cv2.LINE_AA)
    parts = [panel]
    if labels is not None:
        parts.append(legend(labels.classes, width))
    if depth is not None:
        half = width // 2
        parts.append(np.concatenate([depth_scale(depth.cap, width - half), error_scale(half)], axis=1))
    stacked = np.concatenate(parts)
    return _extended(stacked, max(height - stacked.shape[0], 0))


def _extended(image: np.ndarray, rows: int) -> np.ndarray:
    return np.concatenate([image, np.full((rows, *image.shape[1:]), PANEL_COLOR, np.uint8)])


def _wrong(gray: np.ndarray, errors: LabelErrors) -> np.ndarray:
    size = (gray.shape[1], gray.shape[0])
    known = cv2.resize((errors.truth != UNLABELED).astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0
    wrong = cv2.resize((errors.truth != errors.labels).astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0
    image: np.ndarray = (gray * np.float32(0.55) + 40).astype(np.uint8)
    image[~known] = gray[~known] // 6
    wrong &= known
    image[wrong] = (gray[wrong] * 0.25 + np.array(WRONG_COLOR) * 0.75).astype(np.uint8)
    return image


def _error_colors(errors: DepthErrors) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        # NaN is evaluated as the cap.
        guess = np.minimum(np.where(np.isnan(errors.depth), np.float32(np.inf), errors.depth), np.float32(errors.cap))
        relative = (guess - errors.truth) / errors.truth
    return _diverging(np.nan_to_num(relative, posinf=MAX_ERROR, neginf=-MAX_ERROR))


def _diverging(relative: np.ndarray) -> np.ndarray:
    level = np.clip(relative / MAX_ERROR, -1, 1)[..., None]
    ends = np.where(level < 0, np.array(_TOO_NEAR, np.float32), np.array(_TOO_FAR, np.float32))
    share = np.abs(level)
    return np.asarray(((1 - share) * np.array(_CORRECT, np.float32) + share * ends + 0.5).astype(np.uint8))


def _points(gray: np.ndarray, colors: np.ndarray, where: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """Draw the colors of some pixels over the darkened image; sparse pixels are enlarged, near ones on top."""
    image = gray // 4
    rows, columns = np.nonzero(where)
    order = np.argsort(-depth[rows, columns], kind="stable")
    rows, columns = rows[order], columns[order]
    scale_y, scale_x = gray.shape[0] / where.shape[0], gray.shape[1] / where.shape[1]
    y, x = (rows * scale_y).astype(int), (columns * scale_x).astype(int)
    # Enlarging dense pixels, of which several fall onto one output pixel, would only blur them.
    sparse = rows.size < 2 * where.size * scale_y * scale_x
    for dy, dx in [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)] if sparse else []:
        image[np.clip(y + dy, 0, gray.shape[0] - 1), np.clip(x + dx, 0, gray.shape[1] - 1)] = colors[rows, columns]
    image[y, x] = colors[rows, columns]
    return image


def _fitted(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    interpolation = cv2.INTER_AREA if size[0] < image.shape[0] else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (size[1], size[0]), interpolation=interpolation))


def _cell(image: np.ndarray, caption: str) -> np.ndarray:
    """Center an image in a cell below its caption."""
    left = (CELL_WIDTH - image.shape[1]) // 2
    cell = np.full((CAPTION + image.shape[0], CELL_WIDTH, 3), PANEL_COLOR, np.uint8)
    cell[CAPTION:, left : left + image.shape[1]] = image
    write_text(cell, caption, (left + 1, CAPTION - 9))
    return cell


def _beside(cells: Sequence[np.ndarray]) -> np.ndarray:
    """Join cells in a row with a margin between and below them."""
    height = max(cell.shape[0] for cell in cells)
    gap = np.full((height, MARGIN, 3), PANEL_COLOR, np.uint8)
    parts: list[np.ndarray] = []
    for cell in cells:
        parts += [_extended(cell, height - cell.shape[0]), gap]
    return _extended(np.concatenate(parts[:-1], axis=1), MARGIN)


def _framed(image: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    sheet = np.full((height + MARGIN, width + 2 * MARGIN, 3), PANEL_COLOR, np.uint8)
    sheet[MARGIN:, MARGIN : MARGIN + width] = image
    return sheet
