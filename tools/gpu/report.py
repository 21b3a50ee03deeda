"""Report of proofs and times: printed, and written after every row, so that an interrupted run leaves complete files."""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

TARGETS_MS = {
    "labels, depth, cloud, fp16, 1242x375": 1.4,
    "labels, depth, fp16, 1242x375": 1.1,
    "batch of 8, labels, depth, fp16, 1242x375": 5.0,
    "stream of 32, each, labels, depth, fp16, 1242x375": 1.0,
}
"""Medians on an H100, host to host, by the name of the row."""


class Report:
    """Rows of proofs, times and kernels.

    Args:
        folder: Where report.json and report.md are written; created if needed.
        machine: Device, versions and options.
    """

    def __init__(self, folder: Path, machine: dict[str, Any]) -> None:
        self.machine = machine
        self.proofs: list[dict[str, Any]] = []
        self.times: list[dict[str, Any]] = []
        self.kernels: list[dict[str, Any]] = []
        self.deliveries: list[dict[str, Any]] = []
        self.failures: list[str] = []
        self.skipped: list[str] = []
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._write()

    @property
    def holds(self) -> bool:
        """Whether every proof holds and every part ended."""
        return all(row["holds"] for row in self.proofs) and not self.failures

    def prove(self, name: str, holds: bool, detail: str) -> None:
        """Add a proof."""
        self.proofs.append({"proof": name, "holds": bool(holds), "detail": detail})
        print(f"  {'holds' if holds else 'FAILS'}  {name}: {detail}", flush=True)
        self._write()

    def time(self, name: str, seconds: Sequence[float], per: int = 1) -> None:
        """Add measured times, each of `per` frames."""
        low, middle, high = statistics.quantiles([1000 * value / per for value in seconds], n=4)
        row = {"what": name, "median_ms": round(middle, 3), "iqr_ms": round(high - low, 3), "target_ms": TARGETS_MS.get(name)}
        row["p99_ms"] = round(1000 * float(np.percentile(seconds, 99)) / per, 3)
        self.times.append(row)
        print(f"  {name:<60}{row['median_ms']:>9.3f}{row['iqr_ms']:>9.3f}{row['p99_ms']:>9.3f}  {_against(row)}", flush=True)
        self._write()

    def kernel(self, program: str, name: str, launches: float, microseconds: float) -> None:
        """Add a kernel of a profile: launches and time a frame."""
        row = {"program": program, "kernel": name, "launches": launches, "us": round(microseconds, 1)}
        self.kernels.append(row)
        print(f"  {program:<12}{microseconds:>9.1f} us  x{launches:<5g} {name}", flush=True)
        self._write()

    def delivery(self, rate: float, topic: str, row: dict[str, Any], node: dict[str, int]) -> None:
        """Add a topic of the node: messages and latencies of a subscriber, and what the node counted."""
        row = {"rate_hz": rate, "topic": topic, **row, "processed": node["processed"], "replaced": node["replaced"]}
        self.deliveries.append(row)
        shown = ", ".join(f"{name} {row[name]}" for name in ("sent", "processed", "replaced", "lost", "median_ms", "p99_ms"))
        print(f"  {rate:g} Hz {topic}: {shown}", flush=True)
        self._write()

    def skip(self, part: str, reason: str) -> None:
        """Add a part that cannot run on this machine, which is not a failure."""
        self.skipped.append(f"{part}: {reason}")
        print(f"  skipped  {part}: {reason}", flush=True)
        self._write()

    def fail(self, part: str, reason: str) -> None:
        """Add a part that raised an error or was not started."""
        self.failures.append(f"{part}: {reason}")
        print(f"  FAILS  {part}: {reason}", flush=True)
        self._write()

    def _write(self) -> None:
        content = {
            name: getattr(self, name) for name in ("machine", "proofs", "times", "kernels", "deliveries", "failures", "skipped")
        }
        for name, text in (("report.json", json.dumps(content, indent=1) + "\n"), ("report.md", self._markdown())):
            part = self._folder / f"{name}.part"
            part.write_text(text, encoding="utf-8")
            os.replace(part, self._folder / name)

    def _markdown(self) -> str:
        lines = ["# Proofs and times of the CUDA backend", "", ", ".join(f"{k}: {v}" for k, v in self.machine.items()), ""]
        lines += ["| proof | | |", "|---|---|---|"]
        lines += [f"| {row['proof']} | {'holds' if row['holds'] else '**fails**'} | {row['detail']} |" for row in self.proofs]
        lines += [
            f"| {failure.partition(':')[0]} | **did not end** | {failure.partition(': ')[2]} |" for failure in self.failures
        ]
        lines += [f"| {part.partition(':')[0]} | skipped | {part.partition(': ')[2]} |" for part in self.skipped]
        lines += ["", "| host to host | median ms | iqr | p99 | target |", "|---|---|---|---|---|"]
        lines += [
            f"| {row['what']} | {row['median_ms']} | {row['iqr_ms']} | {row['p99_ms']} | {_against(row)} |"
            for row in self.times
        ]
        lines += ["", "| program | kernel | launches a frame | us a frame |", "|---|---|---|---|"]
        lines += [f"| {row['program']} | `{row['kernel']}` | {row['launches']:g} | {row['us']} |" for row in self.kernels]
        if self.deliveries:
            columns = ("rate_hz", "topic", "sent", "processed", "replaced", "lost", "median_ms", "p99_ms")
            lines += [
                "",
                "From image stamp to arrival:",
                "",
                f"| {' | '.join(columns)} |",
                "|---" * 8 + "|",
            ]
            lines += [f"| {' | '.join(str(row[column]) for column in columns)} |" for row in self.deliveries]
        return "\n".join(lines) + "\n"


def _against(row: dict[str, Any]) -> str:
    target = row["target_ms"]
    return "" if target is None else f"target {target} ms: {'met' if row['median_ms'] <= target else 'missed'}"
