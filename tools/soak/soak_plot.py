"""The plot of a soak: a panel for each kind of figure, one above the other, over the same time."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from mtl_perception.visualization.colors import INK_COLOR, PANEL_COLOR, write_text

WIDTH, PANEL_HEIGHT = 1100, 180
LEFT, RIGHT, TOP, BOTTOM = 76, 24, 34, 26
COLORS = ((88, 166, 255), (255, 176, 88))
GRID_COLOR, WARM_UP_COLOR = (58, 63, 72), (34, 38, 46)
LETTER_WIDTH = 8


@dataclass(frozen=True)
class Panel:
    """Curves on the same axis.

    Attributes:
        title: Above, with the unit.
        curves: Columns of the samples, each with what it is called.
        from_zero: Whether the axis begins at zero; else at the least value after the warm-up, so that a slow growth shows.
    """

    title: str
    curves: dict[str, str]
    from_zero: bool = True


PANELS = (
    Panel("memory (MiB)", {"rss_mib": "resident", "anonymous_mib": "of its own"}),
    Panel("memory of its own, enlarged (MiB)", {"anonymous_mib": "of its own"}, from_zero=False),
    Panel("memory of its own after each cleanup (MiB)", {"clean_mib": "without a configuration"}, from_zero=False),
    Panel("handles", {"fds": "file descriptors", "threads": "threads"}),
    Panel("shared memory: mapped segments", {"shm_segments": "segments"}),
    Panel("shared memory (MiB)", {"shm_mib": "of the mapped segments"}),
    Panel("latency, sending to arrival (ms)", {"latency_median_ms": "median", "latency_p99_ms": "99 %"}),
    Panel("outputs a second, steady subscriber", {"rate": "labels"}),
    Panel("processor (cores in use)", {"cores": "node"}),
)


def plot(samples: dict[str, np.ndarray], judged_from: float | None) -> np.ndarray:
    """All panels but those of which there is nothing.

    Args:
        samples: Columns of the same length, `seconds` among them; NaN where there is no value.
        judged_from: Seconds at which the warm-up is over, which is shaded; None: all of it is.

    Returns:
        H x WIDTH x 3 uint8, RGB.
    """
    seconds = samples["seconds"]
    steps = np.diff(seconds, prepend=np.nan)
    columns = {
        **samples,
        "rate": samples["outputs"] / steps,
        "cores": np.diff(samples["cpu_seconds"], prepend=np.nan) / steps,
    }
    unit, scale = ("hours", 3600.0) if seconds[-1] > 2 * 3600 else ("minutes", 60.0)
    warm = (judged_from if judged_from is not None else seconds[-1]) / scale
    there = {name for name, values in columns.items() if np.isfinite(values).sum() > 1}
    panels = [_panel(panel, seconds / scale, columns, warm) for panel in PANELS if there & set(panel.curves)]
    foot = np.full((24, WIDTH, 3), PANEL_COLOR, np.uint8)
    write_text(foot, f"{unit} since the start of sampling; shaded: warm-up, not judged", (LEFT, 14))
    return np.concatenate([*panels, foot])


def _panel(panel: Panel, time: np.ndarray, columns: dict[str, np.ndarray], warm: float) -> np.ndarray:
    picture = np.full((PANEL_HEIGHT, WIDTH, 3), PANEL_COLOR, np.uint8)
    values = np.concatenate([columns[name] for name in panel.curves])
    if panel.from_zero:
        low, top = 0.0, _round_up(1.05 * float(np.nanmax(values, initial=1e-9)))
    else:
        judged = values[time >= warm]
        if np.isfinite(judged).sum() < 2:
            judged = values
        low = float(np.floor(np.nanmin(judged)))
        top = low + _round_up(max(1.2 * (float(np.nanmax(judged)) - low), 4.0))
    right, bottom = WIDTH - RIGHT, PANEL_HEIGHT - BOTTOM
    across = lambda x: LEFT + x / time[-1] * (right - LEFT)  # noqa: E731
    up = lambda y: bottom - (np.clip(y, low, top) - low) / (top - low) * (bottom - TOP)  # noqa: E731
    cv2.rectangle(picture, (LEFT, TOP), (round(across(warm)), bottom), WARM_UP_COLOR, -1)
    for tick in np.linspace(low, top, 5):
        y = round(up(tick))
        cv2.line(picture, (LEFT, y), (right, y), GRID_COLOR, 1)
        text = f"{tick:.4g}"
        write_text(picture, text, (LEFT - 10 - LETTER_WIDTH * len(text), y + 5))
    for tick in _ticks(time[-1]):
        text = f"{tick:g}"
        write_text(picture, text, (round(across(tick)) - LETTER_WIDTH * len(text) // 2, PANEL_HEIGHT - 8))
        cv2.line(picture, (round(across(tick)), bottom), (round(across(tick)), bottom + 4), INK_COLOR, 1)
    for (name, label), color, number in zip(panel.curves.items(), COLORS, range(2), strict=False):
        known = np.isfinite(columns[name])
        points = np.stack([across(time[known]), up(columns[name][known])], axis=-1)
        cv2.polylines(picture, [np.round(points).astype(np.int32)], False, color, 1, cv2.LINE_AA)
        write_text(picture, label, (right - 360 + 190 * number, 22), color)
    write_text(picture, panel.title, (LEFT, 22))
    return picture


def _round_up(value: float) -> float:
    """The next of 1, 1.2, 1.6, 2, 3, 4, 6, 8 times a power of ten: four parts of it are short numbers."""
    power = 10.0 ** np.floor(np.log10(value))
    return float(next(step * power for step in (1, 1.2, 1.6, 2, 3, 4, 6, 8, 10) if step * power >= value * 0.9999))


def _ticks(last: float) -> list[float]:
    """Up to a dozen: 1, 2 or 5 times a power of ten apart."""
    power = 10.0 ** np.floor(np.log10(last / 12))
    step = next(step * power for step in (1, 2, 5, 10) if step * power >= last / 12)
    return [float(step * number) for number in range(int(last / step) + 1)]
