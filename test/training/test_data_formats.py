"""Formats of data sets: values read from small files, and errors that name the invalid file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.data import write_color_image, write_image, write_kitti2015, write_label_image, write_text, write_uint16_image

from mtl_perception.errors import CameraError, ConfigError, PerceptionError, SourceError
from mtl_perception.labels import NYUD40, STREET
from mtl_perception.training.data.dataset import Dataset
from mtl_perception.training.data.formats import nyudv2
from mtl_perception.training.data.open import open_sets
from mtl_perception.types import Frame, Sample

NAMES = STREET.names


def _open(path: Path, format_: str, **keys: Any) -> Dataset:
    (dataset,) = open_sets([{"path": str(path), "format": format_, **keys}], path.parent)
    return dataset


def _known(depth: np.ndarray | None) -> dict[tuple[int, int], float]:
    """Return the known depth by pixel (v, u)."""
    assert depth is not None and depth.dtype == np.float32
    return {(int(v), int(u)): float(depth[v, u]) for v, u in np.argwhere(~np.isnan(depth))}


def test_kitti2015_labels_depth_and_intrinsics_are_read(tmp_path: Path) -> None:
    root = write_kitti2015(tmp_path / "kitti2015", [0])
    write_color_image(root / "image/000003_10.png", 1242, 375)
    write_label_image(root / "label/000003_10.png", 23, 1242, 375, at_300_5=26, at_301_5=0)
    write_uint16_image(root / "depth/000003_10.png", 1242, 375, at_374_1241=2560, at_0_0=65535, at_1_0=1)
    dataset = _open(root, "kitti2015")
    assert dataset.name == "kitti2015" and "BY-NC-SA" in dataset.license and dataset.classes is STREET
    assert dataset.keys == ["000000_10", "000003_10"]
    assert [dataset.has_depth(i) for i in range(2)] == [False, True]
    sample = dataset[1]
    assert sample.name == "000003_10" and sample.frame.image[0, 0].tolist() == [100, 50, 7]
    assert sample.labels is not None and sample.labels.dtype == np.uint8
    assert [sample.labels[v, 5] for v in (0, 300, 301)] == [NAMES.index("sky"), NAMES.index("vehicle"), 255]
    assert _known(sample.depth) == {(0, 0): 65535 / 256, (1, 0): 1 / 256, (374, 1241): 10.0}
    camera = sample.frame.camera
    assert camera is not None and (camera.fx, camera.fy, camera.cx, camera.cy) == (721.5377, 721.5377, 609.5593, 172.854)
    # No camera of KITTI has images of 20x10.
    assert dataset[0].frame.camera is None and dataset[0].depth is None


def test_kitti2015_names_the_first_missing_or_invalid_file(tmp_path: Path) -> None:
    root = write_kitti2015(tmp_path / "k", [0, 1, 2], depth=[1])
    (root / "label/000001_10.png").rename(root / "label/000009_10.png")
    with pytest.raises(SourceError, match=r"label/000009_10.png has no image of that name"):
        _open(root, "kitti2015")
    (root / "label/000009_10.png").unlink()
    with pytest.raises(SourceError, match=r"label/000001_10.png is missing"):
        _open(root, "kitti2015")
    write_label_image(root / "label/000001_10.png", width=21)
    dataset = _open(root, "kitti2015")
    with pytest.raises(SourceError, match=r"label/000001_10.png is 21x10, its image is 20x10"):
        dataset[1]
    image = root / "image/000002_10.png"
    image.write_bytes(image.read_bytes()[:60])
    with pytest.raises(SourceError, match=r"image/000002_10.png"):
        dataset[2]
    write_image(root / "depth/000001_10.png", np.zeros((10, 20), np.uint8))
    write_label_image(root / "label/000001_10.png")
    with pytest.raises(SourceError, match=r"depth/000001_10.png has 8 bits per pixel, not 16"):
        dataset[1]


PROJECTIONS = """S_rect_02: 2.0e+01 1.0e+01
R_rect_00: 1 0 0 0 1 0 0 0 1
P_rect_02: 100 0 9.5 40 0 100 4.5 0 0 0 1 0
S_rect_03: 2.0e+01 1.0e+01
P_rect_03: 100 0 9.5 -10 0 100 4.5 0 0 0 1 0
"""


def test_kitti_stereo_2015_depth_is_focal_length_times_baseline_over_disparity(tmp_path: Path) -> None:
    root = tmp_path / "scene_flow/training"
    for stem in ("000000_10", "000000_11", "000001_10"):
        write_color_image(root / f"image_2/{stem}.png")
    # Focal length x baseline is 40 - (-10) = 50: a disparity of 5 pixels is 10 m, one of 1/256 pixel is 12,800 m.
    write_uint16_image(root / "disp_occ_0/000000_10.png", at_2_3=5 * 256, at_9_19=640, at_0_0=1)
    write_uint16_image(root / "disp_occ_0/000001_10.png")
    write_label_image(root / "semantic/000001_10.png", 8)
    write_text(root / "calib_cam_to_cam/000000.txt", PROJECTIONS)
    with pytest.raises(SourceError, match=r"calib_cam_to_cam/000001.txt is missing.*depth: false"):
        _open(root.parent, "kitti-stereo")
    assert len(_open(root.parent, "kitti-stereo", depth=False)) == 2
    write_text(root / "calib_cam_to_cam/000001.txt", PROJECTIONS)
    dataset = _open(root.parent, "kitti-stereo")
    assert dataset.keys == ["000000_10", "000001_10"]
    assert _known(dataset[0].depth) == {(0, 0): 12800.0, (2, 3): 10.0, (9, 19): 20.0}
    assert dataset[0].labels is None
    labels, camera = dataset[1].labels, dataset[1].frame.camera
    assert labels is not None and (labels == NAMES.index("sidewalk")).all()
    assert camera is not None and (camera.fx, camera.cx, camera.cy) == (100.0, 9.5, 4.5)


def test_kitti_stereo_2012_uses_the_gray_cameras(tmp_path: Path) -> None:
    root = tmp_path / "training"
    write_image(root / "image_0/000000_10.png", np.full((10, 20), 33, np.uint8))
    write_uint16_image(root / "disp_occ/000000_10.png", at_1_1=512)
    rows = [f"P{i}: 50 0 9 {offset} 0 50 4 0 0 0 1 0" for i, offset in enumerate((0, -27, 3, -24))]
    write_text(root / "calib/000000.txt", "\n".join(rows))
    sample = _open(tmp_path, "kitti-stereo")[0]
    assert _known(sample.depth) == {(1, 1): 13.5}
    assert sample.frame.image[0, 0].tolist() == [33, 33, 33]
    assert sample.frame.camera is not None and sample.frame.camera.fx == 50


def test_kitti_semantics_are_mapped_to_street_classes(tmp_path: Path) -> None:
    write_color_image(tmp_path / "training/image_2/000007_10.png", 1224, 370)
    write_label_image(tmp_path / "training/semantic/000007_10.png", 21, 1224, 370)
    sample = _open(tmp_path, "kitti-semantics")[0]
    assert sample.labels is not None and (sample.labels == NAMES.index("vegetation")).all() and sample.depth is None
    assert sample.frame.camera is not None and sample.frame.camera.fx == 707.0493
    (tmp_path / "training/semantic/000007_10.png").unlink()
    with pytest.raises(SourceError, match="semantic/000007_10.png is missing"):
        _open(tmp_path, "kitti-semantics")


DRIVE = "2011_09_26_drive_0042_sync"


def _raw_drive(root: Path, numbers: list[int]) -> Path:
    """Write a drive whose rectification rotates by 90 degrees, so that an omitted step of the projection shows."""
    for number in numbers:
        write_color_image(root / f"2011_09_26/{DRIVE}/image_02/data/{number:010d}.png")
    write_text(
        root / "2011_09_26/calib_cam_to_cam.txt",
        "S_rect_02: 20 10\nR_rect_00: 0 -1 0 1 0 0 0 0 1\nP_rect_02: 10 0 10 5 0 10 5 0 0 0 1 0.5\n",
    )
    write_text(root / "2011_09_26/calib_velo_to_cam.txt", "R: 0 -1 0 0 0 -1 1 0 0\nT: 0.1 0.2 0.3\n")
    return root / "2011_09_26" / DRIVE


def _laser(x: float, y: float, z: float) -> tuple[float, float, float, float]:
    """Return the laser point (x, y, z, reflectance) whose rectified position is (x, y, z)."""
    camera = (y, -x, z)  # R_rect_00: (X, Y, Z) -> (-Y, X, Z)
    return camera[2] - 0.3, 0.1 - camera[0], 0.2 - camera[1], 0.9


def test_kitti_raw_projects_laser_points(tmp_path: Path) -> None:
    drive = _raw_drive(tmp_path, [0, 5])
    points = [
        # Depth is z + 0.5 (last row of P). u = (10 x + 10 z + 5) / depth: x = 0, z = 9.5 is (100 / 10, 4.75 + 0.25).
        _laser(0.0, 0.25, 9.5),
        _laser(2.0, -1.4, 4.5),  # u = (20 + 45 + 5) / 5 = 14, v = (-14 + 22.5) / 5 = 1.7, rounded to 2
        _laser(0.0, 0.5, 19.5),  # the pixel of the first point, but farther: u = 200 / 20, v = (5 + 97.5) / 20 = 5.125
        _laser(0.0, 0.0, -5.0),  # behind the camera
        _laser(50.0, 0.0, 4.5),  # outside the image
    ]
    sweep = drive / "velodyne_points/data/0000000005.bin"
    sweep.parent.mkdir(parents=True)
    np.array(points, "<f4").tofile(sweep)
    dataset = _open(drive, "kitti-raw")
    assert dataset.name == DRIVE and dataset.keys == ["0000000000", "0000000005"]
    assert dataset[0].depth is None and dataset[0].labels is None
    known = _known(dataset[1].depth)
    assert known == {(5, 10): pytest.approx(10.0, abs=1e-5), (2, 14): pytest.approx(5.0, abs=1e-5)}
    camera = dataset[0].frame.camera
    assert camera is not None and (camera.fx, camera.cx) == (10.0, 10.0)

    sweep.write_bytes(sweep.read_bytes()[:-3])
    with pytest.raises(SourceError, match=r"0000000005.bin has 77 bytes, not a multiple of 16"):
        dataset[1]
    (tmp_path / "2011_09_26/calib_velo_to_cam.txt").write_text("R: 1 2\n")
    with pytest.raises(CameraError, match=r"calib_velo_to_cam.txt: R does not have 9 numbers"):
        _open(drive, "kitti-raw")
    assert not _open(drive, "kitti-raw", depth=False).has_depth(1)


def test_kitti_depth_prediction_finds_the_images_of_the_raw_drives(tmp_path: Path) -> None:
    _raw_drive(tmp_path / "raw", [4, 5, 6])
    truth = tmp_path / "depth/train" / DRIVE / "proj_depth/groundtruth/image_02"
    for number in (5, 6):
        write_uint16_image(truth / f"{number:010d}.png", at_3_3=number * 256)
    write_uint16_image(tmp_path / "depth/val/2011_09_26_drive_0001_sync/proj_depth/groundtruth/image_02/0000000005.png")
    assert len(_open(tmp_path / "depth/train", "kitti-depth")) == 2
    (tmp_path / "raw").rename(tmp_path / "images")
    with pytest.raises(SourceError, match=rf"no images of {DRIVE}; give the folder of the raw drives as `raw:`"):
        _open(tmp_path / "depth/train", "kitti-depth")
    dataset = _open(tmp_path / "depth/train", "kitti-depth", raw="../images")
    assert dataset.name == "kitti-depth-train"
    assert dataset.keys == [f"{DRIVE}/image_02/{number:010d}" for number in (5, 6)]
    assert _known(dataset[1].depth) == {(3, 3): 6.0}
    assert dataset[1].frame.camera is not None and dataset[1].frame.camera.fx == 10
    write_uint16_image(truth / "0000000009.png")
    with pytest.raises(SourceError, match=r"image_02/0000000009.png has no image of that name"):
        _open(tmp_path / "depth/train", "kitti-depth", raw="../images")


def test_depth_folder_uses_its_own_images_or_those_of_the_drive(tmp_path: Path) -> None:
    write_color_image(tmp_path / "kitti_depth/slow/image/a_1.png")
    write_uint16_image(tmp_path / "kitti_depth/slow/sgbm/a_1.png", at_0_1=256)
    assert _known(_open(tmp_path / "kitti_depth/slow", "depth-folder")[0].depth) == {(0, 1): 1.0}
    _raw_drive(tmp_path / "kitti_raw", [0, 1])
    write_uint16_image(tmp_path / "kitti_depth/drive_0042/lidar/0000000001.png", at_0_1=512)
    write_uint16_image(tmp_path / "kitti_depth/drive_0042/sgbm/0000000000.png", at_0_1=768)
    drive = tmp_path / "kitti_depth/drive_0042"
    lidar, stereo = _open(drive, "depth-folder"), _open(drive, "depth-folder", depth_from="sgbm")
    assert lidar.keys == stereo.keys == ["0000000000", "0000000001"]
    assert [lidar.has_depth(0), lidar.has_depth(1), stereo.has_depth(0), stereo.has_depth(1)] == [False, True, True, False]
    assert _known(lidar[1].depth) == {(0, 1): 2.0} and _known(stereo[0].depth) == {(0, 1): 3.0}
    assert lidar[1].frame.camera is not None and lidar[1].frame.camera.fx == 10
    (tmp_path / "kitti_raw").rename(tmp_path / "elsewhere")
    with pytest.raises(SourceError, match="nor a matching raw drive"):
        _open(drive, "depth-folder")
    images = f"../elsewhere/2011_09_26/{DRIVE}/image_02/data"
    assert _open(drive, "depth-folder", images=images).keys == lidar.keys


@pytest.mark.parametrize("layout", ["val/image val/label", "val valannot"])
def test_camvid_is_read_in_both_layouts(tmp_path: Path, layout: str) -> None:
    images, labels = layout.split()
    write_color_image(tmp_path / images / "0016E5_07959.png")
    write_label_image(tmp_path / labels / "0016E5_07959.png", 8, at_0_0=11)
    dataset = _open(tmp_path, "camvid", split="val")
    sample = dataset[0]
    assert dataset.name == "camvid-val" and sample.name == "0016E5_07959"
    assert sample.labels is not None and sample.labels[1, 1] == NAMES.index("vehicle") and sample.labels[0, 0] == 255
    assert sample.frame.camera is None and sample.depth is None
    with pytest.raises(SourceError, match=r"there is no split test \(found: val\)"):
        _open(tmp_path, "camvid", split="test")
    with pytest.raises(SourceError, match=r"give `split:`, one of val"):
        _open(tmp_path, "camvid")


def _nyu(root: Path, count: int = 3) -> tuple[Path, np.ndarray]:
    """Write a small file in the authors' format: the red value of frame i is 10 i + row."""
    h5py = pytest.importorskip("h5py")
    scipy_io = pytest.importorskip("scipy.io")
    images = np.zeros((count, 3, 8, 6), np.uint8)  # HDF5 reverses the order of dimensions of MATLAB: 6 x 8 x 3 x count.
    images[:, 0] = 10 * np.arange(count)[:, None, None] + np.arange(6)
    depths = np.full((count, 8, 6), 2.5, np.float32)
    depths[1, 7, 0] = 0
    labels = np.zeros((count, 8, 6), np.uint16)
    labels[2, 7, 1] = 894
    labels[2, 0, 5] = 3
    root.mkdir(exist_ok=True)
    with h5py.File(root / "nyu_depth_v2_labeled.mat", "w") as file:
        file["images"], file["depths"], file["labels"] = images, depths, labels
    forty = np.full((1, 894), 40.0)
    forty[0, 2] = 1
    scipy_io.savemat(root / "classMapping40.mat", {"mapClass": forty})
    scipy_io.savemat(root / "splits.mat", {"trainNdxs": np.array([[1], [3]]), "testNdxs": np.array([[2]])})
    return root, images


