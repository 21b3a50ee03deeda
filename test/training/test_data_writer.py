"""Writing of data sets: reading back, resuming an interrupted run, and worker processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from mtl_perception.camera.model import CameraModel
from mtl_perception.errors import DependencyError, SourceError
from mtl_perception.synthetic.render import raycasting
from mtl_perception.training.data.open import open_datasets
from mtl_perception.training.data.writer import encode_depth, write_folder
from mtl_perception.types import Frame, Sample

ROOT = Path(__file__).resolve().parents[2]


class NumberedSamples:
    """A data set whose images contain their index."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.created: list[int] = []

    def __len__(self) -> int:
        return self.count

    @property
    def keys(self) -> list[str]:
        return [f"n{i:02d}" for i in range(self.count)]

    def __getitem__(self, index: int) -> Sample:
        self.created.append(index)
        image = np.full((6, 8, 3), (10 * index, 100, 200), np.uint8)
        labels = np.full((6, 8), index % 12, np.uint8)
        labels[0, 0] = 255
        depth = np.full((6, 8), 1.5 + index, np.float32)
        depth[0, :4] = (np.nan, np.inf, 300.0, 0.001)
        camera = CameraModel(8, 6, 1 / 3 + index, 7.1, 3.5, 2.625)
        return Sample(Frame(image, camera), labels, depth, self.keys[index])


def write(samples: object, folder: Path, **options: object) -> int:
    return write_folder(samples, folder, "numbers", "none", progress=False, **options)  # type: ignore[arg-type]


def test_samples_are_read_back_unchanged(tmp_path: Path) -> None:
    samples = NumberedSamples(3)
    assert write(samples, tmp_path / "set", suffix=".png") == 3
    (found,) = open_datasets(tmp_path / "set")
    assert (found.name, found.license, found.keys) == ("numbers", "none", ["n00", "n01", "n02"])
    for i in range(3):
        before, after = samples[i], found[i]
        assert np.array_equal(after.frame.image, before.frame.image)
        assert np.array_equal(after.labels, before.labels)
        assert np.array_equal(after.depth[1:], before.depth[1:])
        assert np.isnan(after.depth[0, 0]) and np.isposinf(after.depth[0, 1:3]).all()
        assert after.frame.camera == before.frame.camera


def test_files_follow_the_folder_format(tmp_path: Path) -> None:
    write(NumberedSamples(2), tmp_path)
    assert yaml.safe_load((tmp_path / "dataset.yaml").read_text()) == {
        "format": "folder",
        "name": "numbers",
        "license": "none",
        "classes": "street",
        "labels": "label",
        "depth": "depth",
        "depth_scale": 256,
        "camera": "cameras.csv",
    }
    lines = (tmp_path / "cameras.csv").read_text().splitlines()
    assert lines == ["name,width,height,fx,fy,cx,cy", "n00,8,6,0.3333333333333333,7.1,3.5,2.625", lines[2]]
    depth = cv2.imread(str(tmp_path / "depth/n01.png"), cv2.IMREAD_UNCHANGED)
    assert depth.dtype == np.uint16
    assert depth[0].tolist() == [0, 65535, 65535, 1, 640, 640, 640, 640]
    image = cv2.imread(str(tmp_path / "image/n01.jpg"))[..., ::-1]
    assert np.abs(image.astype(int) - (10, 100, 200)).max() <= 3


def test_finite_depth_is_rounded_and_never_encoded_as_unknown_or_sky() -> None:
    meters = np.array([[0.0, 1e-6, 0.0059, 80.0, 255.99, 256.0, np.inf, np.nan]], np.float32)
    assert encode_depth(meters).tolist() == [[1, 1, 2, 20480, 65533, 65535, 65535, 0]]


def test_an_interrupted_run_is_resumed(tmp_path: Path) -> None:
    write(NumberedSamples(4), tmp_path)
    untouched = (tmp_path / "image/n01.jpg").stat().st_mtime_ns
    # As after a crash: an image is missing, and the last line of cameras.csv is incomplete.
    (tmp_path / "image/n03.jpg").unlink()
    (tmp_path / "dataset.yaml").unlink()
    table = tmp_path / "cameras.csv"
    whole = table.read_text()
    table.write_text(whole[:-9])
    samples = NumberedSamples(5)
    assert write(samples, tmp_path) == 2
    assert samples.created == [3, 4]
    assert (tmp_path / "image/n01.jpg").stat().st_mtime_ns == untouched
    assert table.read_text().startswith(whole)
    assert table.read_text().count("\n") == 6
    assert (tmp_path / "dataset.yaml").exists()
    assert not list(tmp_path.rglob("*.part"))
    assert write(NumberedSamples(5), tmp_path) == 0


def test_samples_of_an_iterator_are_written_without_unknown_labels_depth_and_camera(tmp_path: Path) -> None:
    samples = [Sample(Frame(np.zeros((4, 4, 3), np.uint8)), name=f"ride/{i}") for i in range(2)]
    assert write(iter(samples), tmp_path) == 2
    assert sorted(path.name for path in (tmp_path / "image/ride").iterdir()) == ["0.jpg", "1.jpg"]
    assert set(yaml.safe_load((tmp_path / "dataset.yaml").read_text())) == {"format", "name", "license", "classes"}
    assert write(iter(samples), tmp_path) == 0


def test_worker_processes_write_the_same_files_as_one_process(tmp_path: Path) -> None:
    write(NumberedSamples(12), tmp_path / "one")
    assert write(NumberedSamples(12), tmp_path / "two", workers=2) == 12
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*") if path.is_file())
    assert len(files) == 3 * 12 + 2
    for file in files:
        assert (tmp_path / "two" / file).read_bytes() == (tmp_path / "one" / file).read_bytes(), file


def test_the_folder_of_another_data_set_is_refused(tmp_path: Path) -> None:
    write(NumberedSamples(1), tmp_path)
    with pytest.raises(SourceError, match="contains another data set than 'others'"):
        write_folder(NumberedSamples(1), tmp_path, "others", "none", progress=False)


def test_an_error_names_a_folder_that_cannot_be_created(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SourceError, match=r"file/set: the data set cannot be written"):
        write(NumberedSamples(1), tmp_path / "file" / "set")


def test_make_synthetic_writes_a_data_set_of_scenes(tmp_path: Path) -> None:
    try:
        raycasting.require_open3d()
    except DependencyError as error:
        pytest.skip(str(error))
    command = [
        sys.executable,
        "tools/make_synthetic.py",
        "--out",
        str(tmp_path),
        "--count",
        "1",
        "--size",
        "64x32",
        "--workers",
        "1",
    ]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "1 images, 1 of them new" in done.stdout
    (found,) = open_datasets(tmp_path)
    assert found[0].depth.shape == (32, 64)
