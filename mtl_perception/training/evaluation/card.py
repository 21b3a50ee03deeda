"""Tables of a model card, in Markdown, as in docs/models.md."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mtl_perception.training.evaluation.tables import ALL, NONE, box_rows, depth_rows, markdown, report_rows

DEPTH = "AbsRel and bias (+ = too far) of depth, by class and true depth (m):"


def card_tables(report: dict[str, Any]) -> str:
    """Return the tables of a model card: a row per metric and a column per network, then IoU, boxes and depth by class.

    Args:
        report: Content of metrics.json.
    """
    rows = [row for row in report_rows(report) if row[0] != ALL]
    networks = [run["weights"] for run in report["runs"]]
    cells: dict[str, dict[str, str]] = {}
    for data, weights, metrics in rows:
        for title, text in _metrics(data, metrics):
            cells.setdefault(title, {})[weights] = text
    header = ["metric", *(f"`{weights}`" for weights in networks)]
    tables = [markdown(header, [[title, *(row.get(w, NONE) for w in networks)] for title, row in cells.items()])]
    classes = list(dict.fromkeys(c for _, _, f in rows for c in _first_iou(f)))
    if classes:
        body = [[d, w, *(_percent(iou.get(c)) for c in classes)] for d, w, f in rows if (iou := _first_iou(f))]
        tables.append(markdown(["IoU, %", "weights", *classes], body))
    for title, found in (("Found of all boxes, by height (pixels):", box_rows(rows)), (DEPTH, depth_rows(rows))):
        if found:
            tables.append(f"{title}\n\n{markdown(*found)}")
    return "\n".join(tables)


def _metrics(data: str, metrics: dict[str, Any]) -> Iterator[tuple[str, str]]:
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