def test_nyudv2_splits_labels_and_depth_are_read(tmp_path: Path) -> None:
    root, _ = _nyu(tmp_path / "nyu")
    with pytest.raises(ConfigError, match=r"class_mapping is missing; give classMapping40.mat of the toolbox"):
        _open(root, "nyudv2")
    keys = {"class_mapping": "nyu/classMapping40.mat", "splits": "nyu/splits.mat"}
    train, test = (_open(root, "nyudv2", split=split, **keys) for split in ("train", "test"))
    assert (train.keys, test.keys, train.classes) == (["0001", "0003"], ["0002"], NYUD40)
    sample = train[1]
    assert sample.frame.image.shape == (6, 8, 3) and sample.frame.image[4, 2].tolist() == [24, 0, 0]
    assert sample.labels is not None and sample.labels.dtype == np.uint8
    # In this mapping class 3 is wall and class 894 the last of the forty; 0 is unlabeled.
    assert sample.labels[5, 0] == NYUD40.names.index("wall") and sample.labels[1, 7] == 39 and sample.labels[0, 0] == 255
    assert sample.depth is not None and (sample.depth == 2.5).all()
    depth = test[0].depth
    assert depth is not None and np.isnan(depth[0, 7]) and np.isnan(depth).sum() == 1
    assert sample.frame.camera is not None and sample.frame.camera.fx == pytest.approx(518.8579 * 8 / 640)
    without = _open(root / "nyu_depth_v2_labeled.mat", "nyudv2", labels=False)
    assert len(without) == 3 and without[0].labels is None and not without.has_labels(0)


