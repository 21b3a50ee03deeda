"""Contact sheets of one frame's errors: truth, prediction and error side by side, labels above depth. All pictures are RGB."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from mtl_perception.labels import ClassSet
from mtl_perception.types import UNLABELED
from mtl_perception.visualization.colors import INK_COLOR, PANEL_COLOR, colorize_depth, depth_scale, legend, overlay, write_text

WRONG_COLOR = (232, 40, 40)
ERROR_SPAN = 0.5
"""Relative depth error at both ends of the color scale; larger ones have the last color."""

CELL_WIDTH = 560
MAX_CELL_HEIGHT = 480
MARGIN = 12
CAPTION = 26
# Blue, light gray, red: far enough from the depth colors not to be taken for them.
_NEAR, _RIGHT, _FAR = (40, 96, 214), (236, 236, 236), (214, 32, 40)


@dataclass(frozen=True)
class LabelErrors:
    """What the sheet shows of labels.

    Attributes:
        classes: Whose ids both label pictures hold.
        truth: H x W uint8, 255 = not counted.
        labels: H x W uint8, the prediction.
        note: Figures of this frame, for the caption.
    """

    classes: ClassSet
    truth: np.ndarray
    labels: np.ndarray
    note: str = ""


@dataclass(frozen=True)
class DepthErrors:
    """What the sheet shows of depth.

    Attributes:
        truth: H x W float32 meters, NaN = unknown, +Inf = beyond.
        depth: H x W float32 meters, the prediction.
        counted: H x W bool, the pixels that the figures count.
        cap: Meters, the last color of the depth scale.
        note: Figures of this frame, for the caption.
    """

    truth: np.ndarray
    depth: np.ndarray
    counted: np.ndarray
    cap: float
    note: str = ""


def error_sheet(
    image: np.ndarray, title: Sequence[str], labels: LabelErrors | None = None, depth: DepthErrors | None = None
) -> np.ndarray:
    """The sheet: the picture with title and legends on top, then a row of truth, prediction and error for each task.

    Args:
        image: H x W x 3 uint8 RGB.
        title: Lines of text; the first is written larger.
        labels: None leaves the row out.
        depth: None leaves the row out.

    Returns:
        H x W x 3 uint8 RGB, 1,728 pixels wide.
    """
    height, width = image.shape[:2]
    scale = min(CELL_WIDTH / width, MAX_CELL_HEIGHT / height)
    cell = (max(round(height * scale), 1), max(round(width * scale), 1))
    gray = cv2.cvtColor(cv2.cvtColor(_fitted(image, cell), cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    head = _cell(_fitted(image, cell), "picture")
    rows = [_beside([head, _information(title, labels, depth, head.shape[0], 2 * CELL_WIDTH + MARGIN)])]
    if labels is not None:
        rows.append(
            _beside(
                [
                    _cell(_fitted(overlay(image, labels.truth, labels.classes, 0.65), cell), "labels: truth"),
                    _cell(_fitted(overlay(image, labels.labels, labels.classes, 0.65), cell), "labels: prediction"),
                    _cell(_wrong(gray, labels), f"labels: wrong in red, not counted dark   {labels.note}"),
                ]
            )
        )
    if depth is not None:
        shown = np.where(depth.depth > depth.cap, np.float32(np.inf), depth.depth)
        rows.append(
            _beside(
                [
                    _cell(_points(gray, colorize_depth(depth.truth, depth.cap), depth.truth > 0, depth.truth), "depth: truth"),
                    _cell(_fitted(colorize_depth(shown, depth.cap), cell), "depth: prediction"),
                    _cell(
                        _points(gray, _error_colors(depth), depth.counted, depth.truth),
                        f"depth: counted errors   {depth.note}",
                    ),
                ]
            )
        )
    return _framed(np.concatenate(rows))


def error_scale(width: int = 320) -> np.ndarray:
    """The colors of relative depth errors as a bar with ticks: 52 x `width` x 3 uint8 RGB."""
    picture = np.full((52, width, 3), PANEL_COLOR, np.uint8)
    left, right = 14, width - 15
    picture[10:26, left : right + 1] = _diverging(np.linspace(-ERROR_SPAN, ERROR_SPAN, right - left + 1, dtype=np.float32))
    for share, text in ((0.0, f"{-ERROR_SPAN:.0%} too near"), (0.5, "0"), (1.0, f"+{ERROR_SPAN:.0%} too far")):
        x = left + round((right - left) * share)
        picture[26:31, x] = INK_COLOR
        write_text(picture, text, (round(x - share * _width(text)) - (2 if share == 0.5 else 0), 44))
    return picture


def _information(
    title: Sequence[str], labels: LabelErrors | None, depth: DepthErrors | None, height: int, width: int
) -> np.ndarray:
    """Title and legends in one panel of at least that height."""
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
        parts.append(np.concatenate([depth_scale(depth.cap, width=width - half), error_scale(half)], axis=1))
    stacked = np.concatenate(parts)
    return _extended(stacked, max(height - stacked.shape[0], 0))


def _extended(picture: np.ndarray, rows: int) -> np.ndarray:
    return np.concatenate([picture, np.full((rows, *picture.shape[1:]), PANEL_COLOR, np.uint8)])


def _wrong(gray: np.ndarray, errors: LabelErrors) -> np.ndarray:
    size = (gray.shape[1], gray.shape[0])
    known = cv2.resize((errors.truth != UNLABELED).astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0
    wrong = cv2.resize((errors.truth != errors.labels).astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0
    picture: np.ndarray = (gray * np.float32(0.55) + 40).astype(np.uint8)
    picture[~known] = gray[~known] // 6
    wrong &= known
    picture[wrong] = (gray[wrong] * 0.25 + np.array(WRONG_COLOR) * 0.75).astype(np.uint8)
    return picture


def _error_colors(errors: DepthErrors) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        # No number counts as the cap.
        guess = np.minimum(np.where(np.isnan(errors.depth), np.float32(np.inf), errors.depth), np.float32(errors.cap))
        relative = (guess - errors.truth) / errors.truth
    return _diverging(np.nan_to_num(relative, posinf=ERROR_SPAN, neginf=-ERROR_SPAN))


def _diverging(relative: np.ndarray) -> np.ndarray:
    place = np.clip(relative / ERROR_SPAN, -1, 1)[..., None]
    ends = np.where(place < 0, np.array(_NEAR, np.float32), np.array(_FAR, np.float32))
    share = np.abs(place)
    return np.asarray(((1 - share) * np.array(_RIGHT, np.float32) + share * ends + 0.5).astype(np.uint8))


def _points(gray: np.ndarray, colors: np.ndarray, where: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """Colors of some pixels over the darkened picture; sparse ones grow so that they can be seen, near before far."""
    picture = gray // 4
    rows, columns = np.nonzero(where)
    order = np.argsort(-depth[rows, columns], kind="stable")
    rows, columns = rows[order], columns[order]
    scale_y, scale_x = gray.shape[0] / where.shape[0], gray.shape[1] / where.shape[1]
    y, x = (rows * scale_y).astype(int), (columns * scale_x).astype(int)
    # Where several pixels fall into each cell of the smaller picture, growing would only blur.
    sparse = rows.size < 2 * where.size * scale_y * scale_x
    for dy, dx in [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)] if sparse else []:
        picture[np.clip(y + dy, 0, gray.shape[0] - 1), np.clip(x + dx, 0, gray.shape[1] - 1)] = colors[rows, columns]
    picture[y, x] = colors[rows, columns]
    return picture


def _fitted(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    shrinks = size[0] < picture.shape[0]
    return np.asarray(cv2.resize(picture, (size[1], size[0]), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR))


def _cell(picture: np.ndarray, caption: str) -> np.ndarray:
    """The picture in the middle of a cell, its caption above it."""
    left = (CELL_WIDTH - picture.shape[1]) // 2
    cell = np.full((CAPTION + picture.shape[0], CELL_WIDTH, 3), PANEL_COLOR, np.uint8)
    cell[CAPTION:, left : left + picture.shape[1]] = picture
    write_text(cell, caption, (left + 1, CAPTION - 9))
    return cell


def _beside(cells: Sequence[np.ndarray]) -> np.ndarray:
    """Cells in a row, a margin between and below them."""
    height = max(cell.shape[0] for cell in cells)
    gap = np.full((height, MARGIN, 3), PANEL_COLOR, np.uint8)
    parts: list[np.ndarray] = []
    for cell in cells:
        parts += [_extended(cell, height - cell.shape[0]), gap]
    return _extended(np.concatenate(parts[:-1], axis=1), MARGIN)


def _framed(picture: np.ndarray) -> np.ndarray:
    height, width = picture.shape[:2]
    sheet = np.full((height + MARGIN, width + 2 * MARGIN, 3), PANEL_COLOR, np.uint8)
    sheet[MARGIN:, MARGIN : MARGIN + width] = picture
    return sheet


def _width(text: str) -> int:
    return int(cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.45, 1)[0][0])
