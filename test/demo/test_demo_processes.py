"""Child processes of the demo."""

from __future__ import annotations

import pytest

from mtl_perception.demo.processes import Child, wait_for
from mtl_perception.errors import PerceptionError


@pytest.fixture
def child(tmp_path):
    """Start commands and stop them at the end of the test."""
    started = []

    def start(name: str, *arguments: str) -> Child:
        started.append(Child(name, list(arguments), tmp_path / "log", {}))
        return started[-1]

    yield start
    for process in started:
        process.stop()


def test_finished_process_leaves_its_output_in_the_log(child):
    process = child("table", "parameters")
    wait_for(process, [], 60)
    assert "weights" in process.log.read_text()


def test_failed_process_reports_the_last_line_of_its_log(child, tmp_path):
    process = child("images", "infer", "none.png", "--out", str(tmp_path / "out"))
    with pytest.raises(
        PerceptionError, match=r"the images process exited with code 1: .*none\.png: no such image or video \(log: .*"
    ):
        wait_for(process, [], 60)


def test_other_process_must_not_exit_early(child, monkeypatch):
    other = child("other", "parameters")
    wait_for(other, [], 60)
    first = child("first", "parameters")
    monkeypatch.setattr(first, "has_finished", lambda: False)
    with pytest.raises(PerceptionError, match="the other process exited early"):
        wait_for(first, [other], 60)


def test_timeout_is_an_error(child, monkeypatch):
    process = child("table", "parameters")
    monkeypatch.setattr(process, "has_finished", lambda: False)
    with pytest.raises(PerceptionError, match="the table process did not finish within 0 s"):
        wait_for(process, [], 0.2)
