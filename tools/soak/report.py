"""Judge the records of a soak run, and write report.json, report.txt and plot.png next to them."""

from __future__ import annotations

import csv
import itertools
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from mtl_perception.errors import DependencyError
from tools.soak import accounts, plot, trends
from tools.soak.accounts import Check

OUTPUTS = ("subscriber", "topic", "number", "stamp_ns", "latency_us", "height", "width")
"""Columns of outputs.csv."""
MIN_CLEANUPS = 8
"""Cleanups below which their trend is not judged."""
REPORTS = ("report.json", "report.txt", "plot.png")


def write(folder: Path) -> int:
    """Judge the records in a folder, and write and print the report.

    Returns:
        0 if every check passes, 1 otherwise.
    """
    report = judge(folder)
    text = as_text(report)
    (folder / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    (folder / "report.txt").write_text(text)
    samples = read_samples(folder)
    if len(samples["seconds"]) > 1:
        samples["clean_mib"] = after_cleanups(folder, samples["seconds"])
        try:
            plot.draw(samples, trends.warm_up_end(samples["seconds"])).savefig(folder / "plot.png", dpi=100)
        except DependencyError as error:
            print(error)
    print(text)
    return 0 if report["passed"] else 1


def judge(folder: Path) -> dict[str, Any]:
    """Return all checks, the figures behind them, and the trends."""
    run = json.loads((folder / "run.json").read_text())
    outputs = [
        accounts.ReceivedOutput(
            int(row["subscriber"]),
            row["topic"],
            int(row["number"]),
            int(row["stamp_ns"]),
            (int(row["width"]), int(row["height"])),
        )
        for row in read_table(folder / "outputs.csv")
    ]
    # Read after the outputs: in a run that continues, every output read so far then has its image.
    images = [
        accounts.SentImage(int(row["number"]), int(row["sent_ns"]), int(row["stamp_ns"]), row["malformed"], int(row["run"]))
        for row in read_table(folder / "camera.csv")
    ]
    events = list(read_events(folder / "events.jsonl"))
    seen = {output.number for output in outputs}
    checks = accounts.check_outputs(images, outputs)
    totals: Counter[str] = Counter()
    for number, configuration in enumerate(accounts.configurations(events, run["started_ns"]), 1):
        found, figures = accounts.check_configuration(f"configuration {number}", configuration, images, seen)
        checks += found
        totals.update(figures)
    checks += [*accounts.check_events(events), *check_processes(run, folder / "node.log")]
    samples = read_samples(folder)
    judged = judge_trends(samples, events, run.get("ready_ns", run["started_ns"]))
    checks += [
        Check(
            name,
            row.passed,
            f"growth {row.growth:.3g} ± {row.growth_error:.2g}, allowed {row.allowed:.3g}",
        )
        for name, row in judged.items()
    ]
    return {
        "passed": all(check.passed for check in checks),
        "seconds": samples["seconds"][-1] if len(samples["seconds"]) else 0.0,
        "images": {"published": len(images), "malformed": sum(bool(image.malformed) for image in images), **totals},
        "outputs": Counter(output.topic for output in outputs),
        "subscribers": len({output.subscriber for output in outputs}),
        "camera_runs": run.get("camera_runs", 0),
        "backward_stamps": sum(a.stamp_ns > b.stamp_ns for a, b in itertools.pairwise(images)),
        "trends": {name: asdict(row) for name, row in judged.items()},
        "checks": [asdict(check) for check in checks],
    }


def judge_trends(samples: dict[str, np.ndarray], events: list[dict[str, Any]], started_ns: int) -> dict[str, trends.Trend]:
    """Return the trends of all sampled figures and of those after each cleanup; none if the run is too short."""
    begin = trends.warm_up_end(samples["seconds"])
    if begin is None:
        return {}
    part = samples["seconds"] >= begin
    judged = {name: trends.trend(name, samples["seconds"][part], samples[name][part]) for name in trends.ALLOWED}
    clean = [(at, event) for at, event in cleanups(events, started_ns) if at >= begin]
    if len(clean) >= MIN_CLEANUPS:
        seconds = np.array([at for at, _ in clean])
        for name in trends.ALLOWED_AFTER_CLEANUP:
            values = np.array([float(event[name.removeprefix("clean_")]) for _, event in clean])
            judged[name] = trends.trend(name, seconds, values)
    return judged


def check_processes(run: dict[str, Any], log: Path) -> list[Check]:
    """Check that node and checker ran until told to stop, and left no shared memory."""
    exits = run.get("exits")
    if exits is None:
        return [Check("processes", False, "the run was interrupted")]
    wrong = {name: row for name, row in exits.items() if name != "camera" and (row["exited_early"] or row["code"] != 0)}
    missing = {"node", "checker"} - set(exits)
    traces = log.read_text(errors="replace").count("Traceback")
    left = run.get("segments_left", [])
    return [
        Check("processes", not wrong and not missing, f"exits: {exits}"),
        Check("log", not traces, f"tracebacks in the log of the node: {traces}"),
        Check("shared memory", not left, f"segments left: {left or 'none'}"),
    ]


def as_text(report: dict[str, Any]) -> str:
    """Return the report as text."""
    lines = [
        f"soak run of {report['seconds'] / 3600:.2f} h: {'passed' if report['passed'] else 'FAILED'}",
        "",
        "images: " + ", ".join(f"{name} {count}" for name, count in report["images"].items()),
        "outputs: " + ", ".join(f"{name} {count}" for name, count in report["outputs"].items()),
        f"subscribers {report['subscribers']}, starts of the camera {report['camera_runs']}, "
        f"backward steps of its stamps {report['backward_stamps']}",
        "",
    ]
    if report["trends"]:
        lines.append(f"{'figure':<20}{'median':>10}{'per hour':>12}{'+-':>10}{'growth':>10}{'steady':>10}{'allowed':>10}")
        for name, row in report["trends"].items():
            cells = (row["median"], row["slope"], row["error"], row["growth"], row["steady"], row["allowed"])
            widths = (10, 12, 10, 10, 10, 10)
            line = "".join(f"{cell:>{width}.3g}" for cell, width in zip(cells, widths, strict=True))
            lines.append(f"{name:<20}{line}{'' if row['passed'] else '   GROWS'}")
    else:
        lines.append("trends: not judged; the run is too short")
    lines.append("")
    lines += [f"{'ok  ' if check['passed'] else 'FAIL'} {check['name']}: {check['text']}" for check in report["checks"]]
    return "\n".join(lines) + "\n"


def after_cleanups(folder: Path, seconds: np.ndarray) -> np.ndarray:
    """Return private memory after each cleanup, MiB, at the nearest sample; NaN at the other samples."""
    run = json.loads((folder / "run.json").read_text())
    values = np.full(len(seconds), np.nan)
    for at, event in cleanups(read_events(folder / "events.jsonl"), run.get("ready_ns", run["started_ns"])):
        values[np.abs(seconds - at).argmin()] = event["mib"]
    return values


def cleanups(events: Iterable[dict[str, Any]], started_ns: int) -> Iterator[tuple[float, dict[str, Any]]]:
    """Yield the events recorded after each cleanup, with the time since the start of sampling in seconds."""
    return (((event["t_ns"] - started_ns) / 1e9, event) for event in events if event["event"] == "clean")


def read_table(path: Path) -> Iterator[dict[str, str]]:
    """Yield the rows of a CSV file, except for a truncated last row."""
    with path.open(newline="") as file:
        for row in csv.DictReader(line for line in file if line.endswith("\n")):
            if None not in row.values():
                yield row


def read_events(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the events of the checker, except for a truncated last line."""
    if path.exists():
        for line in path.read_text().splitlines(keepends=True):
            if line.endswith("\n"):
                yield json.loads(line)


def read_samples(folder: Path) -> dict[str, np.ndarray]:
    """Return the columns of samples.csv; NaN where there is no value."""
    path = folder / "samples.csv"
    rows = list(read_table(path)) if path.exists() else []
    names = ("seconds", "cpu_seconds", "outputs", *trends.ALLOWED)
    return {name: np.array([float(row[name] or "nan") for row in rows]) for name in names}
