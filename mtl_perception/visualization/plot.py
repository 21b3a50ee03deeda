"""A plain plot: points joined by lines on axes from zero."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from mtl_perception.visualization.colors import INK_COLOR, PANEL_COLOR, write_text

WIDTH, HEIGHT = 560, 380
LEFT, RIGHT, TOP, BOTTOM = 64, 20, 40, 48
LABEL_WIDTH = 44
LINE_COLOR = (88, 166, 255)
GUIDE_COLOR = (110, 116, 126)


@dataclass(frozen=True)
class Curve:
    """Points to plot.

    Attributes:
        title: Above.
        x_label: Below.
        x: Increasing, positive.
        y: As many, not negative.
    """

    title: str
    x_label: str
    x: Sequence[float]
    y: Sequence[float]


def plot(curve: Curve) -> np.ndarray:
    """The curve, and a gray line from zero through its last point: what is linear lies on it, what is above grows slower.

    Returns:
        HEIGHT x WIDTH x 3 uint8, RGB.
    """
    picture = np.full((HEIGHT, WIDTH, 3), PANEL_COLOR, np.uint8)
    most_x, most_y = 1.05 * max(curve.x), 1.1 * max(*curve.y, 1e-9)

    def place(x: float, y: float) -> tuple[int, int]:
        across, up = x / most_x * (WIDTH - LEFT - RIGHT), y / most_y * (HEIGHT - TOP - BOTTOM)
        return round(LEFT + across), round(HEIGHT - BOTTOM - up)

    origin = place(0, 0)
    cv2.line(picture, origin, place(most_x, 0), INK_COLOR, 1)
    cv2.line(picture, origin, place(0, most_y), INK_COLOR, 1)
    cv2.line(picture, origin, place(curve.x[-1], curve.y[-1]), GUIDE_COLOR, 1, cv2.LINE_AA)
    points = [place(x, y) for x, y in zip(curve.x, curve.y, strict=True)]
    cv2.polylines(picture, [np.array(points, np.int32)], False, LINE_COLOR, 2, cv2.LINE_AA)
    free = 0
    for point, x, y in zip(points, curve.x, curve.y, strict=True):
        cv2.circle(picture, point, 4, LINE_COLOR, -1, cv2.LINE_AA)
        write_text(picture, f"{y:.3g}", (max(point[0] - 14, LEFT + 4), point[1] - 9))
        # One that would lie on the one before is left out.
        if point[0] >= free:
            write_text(picture, f"{x:.3g}", (point[0] - 12, HEIGHT - BOTTOM + 18))
            free = point[0] + LABEL_WIDTH
    write_text(picture, curve.title, (LEFT, 22))
    write_text(picture, curve.x_label, (LEFT, HEIGHT - 8))
    return picture