def test_nyudv2_errors_name_the_file_and_the_missing_array(tmp_path: Path) -> None:
    root, _ = _nyu(tmp_path / "nyu")
    h5py = pytest.importorskip("h5py")
    with h5py.File(root / "nyu_depth_v2_labeled.mat", "a") as file:
        del file["depths"]
    with pytest.raises(SourceError, match=r"nyu_depth_v2_labeled.mat: no array 'depths' of 3 dimensions"):
        _open(root, "nyudv2", labels=False)
    write_text(root / "nyu_depth_v2_labeled.mat", "no HDF5")
    with pytest.raises(SourceError, match=r"nyu_depth_v2_labeled.mat cannot be read"):
        _open(root, "nyudv2", labels=False)


def test_nyudv2_without_h5py_reports_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(nyudv2, "import_module", missing)
    with pytest.raises(SourceError, match=r"nyudv2 needs h5py, which is not installed; pip install h5py"):
        _open(write_text(tmp_path / "nyu_depth_v2_labeled.mat", ""), "nyudv2", labels=False)


def test_exported_nyudv2_images_are_read_as_a_plain_folder(tmp_path: Path) -> None:
    write_color_image(tmp_path / "rgb/00001.png")
    write_label_image(tmp_path / "label40/00001.png", 1, at_0_0=0, at_0_1=40)
    write_uint16_image(tmp_path / "depth/00001.png", at_0_0=1500)
    write_text(
        tmp_path / "dataset.yaml",
        "format: folder\nname: nyu\nlicense: research use\nmapping: nyud40\n"
        "images: rgb\nlabels: label40\ndepth: depth\ndepth_scale: 1000\n",
    )
    sample = _open(tmp_path, "folder")[0]
    assert sample.labels is not None and sample.labels[0, :3].tolist() == [255, 39, 0]
    assert _known(sample.depth) == {(0, 0): 1.5}


