"""Plot of a soak run: one panel per kind of figure over a common time axis."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mtl_perception.errors import require

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Panel:
    """Curves that share an axis.

    Attributes:
        title: Title with the unit.
        curves: Label of each plotted column of the samples.
        from_zero: Whether the axis starts at zero; otherwise at the minimum after the warm-up, so that slow growth is visible.
    """

    title: str
    curves: dict[str, str]
    from_zero: bool = True


PANELS = (
    Panel("memory (MiB)", {"rss_mib": "resident", "anonymous_mib": "private"}),
    Panel("private memory, enlarged (MiB)", {"anonymous_mib": "private"}, from_zero=False),
    Panel("private memory after each cleanup (MiB)", {"clean_mib": "unconfigured"}, from_zero=False),
    Panel("handles", {"fds": "file descriptors", "threads": "threads"}),
    Panel("mapped shared-memory segments", {"shm_segments": "segments"}),
    Panel("shared memory (MiB)", {"shm_mib": "mapped segments"}),
    Panel("latency, publication to arrival (ms)", {"latency_median_ms": "median", "latency_p99_ms": "99th percentile"}),
    Panel("output rate of the permanent subscriber (Hz)", {"rate": "labels"}),
    Panel("processor (cores in use)", {"cores": "node"}),
)


def draw(samples: dict[str, np.ndarray], warm_up_end: float | None) -> Figure:
    """Draw the panels that have data.

    Args:
        samples: Columns of equal length, `seconds` among them; NaN where there is no value.
        warm_up_end: End of the warm-up, which is shaded, seconds; None shades the whole run.

    Raises:
        DependencyError: matplotlib is not installed.
    """
    require("matplotlib.figure", extra="plot", purpose="the plot of a soak run")
    from matplotlib.figure import Figure

    seconds = samples["seconds"]
    steps = np.diff(seconds, prepend=np.nan)
    columns = {
        **samples,
        "rate": samples["outputs"] / steps,
        "cores": np.diff(samples["cpu_seconds"], prepend=np.nan) / steps,
    }
    unit, scale = ("hours", 3600.0) if seconds[-1] > 2 * 3600 else ("minutes", 60.0)
    time = seconds / scale
    warm = (seconds[-1] if warm_up_end is None else warm_up_end) / scale
    known = {name for name, values in columns.items() if np.isfinite(values).sum() > 1}
    panels = [panel for panel in PANELS if known & set(panel.curves)]
    figure = Figure(figsize=(11, 1.8 * len(panels)), layout="constrained")
    for axes, panel in zip(figure.subplots(len(panels), sharex=True, squeeze=False)[:, 0], panels, strict=True):
        axes.set_title(panel.title, loc="left", fontsize="medium")
        axes.axvspan(0, warm, color="0.92")
        axes.grid(axis="y", alpha=0.4)
        for name, label in panel.curves.items():
            finite = np.isfinite(columns[name])
            axes.plot(time[finite], columns[name][finite], label=label, linewidth=1)
        axes.set_xlim(0, time[-1])
        axes.set_ylim(*_limits(np.concatenate([columns[name] for name in panel.curves]), time, warm, panel.from_zero))
        axes.legend(loc="lower right", fontsize="small")
    axes.set_xlabel(f"{unit} since the start of sampling; shaded: warm-up, not judged")
    return figure


def _limits(values: np.ndarray, time: np.ndarray, warm: float, from_zero: bool) -> tuple[float, float]:
    if from_zero:
        return 0.0, 1.05 * float(np.nanmax(values, initial=1e-9))
    judged = values[time >= warm]
    if np.isfinite(judged).sum() < 2:
        judged = values
    low = float(np.floor(np.nanmin(judged)))
    return low, low + max(1.2 * (float(np.nanmax(judged)) - low), 4.0)
