"""Rendering of a training set by several processes, and resuming it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mtl_perception.errors import DependencyError
from mtl_perception.synthetic.render import raycasting
from mtl_perception.training.data.open import open_datasets
from mtl_perception.types import Frame, Sample
from tools import make_synthetic

ROOT = Path(__file__).resolve().parents[2]


class NumberedScenes:
    """Scenes whose images contain their index."""

    name, license, per_street = "numbers", "none", 10

    def __init__(self, count: int) -> None:
        self.keys = [f"n{i:02d}" for i in range(count)]

    def __getitem__(self, index: int) -> Sample:
        image = np.full((16, 16, 3), 10 * index, np.uint8)
        return Sample(Frame(image), np.full((16, 16), index % 12, np.uint8), name=self.keys[index])


def test_several_processes_write_all_scenes_and_later_runs_only_missing_ones(tmp_path: Path) -> None:
    assert make_synthetic.write(NumberedScenes(21), tmp_path, workers=2) == 21
    untouched = (tmp_path / "image/n07.jpg").stat().st_mtime_ns
    (tmp_path / "image/n08.jpg").unlink()
    assert make_synthetic.write(NumberedScenes(22), tmp_path, workers=1) == 2
    assert (tmp_path / "image/n07.jpg").stat().st_mtime_ns == untouched
    (found,) = open_datasets(tmp_path)
    assert found.keys == [f"n{i:02d}" for i in range(22)]
    for index in range(22):
        sample = found[index]
        assert np.abs(sample.frame.image.astype(int) - 10 * index).max() <= 2, "JPEG"
        assert np.unique(sample.labels).tolist() == [index % 12]


def start(folder: Path, count: int) -> subprocess.Popen[str]:
    """Start the command with one worker."""
    try:
        raycasting.require_open3d()
    except DependencyError as error:
        pytest.skip(str(error))
    options = ["--out", str(folder), "--count", str(count), "--size", "64x32", "--workers", "1"]
    command = [sys.executable, "tools/make_synthetic.py", *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_the_command_writes_a_data_set_of_scenes(tmp_path: Path) -> None:
    process = start(tmp_path, 1)
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    assert "1 images, 1 of them new" in output
    (found,) = open_datasets(tmp_path)
    assert found[0].depth.shape == (32, 64)


def test_a_folder_that_cannot_be_created_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file/set"):
        make_synthetic.write(NumberedScenes(1), tmp_path / "file" / "set", workers=1)


def test_workers_end_with_a_main_process_that_is_killed(tmp_path: Path) -> None:
    """Workers that went on would write into the folder beside the run that resumes it."""
    process = start(tmp_path, 5000)
    _wait(lambda: any(tmp_path.glob("image/*.jpg")), 120)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.kill()
    process.communicate(timeout=20)
    assert len(children) >= 1
    _wait(lambda: not any(Path(f"/proc/{child}").exists() for child in children), 20)
    written = len(list(tmp_path.glob("image/*.jpg")))
    assert written < 5000 and not (tmp_path / "dataset.yaml").exists()


def _wait(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
