"""Latency of the node among other processes: camera, node and subscriber, as in operation."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

from tools.gpu.bench import Bench, size_text
from tools.gpu.report import Report

ROOT = Path(__file__).parents[2]
RATES = (10.0, 30.0, 100.0)
SECONDS = 3.0
"""Duration at each rate."""
OUTPUTS = ("segmentation/labels", "depth/image", "points")
PATIENCE = 120.0
"""Seconds that starting the processes may take."""


def time_node(bench: Bench, report: Report) -> None:
    """Time `tools.benchmarks.node`: from an image's stamp to the arrival of its outputs in another process."""
    if find_spec("rclpy") is None:
        report.skip("node", "rclpy is not installed")
        return
    rates, seconds = (RATES[:1], 2.0) if bench.is_small else (bench.args.node or RATES, SECONDS)
    with tempfile.TemporaryDirectory() as folder:
        figures = Path(folder) / "node.json"
        command = [sys.executable, "-m", "tools.benchmarks.node", "stream", "--size", size_text(bench.sizes[0])]
        command += ["--rate", *map(str, rates), "--seconds", str(seconds), "--outputs", ",".join(OUTPUTS)]
        command += ["--json", str(figures)]
        if not bench.on_cpu:
            command += ["--params", str(ROOT / "config" / "gpu.yaml")]
        limit = PATIENCE + len(rates) * (seconds + 20)
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=limit, check=False)
        if done.returncode:
            last = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
            report.fail("node", f"exit code {done.returncode}: {last}")
            return
        results = json.loads(figures.read_text())["results"]
    for measured in results["rates"]:
        node = measured["node"]["camera"]
        for topic, row in measured["topics"].items():
            report.delivery(measured["rate_hz"], topic, row, node)