@pytest.mark.parametrize(("kind", "module"), [("drive", "drive.SyntheticDrive"), ("scenes", "scenes.SyntheticScenes")])
def test_synthetic_samples_come_from_a_renderer_created_on_first_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, module: str
) -> None:
    created = []

    class Renderer:
        """Test double: the real renderer takes seconds to build its street."""

        def __init__(self, *arguments: int) -> None:
            created.append(arguments)

        def sample(self, index: int) -> Sample:
            image = np.full((32, 104, 3), index, np.uint8)
            return Sample(Frame(image), image[..., 0], np.full((32, 104), 9.0, np.float32), f"renderer/{index}")

    monkeypatch.setattr(f"mtl_perception.synthetic.{module}", Renderer)
    entry = {"format": "synthetic", "kind": kind, "count": 3, "width": 104, "height": 32, "seed": 4}
    (dataset,) = open_sets([entry], tmp_path)
    assert dataset.keys == ["000000", "000001", "000002"] and dataset.name == f"synthetic-{kind}-4" and created == []
    sample = dataset[2]
    assert sample.name == "000002" and (sample.frame.image == 2).all() and sample.depth is not None
    assert created == [(3, 104, 32, 4)]
    assert dataset[-1].name == "000002" and (dataset[-1].frame.image == 2).all() and len(created) == 1
    (labels_only,) = open_sets([{**entry, "depth": False}], tmp_path)
    assert labels_only[0].depth is None and labels_only[0].labels is not None and not labels_only.has_depth(0)
    with pytest.raises(IndexError):
        dataset[3]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({}, "count is missing"),
        ({"count": 0}, "count: 0 is below 1; give 1 or more"),
        ({"count": 3, "kind": "scenery"}, "kind: 'scenery' is not one of scenes, drive; did you mean 'scenes'?"),
        ({"count": 3, "path": "."}, "has neither `path`"),
        ({"count": 3, "hight": 32}, "unknown key 'hight'; did you mean 'height'?"),
    ],
)
def test_an_invalid_synthetic_entry_is_refused(tmp_path: Path, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(PerceptionError) as caught:
        open_sets([{"format": "synthetic", **keys}], tmp_path)
    assert isinstance(caught.value, ConfigError) and message in str(caught.value) and "set 1" in str(caught.value)
