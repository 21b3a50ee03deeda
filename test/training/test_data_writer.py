"""Writing of data sets: reading back, and resuming an interrupted run."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from mtl_perception.camera.model import CameraModel
from mtl_perception.errors import SourceError
from mtl_perception.training.data.open import open_datasets
from mtl_perception.training.data.writer import encode_depth, finish_folder, image_path, start_folder, write_sample
from mtl_perception.types import Frame, Sample


def numbered_sample(index: int) -> Sample:
    """Return a sample whose image, labels and depth contain its index."""
    image = np.full((6, 8, 3), (10 * index, 100, 200), np.uint8)
    labels = np.full((6, 8), index % 12, np.uint8)
    labels[0, 0] = 255
    depth = np.full((6, 8), 1.5 + index, np.float32)
    depth[0, :4] = (np.nan, np.inf, 300.0, 0.001)
    camera = CameraModel(8, 6, 4 / 3 + index, 7.1, 3.5, 2.625)
    return Sample(Frame(image, camera), labels, depth, f"n{index:02d}")


def write(samples: list[Sample], folder: Path) -> None:
    start_folder(folder, "numbers")
    for sample in samples:
        if not image_path(folder, sample.name).exists():
            write_sample(sample, folder)
    finish_folder(folder, [sample.name for sample in samples], "numbers", "none", "street")


def test_samples_are_read_back_unchanged(tmp_path: Path) -> None:
    samples = [numbered_sample(i) for i in range(3)]
    write(samples, tmp_path / "set")
    (found,) = open_datasets(tmp_path / "set")
    assert (found.name, found.license, found.keys) == ("numbers", "none", ["n00", "n01", "n02"])
    for i, before in enumerate(samples):
        after = found[i]
        assert np.abs(after.frame.image.astype(int) - before.frame.image).max() <= 3, "JPEG"
        assert np.array_equal(after.labels, before.labels)
        assert np.array_equal(after.depth[1:], before.depth[1:])
        assert np.isnan(after.depth[0, 0]) and np.isposinf(after.depth[0, 1:3]).all()
        assert after.frame.camera == before.frame.camera


def test_files_follow_the_folder_format(tmp_path: Path) -> None:
    write([numbered_sample(0), numbered_sample(1)], tmp_path)
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
    assert lines == ["name,width,height,fx,fy,cx,cy", "n00,8,6,1.3333333333333333,7.1,3.5,2.625", lines[2]]
    depth = cv2.imread(str(tmp_path / "depth/n01.png"), cv2.IMREAD_UNCHANGED)
    assert depth.dtype == np.uint16
    assert depth[0].tolist() == [0, 65535, 65535, 1, 640, 640, 640, 640]
    image = cv2.imread(str(tmp_path / "image/n01.jpg"))[..., ::-1]
    assert np.abs(image.astype(int) - (10, 100, 200)).max() <= 3


def test_finite_depth_is_rounded_and_never_encoded_as_unknown_or_sky() -> None:
    meters = np.array([[0.0, 1e-6, 0.0059, 80.0, 255.99, 256.0, np.inf, np.nan]], np.float32)
    assert encode_depth(meters).tolist() == [[1, 1, 2, 20480, 65533, 65535, 65535, 0]]


def test_an_interrupted_run_is_resumed(tmp_path: Path) -> None:
    samples = [numbered_sample(i) for i in range(5)]
    write(samples[:4], tmp_path)
    untouched = (tmp_path / "image/n01.jpg").stat().st_mtime_ns
    # As after a crash: an image is missing, and the last line of cameras.csv is incomplete.
    (tmp_path / "image/n03.jpg").unlink()
    (tmp_path / "dataset.yaml").unlink()
    table = tmp_path / "cameras.csv"
    whole = table.read_text()
    table.write_text(whole[:-9])
    write(samples, tmp_path)
    assert (tmp_path / "image/n01.jpg").stat().st_mtime_ns == untouched
    assert table.read_text().startswith(whole)
    assert table.read_text().count("\n") == 6
    assert (tmp_path / "dataset.yaml").exists()
    assert not list(tmp_path.rglob("*.part"))


def test_unknown_labels_depth_and_camera_are_omitted(tmp_path: Path) -> None:
    write([Sample(Frame(np.zeros((4, 4, 3), np.uint8)), name=f"ride/{i}") for i in range(2)], tmp_path)
    assert sorted(path.name for path in (tmp_path / "image/ride").iterdir()) == ["0.jpg", "1.jpg"]
    assert set(yaml.safe_load((tmp_path / "dataset.yaml").read_text())) == {"format", "name", "license", "classes"}


def test_the_folder_of_another_data_set_is_refused(tmp_path: Path) -> None:
    write([numbered_sample(0)], tmp_path)
    with pytest.raises(SourceError, match="contains another data set than 'others'"):
        start_folder(tmp_path, "others")
