"""Preparation of the demo: output folder, ROS domain and rate."""

from __future__ import annotations

import os

import numpy as np
import pytest

from mtl_perception.__main__ import main
from mtl_perception.demo import run as demo
from mtl_perception.errors import SourceError
from mtl_perception.types import Frame


def write_log(out):
    (out / "log").mkdir()
    (out / "log/recorder.log").write_text("")


def test_folder_of_an_earlier_demo_is_replaced(tmp_path):
    out = tmp_path / "out"
    (out / "images").mkdir(parents=True)
    (out / "index.html").write_text("old")
    write_log(out)
    demo._prepare(out)
    assert list(out.iterdir()) == []


def test_recording_for_rerun_may_be_in_the_folder_of_an_earlier_demo(tmp_path):
    (tmp_path / "drive.rrd").write_text("old")
    write_log(tmp_path)
    with pytest.raises(SourceError, match=r"contains other files \(drive\.rrd\)"):
        demo._prepare(tmp_path)
    demo._prepare(tmp_path, tmp_path / "drive.rrd")
    assert list(tmp_path.iterdir()) == []


def test_folder_with_other_files_is_kept(tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(SourceError, match=r"contains other files \(thesis\.txt\); choose another --out"):
        demo._prepare(tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "precious"
    with pytest.raises(SourceError, match=r"thesis\.txt is not a folder; choose another --out"):
        demo._prepare(tmp_path / "thesis.txt")


def test_folder_of_images_is_kept(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images/holiday.jpg").write_text("precious")
    with pytest.raises(SourceError, match="is not the folder of an earlier demo; choose another --out"):
        demo._prepare(tmp_path)
    assert (tmp_path / "images/holiday.jpg").read_text() == "precious"


def test_file_with_the_name_of_a_recording_in_another_folder_is_kept(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/drive.rrd").write_text("precious")
    with pytest.raises(SourceError, match=r"contains other files \(drive\.rrd\); choose another --out"):
        demo._prepare(tmp_path / "out", tmp_path / "drive.rrd")
    assert (tmp_path / "out/drive.rrd").read_text() == "precious"


@pytest.mark.parametrize("users", ["", "0", "the one that it would take"])
def test_domain_differs_from_that_of_the_user(monkeypatch, users):
    if users.startswith("the"):
        users = str(1 + os.getpid() % 100)
    monkeypatch.setenv("ROS_DOMAIN_ID", users)
    assert 1 <= demo._unused_domain() <= 100
    assert str(demo._unused_domain()) != users


def test_playback_rate_is_at_most_real_time():
    frame = Frame(np.zeros((2, 2, 3), np.uint8))
    assert demo._affordable_rate(lambda frame: None, frame, rate_hz=10.0) == 1.0


def test_rate_must_be_positive(capsys):
    assert main(["demo", "--rate", "0"]) == 2
    assert capsys.readouterr().err == "mtl_perception demo: --rate must be greater than 0, not 0.0\n"
