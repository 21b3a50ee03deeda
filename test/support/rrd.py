"""Content of recordings for Rerun, read by Rerun's own reader."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mtl_perception.visualization.rerun import FRAME, STAMP


def read_rrd(path: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of each entity in the order of the timeline `frame`: values by "Archetype:field" and by timeline."""
    from rerun.chunk import RrdReader

    rows: dict[str, list[dict[str, Any]]] = {}
    for chunk in RrdReader(path).stream():
        batch = chunk.to_record_batch()
        columns = {name: batch.column(name) for name in batch.schema.names if "RowId" not in name}
        if STAMP in columns:
            # Python's datetime has no nanoseconds.
            columns[STAMP] = columns[STAMP].cast("int64")
        values = {name: column.to_pylist() for name, column in columns.items()}
        for index in range(chunk.num_rows):
            row = {name: column[index] for name, column in values.items() if column[index] is not None}
            rows.setdefault(chunk.entity_path, []).append(row)
    for found in rows.values():
        found.sort(key=lambda values: values.get(FRAME, -1))
    return rows


def pixels(row: dict[str, Any], archetype: str, dtype: str) -> np.ndarray:
    """Return the H x W image of a row."""
    (size,) = row[f"{archetype}:format"]
    (data,) = row[f"{archetype}:buffer"]
    return np.array(data, np.uint8).view(dtype).reshape(size["height"], size["width"])
