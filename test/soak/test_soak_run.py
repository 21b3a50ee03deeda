"""Soak runs: processes, shutdown and records."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

pytest.importorskip("rclpy", reason="needs rclpy")

from tools.soak import report

ROOT = Path(__file__).parents[2]
TIMEOUT = 240.0


def start(out: Path, weights: Path, *arguments: str) -> subprocess.Popen[bytes]:
    with (out.parent / "soak.out").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "tools.soak", "--out", str(out), "--weights", str(weights), *arguments],
            cwd=ROOT,
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def wait_for(condition, what: str):
    deadline = time.monotonic() + TIMEOUT
    while not (value := condition()):
        assert time.monotonic() < deadline, f"timed out waiting for {what}"
        time.sleep(0.1)
    return value


def lines(path: Path) -> int:
    return len(path.read_text().splitlines()) if path.exists() else 0


def descendants(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    found = []
    for child in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            # A zombie has exited although its parent has not collected it yet.
            if child.is_running() and child.status() != psutil.STATUS_ZOMBIE:
                found.append(child)
    return found


@pytest.mark.slow
def test_run_stopped_by_ctrl_c_accounts_for_every_image_and_leaves_nothing_behind(tmp_path, weights_file):
    out = tmp_path / "soak"
    soak = start(out, weights_file, "--hours", "1", "--faults", "10", "--period", "0.5")
    try:
        wait_for(lambda: lines(out / "outputs.csv") > 60 or soak.poll() is not None, "outputs")
        wait_for(lambda: lines(out / "samples.csv") > 3, "samples")
        children = descendants(soak.pid)
        soak.send_signal(signal.SIGINT)
        code = soak.wait(TIMEOUT)
    finally:
        soak.kill()
    summary = json.loads((out / "report.json").read_text())
    failed = [check for check in summary["checks"] if not check["passed"]]
    assert (code, failed) == (0, []), (tmp_path / "soak.out").read_text()
    images = summary["images"]
    assert images["received"] == sum(images[n] for n in ("processed", "replaced", "rejected", "without subscriber"))
    assert images["processed"] >= images["seen"] > 0
    bounds = images["published, lower bound"], images["published, upper bound"]
    assert bounds[0] <= images["received"] <= bounds[1] <= images["published"]
    assert "passed" in (out / "report.txt").read_text()
    assert (out / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert not alive(children)
    run = json.loads((out / "run.json").read_text())
    assert run["segments_left"] == []


@pytest.mark.slow
def test_killed_run_ends_its_processes_and_its_records_can_be_judged(tmp_path, weights_file):
    out = tmp_path / "soak"
    soak = start(out, weights_file, "--hours", "1", "--period", "0.5")
    try:
        wait_for(lambda: lines(out / "outputs.csv") > 20 or soak.poll() is not None, "outputs")
        wait_for(lambda: lines(out / "samples.csv") > 3, "samples")
        children = descendants(soak.pid)
        assert len(children) >= 3
    finally:
        soak.kill()
        soak.wait()
    wait_for(lambda: not alive(children), "node, camera and checker to exit")
    summary = report.judge(out)
    failed = {check["name"] for check in summary["checks"] if not check["passed"]}
    assert failed == {"processes"}, summary["checks"]
    assert summary["images"]["received"] > 0
