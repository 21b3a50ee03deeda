"""The configurations in docs/hydra.md against the classes of the node and the keys in Hydra's sources (commits named there)."""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from mtl_perception.labels import STREET, parse_groups

TEXT = (Path(__file__).resolve().parents[2] / "docs/hydra.md").read_text(encoding="utf-8")
INPUT, SPACE, GROUPS, REMAP, GROUPING = (yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL))
# Ids in Hydra's kitti_360_label_space.yaml.
KITTI_360 = {"road": 7, "sidewalk": 8, "terrain": 22, "building": 11, "fence": 13, "pole": 17, "sign": 20, "vegetation": 21}
KITTI_360 |= {"sky": 23, "person": 24, "cyclist": 25, "vehicle": 43}


def test_input_has_the_keys_of_the_sensor() -> None:
    (sensor,) = INPUT["input"]["inputs"].values()
    assert sensor["receiver"] == {"type": "ClosedSetImageReceiver"}
    assert INPUT["input"]["type"] == "RosInput"
    expected = {"type", "min_range", "max_range", "extrinsics", "width", "height", "cx", "cy", "fx", "fy"}
    assert set(sensor["sensor"]) == expected
    assert 0 < sensor["sensor"]["min_range"] < sensor["sensor"]["max_range"]


def test_label_space_is_that_of_street() -> None:
    lists = {"dynamic_labels", "invalid_labels", "object_labels", "surface_places_labels"}
    assert set(SPACE) == {"total_semantic_labels", "label_names", *lists}
    assert SPACE["total_semantic_labels"] == len(STREET)
    assert [(row["label"], row["name"]) for row in SPACE["label_names"]] == list(enumerate(STREET.names))
    assert all(label in (*range(len(STREET)), 255) for name in lists for label in SPACE[name])
    assert [STREET.names[label] for label in SPACE["dynamic_labels"]] == ["person", "cyclist", "vehicle"]
    assert SPACE["invalid_labels"] == [STREET.names.index("sky"), 255]


def test_remap_leads_to_the_same_classes_of_kitti_360() -> None:
    assert {STREET.names[row["sub_id"]]: row["super_id"] for row in REMAP} == KITTI_360


def test_grouping_equals_the_groups_of_the_node() -> None:
    mapping = parse_groups(GROUPS["class_groups"], STREET)
    assert tuple(group["name"] for group in GROUPING["groups"]) == mapping.classes.names
    found = {label + GROUPING["offset"]: index for index, group in enumerate(GROUPING["groups"]) for label in group["labels"]}
    assert found == mapping.ids


def test_script_writes_the_colors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    (script,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    (tmp_path / "classes.json").write_text(json.dumps(STREET.records()))
    monkeypatch.chdir(tmp_path)
    exec(script, {"sys": sys})
    rows = list(csv.reader(io.StringIO(capsys.readouterr().out)))
    assert rows[0] == ["name", "red", "green", "blue", "alpha", "id"]
    assert rows[1] == ["road", "128", "64", "128", "255", "0"]
    assert len(rows) == 1 + len(STREET)
