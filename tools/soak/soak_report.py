"""Reads the records of tools/soak/soak.py, judges them, and writes report.json, report.txt and plot.png beside them."""

from __future__ import annotations

import csv
import itertools
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import soak_accounts as accounts
import soak_plot
import soak_trends as trends
from soak_accounts import Check

OUTPUTS = ("subscriber", "topic", "number", "stamp_ns", "latency_us", "height", "width")
"""Columns of outputs.csv."""
CLEANUPS_LEAST = 8
"""Of fewer nothing can be said."""
REPORTS = ("report.json", "report.txt", "plot.png")


def write(folder: Path) -> int:
    """Judge the records in a folder.

    Returns:
        0 if all holds, 1 if anything fails.
    """
    report = judge(folder)
    text = as_text(report)
    (folder / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    (folder / "report.txt").write_text(text)
    samples = read_samples(folder)
    if len(samples["seconds"]) > 1:
        samples["clean_mib"] = after_cleanups(folder, samples["seconds"])
        picture = soak_plot.plot(samples, trends.judged_from(samples["seconds"]))
        cv2.imwrite(str(folder / "plot.png"), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    print(text)
    return 0 if report["holds"] else 1


def judge(folder: Path) -> dict[str, Any]:
    """All checks, the figures they stand on, and the trends."""
    run = json.loads((folder / "run.json").read_text())
    outputs = [
        accounts.Output(
            int(row["subscriber"]),
            row["topic"],
            int(row["number"]),
            int(row["stamp_ns"]),
            (int(row["width"]), int(row["height"])),
        )
        for row in read_table(folder / "outputs.csv")
    ]
    # After the outputs: of a run that goes on, no output may be of a picture that was not read.
    pictures = [
        accounts.Picture(int(row["number"]), int(row["sent_ns"]), int(row["stamp_ns"]), row["broken"], int(row["run"]))
        for row in read_table(folder / "camera.csv")
    ]
    events = list(read_events(folder / "events.jsonl"))
    seen = {output.number for output in outputs}
    checks = accounts.check_outputs(pictures, outputs)
    totals: Counter[str] = Counter()
    for number, configuration in enumerate(accounts.configurations(events, run["started_ns"]), 1):
        found, figures = accounts.check_configuration(f"configuration {number}", configuration, pictures, seen)
        checks += found
        totals.update(figures)
    checks += [*accounts.check_events(events), *check_processes(run, folder / "node.log")]
    samples = read_samples(folder)
    grown = judge_trends(samples, events, run.get("ready_ns", run["started_ns"]))
    checks += [
        Check(
            name,
            row.holds,
            f"grew {row.growth:.3g} ± {abs(row.error / (row.slope or 1) * row.growth):.2g}, allowed {row.allowed:.3g}",
        )
        for name, row in grown.items()
    ]
    return {
        "holds": all(check.holds for check in checks),
        "seconds": samples["seconds"][-1] if len(samples["seconds"]) else 0.0,
        "pictures": {"sent": len(pictures), "broken": sum(bool(picture.broken) for picture in pictures), **totals},
        "outputs": Counter(output.topic for output in outputs),
        "subscribers": len({output.subscriber for output in outputs}),
        "camera runs": run.get("camera_runs", 0),
        "stamps that went back": sum(a.stamp_ns > b.stamp_ns for a, b in itertools.pairwise(pictures)),
        "trends": {name: asdict(row) for name, row in grown.items()},
        "checks": [asdict(check) for check in checks],
    }


def judge_trends(samples: dict[str, np.ndarray], events: list[dict[str, Any]], started_ns: int) -> dict[str, trends.Trend]:
    """Of every sampled figure, and of what was left after each cleanup; none where the run was too short."""
    begin = trends.judged_from(samples["seconds"])
    if begin is None:
        return {}
    part = samples["seconds"] >= begin
    judged = {name: trends.trend(name, samples["seconds"][part], samples[name][part]) for name in trends.ALLOWED}
    clean = [(at, event) for at, event in cleanups(events, started_ns) if at >= begin]
    if len(clean) >= CLEANUPS_LEAST:
        seconds = np.array([at for at, _ in clean])
        for name in trends.CLEAN:
            values = np.array([float(event[name.removeprefix("clean_")]) for _, event in clean])
            judged[name] = trends.trend(name, seconds, values)
    return judged


def check_processes(run: dict[str, Any], log: Path) -> list[Check]:
    """Node and checker lived to the end, and left nothing."""
    exits = run.get("exits")
    if exits is None:
        return [Check("processes", False, "the run was cut off")]
    wrong = {name: row for name, row in exits.items() if name != "camera" and (row["ended_by_itself"] or row["code"] != 0)}
    missing = {"node", "checker"} - set(exits)
    traces = log.read_text(errors="replace").count("Traceback")
    left = run.get("segments_left", [])
    return [
        Check("processes", not wrong and not missing, f"ended: {exits}"),
        Check("log", not traces, f"tracebacks in the node's log: {traces}"),
        Check("shared memory", not left, f"segments left: {left or 'none'}"),
    ]


def as_text(report: dict[str, Any]) -> str:
    """For people."""
    lines = [
        f"soak of {report['seconds'] / 3600:.2f} h: {'all holds' if report['holds'] else 'FAILED'}",
        "",
        "pictures: " + ", ".join(f"{name} {count}" for name, count in report["pictures"].items()),
        "outputs: " + ", ".join(f"{name} {count}" for name, count in report["outputs"].items()),
        f"subscribers {report['subscribers']}, camera started {report['camera runs']} times, "
        f"its stamps went back {report['stamps that went back']} times",
        "",
    ]
    if report["trends"]:
        lines.append(f"{'figure':<20}{'median':>10}{'an hour':>12}{'+-':>10}{'growth':>10}{'steady':>10}{'allowed':>10}")
        for name, row in report["trends"].items():
            cells = (row["median"], row["slope"], row["error"], row["growth"], row["steady"], row["allowed"])
            widths = (10, 12, 10, 10, 10, 10)
            line = "".join(f"{cell:>{width}.3g}" for cell, width in zip(cells, widths, strict=True))
            lines.append(f"{name:<20}{line}{'' if row['holds'] else '   GROWS'}")
    else:
        lines.append("trends: not judged, the run was too short")
    lines.append("")
    lines += [f"{'ok  ' if check['holds'] else 'FAIL'} {check['name']}: {check['text']}" for check in report["checks"]]
    return "\n".join(lines) + "\n"


def after_cleanups(folder: Path, seconds: np.ndarray) -> np.ndarray:
    """Memory of its own that the node had after a cleanup, MiB, at the sample that is next to it; NaN at the others."""
    run = json.loads((folder / "run.json").read_text())
    values = np.full(len(seconds), np.nan)
    for at, event in cleanups(read_events(folder / "events.jsonl"), run.get("ready_ns", run["started_ns"])):
        values[np.abs(seconds - at).argmin()] = event["mib"]
    return values


def cleanups(events: Iterable[dict[str, Any]], started_ns: int) -> Iterator[tuple[float, dict[str, Any]]]:
    """What was left after each cleanup, with the seconds since the start of sampling."""
    return (((event["t_ns"] - started_ns) / 1e9, event) for event in events if event["event"] == "clean")


def read_table(path: Path) -> Iterator[dict[str, str]]:
    """Rows of a table; the last one is left out if it was cut off."""
    with path.open(newline="") as file:
        for row in csv.DictReader(line for line in file if line.endswith("\n")):
            if None not in row.values():
                yield row


def read_events(path: Path) -> Iterator[dict[str, Any]]:
    """Likewise, of the checker's events."""
    if path.exists():
        for line in path.read_text().splitlines(keepends=True):
            if line.endswith("\n"):
                yield json.loads(line)


def read_samples(folder: Path) -> dict[str, np.ndarray]:
    """Columns of samples.csv; NaN where there is no value."""
    path = folder / "samples.csv"
    rows = list(read_table(path)) if path.exists() else []
    names = ("seconds", "cpu_seconds", "outputs", *trends.ALLOWED)
    return {name: np.array([float(row[name] or "nan") for row in rows]) for name in names}
