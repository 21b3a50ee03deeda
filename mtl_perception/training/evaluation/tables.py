"""Markdown tables of evaluation reports: padded to be readable as plain text, and those of a model card (docs/models.md)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

DEPTH_COLUMNS = (
    ("AbsRel", "abs_rel", 1, 3),
    ("SqRel m", "sq_rel", 1, 2),
    ("RMSE m", "rmse", 1, 2),
    ("RMSElog", "rmse_log", 1, 3),
    ("SILog", "silog", 1, 1),
    ("d<1.25 %", "delta1", 100, 1),
    ("<1.25² %", "delta2", 100, 1),
    ("<1.25³ %", "delta3", 100, 1),
)
NONE = "-"
MIN_PIXELS = 100
"""Fewest pixels of a cell or a row of the depth table that is shown; metrics.json has all."""
ALL = "all"

Row = tuple[str, str, dict[str, Any]]
"""Data set, weights and metrics."""
Table = tuple[list[str], list[list[str]]]
"""Header and rows."""


def tables(report: dict[str, Any]) -> str:
    """Return the tables of a report: the metrics of each network on each data set, the IoU of each class, and depth errors.

    Args:
        report: Content of metrics.json.
    """
    rows = list(_report_rows(report))
    parts = [_metrics_table(rows)]
    for name in _class_sets(rows):
        parts.append(f"IoU of each class, {name}, %\n\n" + _class_table(rows, name))
    if boxes := _box_rows(rows):
        parts.append("Found of all boxes, by height (pixels)\n\n" + markdown(*boxes))
    if depth := _depth_rows(rows):
        parts.append("Depth by class and true depth (m): AbsRel, bias (+ = too far)\n\n" + markdown(*depth))
    return "\n".join(parts)


def card_tables(report: dict[str, Any]) -> str:
    """Return the tables of a model card: a row per metric and a column per network, then IoU, boxes and depth by class.

    Args:
        report: Content of metrics.json.
    """
    rows = [row for row in _report_rows(report) if row[0] != ALL]
    networks = [run["weights"] for run in report["runs"]]
    cells: dict[str, dict[str, str]] = {}
    for data, weights, metrics in rows:
        for title, text in _card_metrics(data, metrics):
            cells.setdefault(title, {})[weights] = text
    header = ["metric", *(f"`{weights}`" for weights in networks)]
    parts = [markdown(header, [[title, *(row.get(w, NONE) for w in networks)] for title, row in cells.items()])]
    classes = list(dict.fromkeys(c for _, _, f in rows for c in _first_iou(f)))
    if classes:
        body = [[d, w, *(_percent(iou.get(c)) for c in classes)] for d, w, f in rows if (iou := _first_iou(f))]
        parts.append(markdown(["IoU, %", "weights", *classes], body))
    for title, found in (
        ("Found of all boxes, by height (pixels):", _box_rows(rows)),
        ("AbsRel and bias (+ = too far) of depth, by class and true depth (m):", _depth_rows(rows)),
    ):
        if found:
            parts.append(f"{title}\n\n{markdown(*found)}")
    return "\n".join(parts)


def _report_rows(report: dict[str, Any]) -> Iterator[Row]:
    """Yield (data, weights, metrics), with the networks of a data set in consecutive rows; of all data sets at the end."""
    names = list(dict.fromkeys(part["name"] for run in report["runs"] for part in run["datasets"]))
    for name in names:
        for run in report["runs"]:
            yield from ((name, run["weights"], part) for part in run["datasets"] if part["name"] == name)
    if len(names) > 1:
        yield from ((ALL, run["weights"], run["overall"]) for run in report["runs"] if run["overall"])


def _class_sets(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(name for _, _, metrics in rows for name in metrics["segmentation"]))


def _metrics_table(rows: Sequence[Row]) -> str:
    names = _class_sets(rows)
    columns: list[tuple[str, Callable[[dict[str, Any]], str]]] = [("frames", lambda f: str(f["frames"]))]
    for name in names:
        columns.append((f"mIoU {name} %", lambda f, n=name: _number(f["segmentation"].get(n), "mIoU", 100, 1)))  # type: ignore[misc]
    if names:
        columns.append(("pixels %", lambda f: _number(next(iter(f["segmentation"].values()), None), "pixel_accuracy", 100, 1)))
    if any(metrics["calibration"] for _, _, metrics in rows):
        columns.append(("ECE %", lambda f: _number(f["calibration"], "ECE", 100, 1)))
    if any(metrics["depth"] for _, _, metrics in rows):
        columns.append(("depth frames", lambda f: str(f["depth_frames"])))
        for title, key, factor, digits in DEPTH_COLUMNS:
            columns.append((title, lambda f, k=key, x=factor, d=digits: _number(f["depth"], k, x, d)))  # type: ignore[misc]
        if any(metrics["depth"] and metrics["depth"]["coverage"] < 1 for _, _, metrics in rows):
            columns.append(("coverage %", lambda f: _number(f["depth"], "coverage", 100, 2)))
    if any(metrics.get("agreement") for _, _, metrics in rows):
        columns.append(("as fp32 %", lambda f: _number(f if f.get("agreement") else None, "agreement", 100, 2)))
    columns.append(("ms", lambda f: _number(f, "latency_ms", 1, 1)))
    header = ["data", "weights", *(title for title, _ in columns)]
    return markdown(header, [[data, weights, *(cell(f) for _, cell in columns)] for data, weights, f in rows])


def _class_table(rows: Sequence[Row], name: str) -> str:
    chosen = [(data, weights, f["segmentation"][name]) for data, weights, f in rows if name in f["segmentation"]]
    if len({data for data, _, _ in chosen}) == 2:
        chosen = [row for row in chosen if row[0] != ALL]  # Would repeat the only data set with labels.
    classes = list(chosen[0][2]["IoU"])
    body = [[data, weights, *(_number(score["IoU"], c, 100, 1) for c in classes)] for data, weights, score in chosen]
    return markdown(["data", "weights", *classes], body)


def _depth_rows(rows: Sequence[Row]) -> Table | None:
    """Return header and rows of depth errors by class and distance, by data set; None without any."""
    chosen = [(data, weights, table) for data, weights, f in rows if data != ALL for table in f["depth_by_class"]]
    if not chosen:
        return None
    body = [
        [data, weights, name, *(_depth_cell(*cell) for cell in zip(errors, t["bias"][name], t["pixels"][name], strict=True))]
        for data, weights, t in chosen
        for name, errors in t["abs_rel"].items()
        if t["pixels"][name][-1] >= MIN_PIXELS
    ]
    return ["data", "weights", "class", *chosen[0][2]["bins_m"]], body


def _box_rows(rows: Sequence[Row]) -> Table | None:
    """Return header and rows of found boxes by class and height, by data set; None without any."""
    chosen = [(data, weights, f["boxes"]) for data, weights, f in rows if data != ALL and f["boxes"]]
    if not chosen:
        return None
    body = [
        [data, weights, name, *(f"{n} of {count}" if count else NONE for n, count in zip(found, b["boxes"][name], strict=True))]
        for data, weights, b in chosen
        for name, found in b["found"].items()
    ]
    return ["data", "weights", "class", *chosen[0][2]["bins_px"]], body


def _depth_cell(error: float | None, bias: float | None, pixels: int) -> str:
    if error is None or bias is None or pixels < MIN_PIXELS:
        return NONE
    return f"{error:.3f} {100 * bias:+.0f} %"


def _number(values: dict[str, Any] | None, key: str, factor: float, digits: int) -> str:
    value = None if values is None else values[key]
    return NONE if value is None else f"{factor * value:.{digits}f}"


def _card_metrics(data: str, metrics: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield title and text of each metric of a data set."""
    for name, score in metrics["segmentation"].items():
        yield f"{data}: mIoU, {len(score['IoU'])} classes ({name})", f"{_percent(score['mIoU'], 1)} %"
    if calibration := metrics["calibration"]:
        yield f"{data}: ECE of the confidence", f"{_percent(calibration['ECE'], 1)} %"
    if depth := metrics["depth"]:
        text = f"{depth['abs_rel']:.3f}, {depth['rmse']:.2f} m, {_percent(depth['delta1'])} %"
        yield f"{data}: AbsRel, RMSE, delta < 1.25 ({metrics['depth_frames']} frames)", text


def _first_iou(metrics: dict[str, Any]) -> dict[str, float | None]:
    """Return the IoU of each class in the first class set, which has the most classes; empty without labels."""
    return next((score["IoU"] for score in metrics["segmentation"].values()), {})


def _percent(value: float | None, digits: int = 0) -> str:
    return NONE if value is None else f"{100 * value:.{digits}f}"


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a markdown table: the first two columns left-aligned, the others right-aligned."""
    widths = [max(3, *(len(row[i]) for row in (header, *rows))) for i in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        padded = [
            cell.ljust(width) if i < 2 else cell.rjust(width) for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return "| " + " | ".join(padded) + " |\n"

    rule = [("-" * width if i < 2 else "-" * (width - 1) + ":") for i, width in enumerate(widths)]
    return line(header) + line(rule) + "".join(line(row) for row in rows)
