"""What tools/gpu/prove_gpu.py proved and measured, as it is printed and as it is kept."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np

TARGETS_MS = {"fp16, 1242x375": 1.5, "batch of 8, fp16, 1242x375": 3.0}


class Report:
    """What was proven and measured."""

    def __init__(self) -> None:
        self.proofs: list[dict[str, Any]] = []
        self.times: list[dict[str, Any]] = []

    def prove(self, name: str, holds: bool, detail: str) -> None:
        self.proofs.append({"proof": name, "holds": bool(holds), "detail": detail})
        print(f"  {'holds' if holds else 'FAILS'}  {name}: {detail}", flush=True)

    def time(self, name: str, seconds: Sequence[float], per: int = 1) -> None:
        low, middle, high = statistics.quantiles([1000 * value / per for value in seconds], n=4)
        row = {"what": name, "median_ms": round(middle, 3), "iqr_ms": round(high - low, 3), "target_ms": TARGETS_MS.get(name)}
        row["p99_ms"] = round(1000 * float(np.percentile(seconds, 99)) / per, 3)
        self.times.append(row)
        print(f"  {name:<52}{row['median_ms']:>9.3f}{row['iqr_ms']:>9.3f}{row['p99_ms']:>9.3f}  {_against(row)}", flush=True)

    @property
    def holds(self) -> bool:
        return all(row["holds"] for row in self.proofs)

    def markdown(self, machine: dict[str, Any]) -> str:
        lines = ["# Proofs and times of the device path", "", ", ".join(f"{k}: {v}" for k, v in machine.items()), ""]
        lines += ["| proof | | |", "|---|---|---|"]
        lines += [f"| {row['proof']} | {'holds' if row['holds'] else '**fails**'} | {row['detail']} |" for row in self.proofs]
        lines += ["", "| host to host | median ms | iqr | p99 | target |", "|---|---|---|---|---|"]
        lines += [
            f"| {row['what']} | {row['median_ms']} | {row['iqr_ms']} | {row['p99_ms']} | {_against(row)} |"
            for row in self.times
        ]
        return "\n".join(lines) + "\n"


def _against(row: dict[str, Any]) -> str:
    target = row["target_ms"]
    return "" if target is None else f"target {target} ms: {'met' if row['median_ms'] <= target else 'missed'}"
