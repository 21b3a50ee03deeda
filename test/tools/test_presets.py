"""Presets of config/, and the tool that measures their accuracy."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import yaml
from support.data import write_kitti2015

from mtl_perception.config import Config, by_name
from tools.benchmarks import presets

ROOT = Path(__file__).parents[2]
# The other file has parameters of Nav2.
PRESETS = sorted(path for path in ROOT.glob("config/*.yaml") if path.name != "nav2_costmap.yaml")


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_preset_values_are_valid(path):
    values = yaml.safe_load(path.read_text())["/**"]["ros__parameters"]
    Config.from_mapping(values)
    kinds = {name: list if by_name(name).type is tuple else by_name(name).type for name in values}
    assert all(type(value) is kinds[name] for name, value in values.items()), "ROS does not convert types"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cpu", ("cpu", "fp32", 1.0, 1.0, 1)),
        ("cpu-realtime", ("cpu", "auto", 1.0, 1.0, 2)),
        ("cpu-small", ("cpu", "fp32", 0.5, 0.5, 1)),
    ],
)
def test_presets_for_a_cpu_differ_in_arithmetic_and_size(name, expected):
    config = presets.read_preset(ROOT / f"config/{name}.yaml")
    assert (config.device, config.precision, config.input_scale, config.output_scale, config.points_stride) == expected


def test_tool_reports_accuracy_and_agreement(tmp_path, weights_file, monkeypatch, capsys):
    data = write_kitti2015(tmp_path / "data", [0, 1])
    sets = tmp_path / "set.yaml"
    sets.write_text(f"sets:\n  - {{path: {data}, format: kitti2015, name: tiny}}\n")
    out = tmp_path / "out"
    arguments = ["--data", str(sets), "--weights", str(weights_file), "--out", str(out), "--limit", "1"]
    monkeypatch.setattr(sys, "argv", ["presets", *arguments])
    assert presets.main() == 0
    rows = json.loads((out / "presets.json").read_text())["presets"]
    assert list(rows) == ["cpu", "cpu-realtime", "cpu-small"]
    assert (rows["cpu"]["labels_agree"], rows["cpu"]["depth_difference"]) == (1, 0), "the preset cpu is the reference itself"
    assert rows["cpu-realtime"]["labels_agree"] == 1, "weights without certificates run in fp32"
    assert rows["cpu-small"]["labels_agree"] < 1
    assert [row["arithmetic"] for row in rows.values()] == ["fp32"] * 3
    assert rows["cpu"]["ratio"] == 1 and all(row["latency_ms"] > 0 and row["ratio"] > 0 for row in rows.values())
    assert all({"mIoU", "abs_rel", "rmse_m", "frames"} <= row.keys() and row["frames"] == 1 for row in rows.values())
    assert capsys.readouterr().out == (out / "presets.md").read_text()
    monkeypatch.setattr(sys, "argv", ["presets", "--data", str(tmp_path / "none.yaml")])
    assert presets.main() == 1
    assert "none.yaml" in capsys.readouterr().err
