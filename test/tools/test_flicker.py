"""The tool that measures the steadiness of labels and depth."""

from __future__ import annotations

import json
import sys

import cv2
import numpy as np
import pytest
from support.data import write_kitti2015

from mtl_perception import Frame
from mtl_perception.labels import STREET
from mtl_perception.types import Sample
from tools.benchmarks import flicker

SIZE = (96, 160)
SHIFT = 5
MIDDLE = np.s_[16:-16, 24:-24]


def texture(shift: int = 0) -> np.ndarray:
    """Return a random image of which the content is `shift` pixels further to the right."""
    noise = np.random.default_rng(0).integers(0, 256, (SIZE[0], SIZE[1] + 20), np.uint8)
    plane = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 2), None, 0, 255, cv2.NORM_MINMAX)
    return np.repeat(plane[:, 10 - shift : 10 - shift + SIZE[1], None], 3, 2)


def truth(labels: np.ndarray | None = None, depth: np.ndarray | None = None) -> Sample:
    return Sample(Frame(texture()), labels, depth)


@pytest.fixture(scope="module")
def still() -> flicker.Match:
    return flicker.match(texture(), texture())


def test_moved_content_is_found_where_it_was():
    found = flicker.match(texture(), texture(SHIFT))
    columns = np.arange(SIZE[1])
    assert found.valid[MIDDLE].mean() > 0.95
    assert np.abs(columns - SHIFT - found.x)[MIDDLE][found.valid[MIDDLE]].max() < 0.6
    assert not found.valid[:, :2].any(), "this content was outside the image before"


def test_pixels_near_a_border_are_not_inside_a_region():
    labels = np.zeros(SIZE, np.uint8)
    labels[:, 80:] = 1
    inside = flicker.inside_regions(labels)
    assert inside[:, :77].all()
    assert not inside[:, 77:83].any()
    assert inside[:, 83:].all()


def test_changed_labels_are_counted_by_class_and_place(still):
    total = flicker.Steadiness(STREET)
    before = np.zeros(SIZE, np.uint8)
    after = before.copy()
    after[:, 80:] = 11
    depth = np.full(SIZE, 10, np.float32)
    total.update(before, depth, None, truth())
    total.update(after, depth, still, truth())
    report = total.report()
    right = still.valid[:, 80:].sum()
    assert report["changed"] == pytest.approx(right / still.valid.sum())
    assert report["inside"] == pytest.approx(
        still.valid[:, 83:].sum() / (still.valid[:, 83:].sum() + still.valid[:, :77].sum())
    )
    assert report["classes"] == {"road": 0.0, "vehicle": 1.0}
    assert report["depth"] == 0.0
    assert not {"mIoU", "AbsRel"} & set(report)


def test_motion_along_the_axis_is_no_change_of_depth(still):
    before = np.where(np.arange(SIZE[1]) < 80, 10, 20).astype(np.float32) * np.ones(SIZE, np.float32)
    labels = np.zeros(SIZE, np.uint8)
    found = []
    for factor in (1.0, 1.1):
        total = flicker.Steadiness(STREET)
        total.update(labels, before, None, truth())
        after = before - 1
        after[:, 100:] *= factor
        # Two thirds of the rest decide about the motion.
        total.update(labels, after, still, truth())
        found.append(total.report()["depth"])
    assert found[0] == pytest.approx(0, abs=1e-6)
    assert found[1] == pytest.approx(0, abs=1e-6), "the median"
    total = flicker.Steadiness(STREET)
    total.update(labels, before, None, truth())
    total.update(labels, (before - 1) * np.where(np.arange(SIZE[0]) % 2, 1.1, 1.0)[:, None].astype(np.float32), still, truth())
    assert 0.01 < total.report()["depth"] < 0.1


def test_errors_are_those_of_the_ground_truth(still):
    labels = np.zeros(SIZE, np.uint8)
    labels[:, 100:] = 11
    real = labels.copy()
    real[:, 80:] = 11
    depth, true_depth = np.full(SIZE, 11, np.float32), np.full(SIZE, 10, np.float32)
    true_depth[:, 80:] = 8.8
    total = flicker.Steadiness(STREET)
    total.update(labels, depth, None, truth(real, true_depth))
    report = total.report()
    assert report["mIoU"] == pytest.approx((80 / 100 + 60 / 80) / 2)
    assert report["IoU road users"] == pytest.approx(60 / 80)
    # The three columns of road at the border are right, those of the vehicle are not.
    assert report["mIoU border"] == pytest.approx((3 / 6 + 0) / 2)
    assert report["AbsRel"] == pytest.approx((0.1 + 0.25) / 2)
    assert report["AbsRel road users"] == pytest.approx(0.25)


def test_tool_compares_values_on_each_data_set(tmp_path, weights_file, monkeypatch, capsys):
    sets = tmp_path / "set.yaml"
    drives = {"one": write_kitti2015(tmp_path / "data", [0, 1]), "two": write_kitti2015(tmp_path / "other", [2, 3], [2, 3])}
    lines = [f"  - {{path: {path}, format: kitti2015, name: {name}}}\n" for name, path in drives.items()]
    sets.write_text("".join(["sets:\n", *lines]))
    out = tmp_path / "flicker.json"
    options = ["--weights", str(weights_file), "--out", str(out), "--frames", "2"]
    monkeypatch.setattr(sys, "argv", ["flicker", str(sets), *options, "--values", "0", "0.5"])
    assert flicker.main() == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("| | changed | inside | depth | mIoU |")
    assert [line.split("|")[1].strip() for line in printed[2:]] == ["one, 0", "one, 0.5", "two, 0", "two, 0.5"]
    rows = json.loads(out.read_text())
    assert rows["one, 0"]["time"] == 1.0
    assert 0 <= rows["one, 0.5"]["changed"] <= 1
    assert ["AbsRel" in rows[name] for name in ("one, 0", "two, 0")] == [False, True]


def test_invalid_value_is_one_line(tmp_path, weights_file, monkeypatch, capsys):
    data = write_kitti2015(tmp_path / "data", [0])
    monkeypatch.setattr(sys, "argv", ["flicker", str(data), "--weights", str(weights_file), "--values", "1"])
    assert flicker.main() == 1
    assert capsys.readouterr().err == "flicker: parameter temporal_smoothing: 1.0 is outside 0 to 0.9\n"
