"""`bench`: that it measures what it says; not how fast anything is."""

from __future__ import annotations

import json

import pytest

from mtl_perception.__main__ import main


def test_table_and_json(tmp_path, weights_file, capsys):
    arguments = ["--size", "48x32", "--runs", "3", "--json", str(tmp_path / "b.json"), "--no-warm-up", "--device", "cpu"]
    assert main(["bench", *arguments, "--weights", str(weights_file)]) == 0
    written = json.loads((tmp_path / "b.json").read_text())
    assert written["runs"] == 3
    assert (written["machine"]["precision"], written["machine"]["weights"]) == ("fp32", str(weights_file))
    stages = written["sizes"]["48x32"]
    assert all(row["median_ms"] > 0 and row["iqr_ms"] >= 0 for row in stages.values())
    shown = capsys.readouterr().out
    assert "48x32" in shown
    for stage, row in stages.items():
        assert any(
            line.split(stage)[-1].split()[:1] == [f"{row['median_ms']:.2f}"] for line in shown.splitlines() if stage in line
        )


@pytest.mark.parametrize(
    "arguments", [["--runs", "2"], ["--size", "64"], ["--size", "0x9"], ["--size", "9x²"], ["--size", "axb"]]
)
def test_wrong_values(weights_file, arguments, capsys):
    assert main(["bench", *arguments, "--no-warm-up", "--device", "cpu", "--weights", str(weights_file)]) == 2
    assert capsys.readouterr().err.startswith(f"mtl_perception bench: {arguments[0]} ")
