"""The tool for a GPU: its proofs can hold and can fail, and what it has is kept; not how fast anything is."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from mtl_perception.inference.cuda.backend import CudaBackend
from tools.gpu import __main__ as tool
from tools.gpu import node, proofs
from tools.gpu.report import Report

ROOT = Path(__file__).parents[2]
SMALL = ["--device", "cpu", "--small"]


def read(folder: Path) -> dict:
    return json.loads((folder / "report.json").read_text())


@pytest.mark.slow
def test_on_cpu_tensors_every_proof_holds_and_every_part_ends(tmp_path, capsys, monkeypatch):
    # As on a GPU, where the backend's name ends with the kernels'.
    name = CudaBackend.name.fget
    monkeypatch.setattr(CudaBackend, "name", property(lambda self: f"{name(self)}, Triton"))
    assert tool.main([*SMALL, "--out", str(tmp_path)]) == 0, capsys.readouterr()
    written = read(tmp_path)
    rows = {row["proof"]: row for row in written["proofs"]}
    assert all(row["holds"] for row in rows.values()) and written["failures"] == []
    for part in (
        "agrees with float32 on the CPU: fp32, 96x64",
        "graph and eager",
        "overlapped",
        "a batch of 3",
        "out of memory",
    ):
        assert any(name.startswith(part) for name in rows), part
    detail = rows["a capture fails: eager, same bytes, and it says so"]["detail"]
    assert detail.startswith("cpu eager, Triton: ") and "forced: no capture" in detail
    times = {row["what"] for row in written["times"]}
    assert times >= {
        "labels, depth, cloud, fp32, 96x64",
        "depth, fp32, 96x64",
        "batch of 3, labels, depth, fp32, 96x64",
        "stream of 2, each, labels, depth, cloud, fp32, 96x64",
    }
    assert any("conv" in row["kernel"] for row in written["kernels"])
    text = (tmp_path / "report.md").read_text()
    assert "| memory stays flat | holds |" in text and "| kernel |" in text


def test_the_node_is_timed_at_each_rate(tmp_path, capsys, monkeypatch):
    commands = []

    def run(command, **_):
        commands.append(command)
        topic = {"sent": 30, "lost": 2, "median_ms": 4.5, "p99_ms": 6.0}
        counts = {"processed": 29, "replaced": 1}
        rates = [{"rate_hz": rate, "topics": {"/points": topic}, "node": {"camera": counts}} for rate in (10.0, 30.0)]
        Path(command[command.index("--json") + 1]).write_text(json.dumps({"results": {"rates": rates}}))
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(node, "find_spec", lambda name: object())
    monkeypatch.setattr(node.subprocess, "run", run)
    options = ["--device", "cpu", "--only", "node", "--node", "10", "30", "--out", str(tmp_path)]
    assert tool.main(options) == 0
    (command,) = commands
    assert command[command.index("--rate") + 1 :][:2] == ["10.0", "30.0"] and "1242x375" in command
    assert "| 30.0 | /points | 30 | 29 | 1 | 2 | 4.5 | 6.0 |" in (tmp_path / "report.md").read_text()
    failed = subprocess.CompletedProcess([], 1, "", "Traceback\ntimed out after 60 s\n")
    monkeypatch.setattr(node.subprocess, "run", lambda command, **_: failed)
    assert tool.main(options) == 1
    assert read(tmp_path)["failures"] == ["node: exit code 1: timed out after 60 s"]


def test_the_node_is_skipped_without_rclpy(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(node, "find_spec", lambda name: None)
    assert tool.main([*SMALL, "--only", "node", "--out", str(tmp_path)]) == 0
    assert read(tmp_path)["skipped"] == ["node: rclpy is not installed"]
    assert "| node | skipped | rclpy is not installed |" in (tmp_path / "report.md").read_text()


def test_a_failed_proof_and_a_failed_part_are_reported_and_the_rest_runs(tmp_path, capsys, monkeypatch, weights_file):
    def broken(bench, report):
        report.prove("before the error", True, "")
        raise RuntimeError("CUDA error: an illegal memory access\nmore")

    parts = {"broken": broken, "agreement": proofs.prove_agreement}
    monkeypatch.setattr(tool, "PARTS", parts)
    monkeypatch.setattr(proofs, "DEPTH_TOLERANCE", -1.0)
    assert tool.main([*SMALL, "--out", str(tmp_path), "--weights", str(weights_file)]) == 1
    error = capsys.readouterr().err
    assert "tools.gpu: fails: agrees with float32 on the CPU: fp32, 96x64" in error
    assert "broken: RuntimeError: CUDA error: an illegal memory access more" in error
    assert read(tmp_path)["failures"] == ["broken: RuntimeError: CUDA error: an illegal memory access more"]
    text = (tmp_path / "report.md").read_text()
    assert "**fails**" in text and "| broken | **did not end** | RuntimeError" in text


def test_a_killed_run_leaves_its_rows(tmp_path):
    running = subprocess.Popen([sys.executable, "-m", "tools.gpu", *SMALL, "--out", str(tmp_path)], cwd=ROOT)
    try:
        for _ in range(1200):
            if (tmp_path / "report.json").is_file() and read(tmp_path)["proofs"]:
                break
            time.sleep(0.1)
    finally:
        running.kill()
        running.wait()
    assert read(tmp_path)["proofs"] and (tmp_path / "report.md").is_file()


def test_no_part_begins_after_the_limit(tmp_path, capsys):
    assert tool.main([*SMALL, "--out", str(tmp_path), "--limit", "-1"]) == 1
    assert all("not begun: the time was over" in failure for failure in read(tmp_path)["failures"])
    assert len(read(tmp_path)["failures"]) == len(tool.PARTS) - len(tool.ONLY_CUDA)


def test_targets_stand_beside_the_times(tmp_path, capsys):
    report = Report(tmp_path, {"device": "none"})
    report.time("labels, depth, cloud, fp16, 1242x375", [0.0012] * 5)
    report.time("batch of 8, labels, depth, fp16, 1242x375", [0.0062] * 5)
    shown = capsys.readouterr().out
    assert "target 1.4 ms: met" in shown and "target 5.0 ms: missed" in shown
    assert report.holds


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_without_a_gpu_it_says_so_in_one_line(capsys):
    assert tool.main([]) == 1
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1
    assert "finds no CUDA device" in printed.err
