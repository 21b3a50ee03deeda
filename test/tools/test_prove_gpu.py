"""The tool that proves the device path on a GPU: that its proofs can hold and can fail; not how fast anything is."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest
import torch

TOOLS = Path(__file__).parents[2] / "tools" / "gpu"


@pytest.fixture(scope="module")
def tool():
    sys.path.insert(0, str(TOOLS))
    yield importlib.import_module("prove_gpu")
    sys.path.remove(str(TOOLS))
    for name in ("prove_gpu", "prove_gpu_bench", "prove_gpu_report", "prove_gpu_times"):
        del sys.modules[name]


def test_on_cpu_tensors_every_proof_holds(tool, tmp_path, capsys):
    assert tool.main(["--device", "cpu", "--out", str(tmp_path)]) == 0, capsys.readouterr()
    written = json.loads((tmp_path / "report.json").read_text())
    proofs = {row["proof"]: row for row in written["proofs"]}
    assert all(row["holds"] for row in proofs.values())
    for part in (
        "agrees with float32 on the CPU: fp32, 96x64",
        "graph and eager",
        "overlapped",
        "a batch of 3",
        "out of memory",
    ):
        assert any(name.startswith(part) for name in proofs), part
    assert "forced: no capture" in proofs["a capture fails: eager, same bytes, and it says so"]["detail"]
    assert {row["what"] for row in written["times"]} >= {"fp32, 96x64", "overlapped, each of 2, fp32, 96x64"}
    assert "| memory stays flat | holds |" in (tmp_path / "report.md").read_text()


def test_a_proof_that_fails_is_told_and_ends_with_1(tool, tmp_path, capsys, monkeypatch, weights_file):
    monkeypatch.setattr(tool, "PROOFS", (tool.prove_agreement,))
    monkeypatch.setattr(tool, "time_all", lambda *_: None)
    monkeypatch.setattr(tool, "DEPTH_TOLERANCE", -1.0)
    assert tool.main(["--device", "cpu", "--out", str(tmp_path), "--weights", str(weights_file)]) == 1
    assert "prove_gpu: fails: agrees with float32 on the CPU: fp32, 96x64" in capsys.readouterr().err
    assert "**fails**" in (tmp_path / "report.md").read_text()


def test_targets_stand_beside_the_times(tool, capsys):
    report = tool.Report()
    report.time("fp16, 1242x375", [0.0012] * 5)
    report.time("batch of 8, fp16, 1242x375", [0.0042] * 5)
    shown = capsys.readouterr().out
    assert "target 1.5 ms: met" in shown and "target 3.0 ms: missed" in shown
    assert report.holds


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_without_a_gpu_it_says_so_in_one_line(tool, capsys):
    assert tool.main([]) == 1
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1
    assert "no CUDA device" in printed.err
