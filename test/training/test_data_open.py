"""Opening of data sets: lists in YAML, recognized folders, selections, and the plain folder format."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from support.data import write_color_image, write_image, write_kitti2015, write_label_image, write_text, write_uint16_image

from mtl_perception.errors import ConfigError, PerceptionError, SourceError
from mtl_perception.labels import STREET
from mtl_perception.training.data.dataset import Subset
from mtl_perception.training.data.formats.folder import Folder
from mtl_perception.training.data.open import open_datasets, open_sets, validate

CONFIG = Path(__file__).parents[2] / "config/data"
TABLE = "name,width,height,fx,fy,cx,cy\n"


def _sets(path: Path, *entries: dict[str, Any]) -> Path:
    return write_text(path, yaml.safe_dump({"sets": list(entries)}))


def _counts(dataset: Any) -> tuple[int, int, int]:
    indices = range(len(dataset))
    return len(dataset), sum(map(dataset.has_labels, indices)), sum(map(dataset.has_depth, indices))


# Lists of sets.


def test_paths_in_a_yaml_file_are_relative_to_it(tmp_path: Path) -> None:
    write_kitti2015(tmp_path / "data/kitti2015", [0, 1, 12, 20], depth=[0, 12])
    select = {"block": 10, "every": 2, "offset": 1}
    entry = {"path": "../data/kitti2015", "format": "kitti2015"}
    path = _sets(
        tmp_path / "config/x.yaml",
        {**entry, "name": "held", "select": select},
        {**entry, "name": "rest", "select": {**select, "invert": True}, "depth": False},
        {**entry, "name": "bare", "labels": False, "select": {"need": "depth"}},
    )
    held, rest, bare = open_datasets(path)
    assert (held.name, held.keys, _counts(held)) == ("held", ["000012_10"], (1, 1, 1))
    assert (rest.keys, _counts(rest)) == (["000000_10", "000001_10", "000020_10"], (3, 3, 0))
    assert (bare.keys, _counts(bare)) == (["000000_10", "000012_10"], (2, 0, 2))
    sample = bare[1]
    assert sample.name == "000012_10" and sample.labels is None and sample.depth is not None and sample.depth[4, 3] == 10
    assert rest[2].depth is None and held.classes is STREET
    write_label_image(tmp_path / "data/kitti2015/label/000012_10.png", 200)
    assert validate(rest) == 3
    with pytest.raises(SourceError, match="label/000012_10.png has the id 200, which is not in the mapping 'cityscapes'"):
        validate(held)


def test_variables_in_paths_come_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_kitti2015(tmp_path / "here/kitti2015", [0])
    path = _sets(tmp_path / "x.yaml", {"path": "${PLACE}/kitti2015", "format": "kitti2015"})
    monkeypatch.delenv("PLACE", raising=False)
    with pytest.raises(ConfigError, match=r"x.yaml: set 1: path: .*needs the environment variable PLACE; set it"):
        open_datasets(path)
    monkeypatch.setenv("PLACE", "here")
    assert open_datasets(path)[0].keys == ["000000_10"]
    write_text(tmp_path / "here/none.txt", "")
    write_text(tmp_path / "here/ours.yaml", "to: street\nids: {7: sky}\n")
    entry = {"path": "here/kitti2015", "mapping": "${PLACE}/ours.yaml", "select": {"list": "${PLACE}/none.txt", "invert": True}}
    (dataset,) = open_datasets(_sets(tmp_path / "y.yaml", entry))
    labels = dataset[0].labels
    assert labels is not None and (labels == STREET.names.index("sky")).all()


def test_a_list_of_names_selects_samples(tmp_path: Path) -> None:
    write_kitti2015(tmp_path / "k", [0, 1, 2])
    write_text(tmp_path / "val.txt", "# ours\n000002_10\n\n000000_10\n")
    entry = {"path": "k", "select": {"list": "val.txt"}}
    assert open_sets([entry], tmp_path)[0].keys == ["000000_10", "000002_10"]
    assert open_sets([{**entry, "select": {"list": "val.txt", "invert": True}}], tmp_path)[0].keys == ["000001_10"]
    write_text(tmp_path / "val.txt", "000007_10\n")
    with pytest.raises(SourceError, match=r"list: .*val.txt names '000007_10', which is not in k"):
        open_sets([entry], tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pathh": "k"}, "set 1: unknown key 'pathh'; did you mean 'path'?"),
        ({"format": "kitti-2015"}, "format: 'kitti-2015' is not one of"),
        ({"format": "kitti2015", "split": "val"}, "unknown key 'split'"),
        ({"labels": "yes please"}, "labels: 'yes please' is not true or false"),
        ({"name": ""}, "name is empty; give text"),
        ({"name": "a/b"}, "name: 'a/b' is not a name"),
        ({"path": "nowhere"}, "nowhere does not exist"),
        ({"path": "${k"}, "invalid variable; write ${NAME}"),
        ({"path": None}, "path has no value; give text, or remove the key"),
        ({"mapping": "citiscapes"}, "unknown label mapping 'citiscapes'"),
        ({"select": {"evry": 2}}, "select: unknown key 'evry'; did you mean 'every'?"),
        ({"select": {"block": 10}}, "every is missing"),
        ({"select": {"every": 2, "offset": 2}}, "offset: 2 is not below every (2)"),
        ({"select": {"every": 5, "offset": 4}}, "none of the 2 samples of k is left"),
        ({"select": {"need": "labls"}}, "did you mean 'labels'?"),
        ({"select": {"need": "depth"}}, "none of the 2 samples"),
        ({"select": {"invert": True}}, "no rule to invert"),
        ({"select": {"list": "no.txt"}}, "no.txt cannot be read"),
    ],
)
def test_the_error_of_an_invalid_entry_names_its_key(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    write_kitti2015(tmp_path / "k", [0, 1])
    with pytest.raises(PerceptionError) as caught:
        open_sets([{"path": "k", **change}], tmp_path, where="x.yaml")
    assert message in str(caught.value) and "x.yaml: set 1" in str(caught.value)


@pytest.mark.parametrize("sets", [None, [], "k", {"path": "k"}, ["k"]])
def test_sets_must_be_a_list_of_mappings(tmp_path: Path, sets: Any) -> None:
    with pytest.raises(ConfigError, match="x.yaml"):
        open_sets(sets, tmp_path, where="x.yaml")


def test_names_of_sets_must_be_unique(tmp_path: Path) -> None:
    write_kitti2015(tmp_path / "k", [0])
    with pytest.raises(ConfigError, match="two sets are named 'k'; give each its own `name:`"):
        open_sets([{"path": "k"}, {"path": "k"}], tmp_path)


# Recognized folders.


def test_a_folder_is_searched_for_known_layouts(tmp_path: Path) -> None:
    write_kitti2015(tmp_path / "b/kitti", [3])
    for split in ("train", "val"):
        write_color_image(tmp_path / f"a/CamVid/{split}/0001TP_1.png")
        write_label_image(tmp_path / f"a/CamVid/{split}annot/0001TP_1.png")
    for place in ("c/one", "c/two"):
        write_color_image(tmp_path / place / "scene/image/x.png")
        write_uint16_image(tmp_path / place / "scene/lidar/x.png")
    write_color_image(tmp_path / "d/mine/image/x.png")
    write_text(tmp_path / "d/mine/dataset.yaml", "format: folder\nclasses: street\n")
    write_color_image(tmp_path / "e/nothing/photos/x.png")
    found = open_datasets(tmp_path)
    assert [dataset.name for dataset in found] == [
        "camvid-train",
        "camvid-val",
        "kitti",
        "c-one-scene",
        "c-two-scene",
        "mine",
    ]
    assert [dataset.keys for dataset in open_datasets(tmp_path / "b/kitti")] == [["000003_10"]]
    assert open_datasets(tmp_path / "d/mine/dataset.yaml")[0].keys == ["x"]
    with pytest.raises(SourceError, match=r"contains no data set of a known layout \(folder, kitti2015, "):
        open_datasets(tmp_path / "e")
    # An entry without a format may contain several data sets, but they cannot share a name.
    assert len(open_sets([{"path": "a"}], tmp_path)) == 2
    with pytest.raises(ConfigError, match="contains 2 sets, which cannot share one name"):
        open_sets([{"path": "a", "name": "both"}], tmp_path)
    with pytest.raises(ConfigError, match="has no known layout; give `format:`"):
        open_sets([{"path": "e"}], tmp_path)


def test_paths_that_are_no_data_set_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="does not exist"):
        open_datasets(tmp_path / "none")
    with pytest.raises(SourceError, match="neither a folder nor a YAML file"):
        open_datasets(write_text(tmp_path / "a.txt", ""))
    with pytest.raises(ConfigError, match="a.yaml is not YAML"):
        open_datasets(write_text(tmp_path / "a.yaml", "sets: ["))
    with pytest.raises(ConfigError, match="unknown key 'setz'; did you mean 'sets'"):
        open_datasets(write_text(tmp_path / "a.yaml", "setz: []"))


# The plain folder.


def _folder(root: Path, description: str = "classes: street\n") -> Path:
    for name in ("one", "yard/two"):
        write_color_image(root / f"image/{name}.png")
        write_label_image(root / f"label/{name}.png", 8)
    write_uint16_image(root / "depth/one.png", at_0_0=2560, at_0_1=65535)
    write_text(root / "dataset.yaml", "format: folder\n" + description)
    return root


def _open_folder(root: Path) -> Folder:
    (dataset,) = open_datasets(root)
    assert isinstance(dataset, Folder)
    return dataset


def test_a_plain_folder_is_read_with_its_mapping_depth_and_cameras(tmp_path: Path) -> None:
    root = _folder(
        tmp_path / "yard-robot",
        "license: ours\nmapping: {8: road, 9: null}\nclasses: street\ndepth_scale: 1000\ncamera: cameras.csv\n",
    )
    write_text(root / "cameras.csv", TABLE + "one,20,10,30,31,9.5,4.5\nyard/two,20,10,40,41,8.5,3.5\n")
    dataset = _open_folder(root)
    assert (dataset.name, dataset.license, dataset.keys) == ("yard-robot", "ours", ["one", "yard/two"])
    assert validate(dataset) == 2
    one, two = dataset[0], dataset[1]
    assert one.labels is not None and (one.labels == 0).all()
    assert one.depth is not None
    assert one.depth[0, 0] == np.float32(2.56) and np.isposinf(one.depth[0, 1]) and np.isnan(one.depth).sum() == 198
    assert two.depth is None and two.name == "yard/two"
    assert two.frame.camera is not None and (two.frame.camera.fx, two.frame.camera.cy) == (40.0, 3.5)


def test_a_plain_folder_may_define_classes_and_one_camera(tmp_path: Path) -> None:
    classes = "[{name: grass, color: [0, 200, 0]}, {name: hedge, color: [0, 90, 0]}]"
    camera = "{width: 20, height: 10, fx: 30, fy: 30, cx: 9.5, cy: -2}"
    root = _folder(tmp_path / "garden", f"name: lawn\nclasses: {classes}\ncamera: {camera}\n")
    write_label_image(root / "label/one.png", 1)
    dataset = _open_folder(root)
    assert dataset.classes.names == ("grass", "hedge") and dataset.classes.colors[1] == (0, 90, 0) and dataset.name == "lawn"
    sample = dataset[0]
    assert sample.labels is not None and (sample.labels == 1).all()
    assert sample.frame.camera is not None and sample.frame.camera.cy == -2
    with pytest.raises(SourceError, match=r"label/yard/two.png has the id 8, which is not in the mapping 'lawn'"):
        validate(dataset)


@pytest.mark.parametrize("rectified", [True, False])
def test_a_plain_folder_may_name_a_camera_info_file(tmp_path: Path, rectified: bool) -> None:
    root = _folder(tmp_path / "robot", f"classes: street\ncamera: info.yaml\nrectified: {str(rectified).lower()}\n")
    info = {
        "image_width": 40,
        "image_height": 20,
        "distortion_model": "plumb_bob",
        "camera_matrix": {"data": [60.0, 0, 20, 0, 60, 10, 0, 0, 1]},
        "distortion_coefficients": {"data": [0.1, 0, 0, 0, 0]},
        "projection_matrix": {"data": [50.0, 0, 20, 0, 0, 50, 10, 0, 0, 0, 1, 0]},
    }
    write_text(root / "info.yaml", yaml.safe_dump(info))
    camera = _open_folder(root)[0].frame.camera
    # The images have half the size of the calibration.
    assert camera is not None and camera.fx == (25 if rectified else 30) and camera.is_distorted is not rectified
    write_text(root / "info.yaml", yaml.safe_dump({**info, "image_height": 30}))
    with pytest.raises(SourceError, match=r"camera file .*info.yaml, image one: .*40x30"):
        validate(_open_folder(root))


def test_a_folder_of_images_alone_is_a_data_set(tmp_path: Path) -> None:
    write_color_image(tmp_path / "p/image/a.png")
    write_text(tmp_path / "p/dataset.yaml", "format: folder\nclasses: street\n")
    dataset = _open_folder(tmp_path / "p")
    sample = dataset[0]
    assert validate(dataset) == 1 and dataset.license == "not stated"
    assert sample.labels is None and sample.depth is None and sample.frame.camera is None


def test_validation_names_the_first_invalid_file(tmp_path: Path) -> None:
    root = _folder(tmp_path / "f", "classes: street\ncamera: cameras.csv\n")
    cameras, valid = root / "cameras.csv", TABLE + "one,20,10,30,30,9.5,4.5\nyard/two,20,10,30,30,9.5,4.5\n"

    def validation_error() -> str:
        with pytest.raises((SourceError, ConfigError)) as caught:
            validate(_open_folder(root))
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "cameras.csv cannot be read" in validation_error()
    write_text(cameras, TABLE + "one,20,10,30,30,9.5,4.5\n")
    assert "cameras.csv has no line for image yard/two" in validation_error()
    write_text(cameras, valid.replace("yard/two,20,10", "yard/two,20,11"))
    assert "cameras.csv: the camera of image yard/two is for 20x11, the image is 20x10" in validation_error()
    write_text(cameras, valid.replace("one,20", "one,wide"))
    assert "cameras.csv, line 2: not a name and 6 numbers" in validation_error()
    write_text(cameras, valid.replace("one,20,10,30", "one,20,10,0"))
    assert "cameras.csv, line 2" in validation_error()
    write_text(cameras, valid + "one,20,10,30,30,9.5,4.5\n")
    assert "cameras.csv, line 4: one already has a line" in validation_error()
    write_text(cameras, valid.replace("cx", "c_x"))
    assert "the first line is not name,width,height,fx,fy,cx,cy" in validation_error()
    write_text(cameras, valid)

    write_label_image(root / "label/yard/two.png", 8, at_3_3=12)
    assert "label/yard/two.png has the id 12" in validation_error()
    write_image(root / "label/yard/two.png", np.zeros((10, 20), np.uint16))
    assert "label/yard/two.png has 16 bits per pixel, not 8" in validation_error()
    write_color_image(root / "label/yard/two.png")
    assert "label/yard/two.png has 3 channels" in validation_error()
    write_label_image(root / "label/yard/two.png", 8, width=10)
    assert "label/yard/two.png is 10x10, its image is 20x10" in validation_error()
    (root / "label/yard/two.png").write_bytes(b"")
    assert "label/yard/two.png is damaged" in validation_error()
    (root / "label/yard/two.png").rename(root / "label/yard/three.png")
    assert "label/yard/three.png has no image of that name" in validation_error()
    (root / "label/yard/three.png").unlink()
    write_label_image(root / "depth/one.png")
    assert "depth/one.png has 8 bits per pixel, not 16" in validation_error()
    (root / "depth/one.png").unlink()
    write_color_image(root / "image/one.jpg")
    assert "one.jpg and one.png" in validation_error()
    (root / "image/one.jpg").unlink()
    (root / "image/one.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    assert "image/one.png" in validation_error()


@pytest.mark.parametrize(
    ("description", "message"),
    [
        ("clases: street", "unknown key 'clases'; did you mean 'classes'?"),
        ("name: x", "classes is missing"),
        ("classes: streets", "classes: 'streets' is not one of street, kitti6, nyud40; did you mean 'street'?"),
        ("classes: [{name: a}]", "classes: entry 1: color is missing; give a list of 3 integers"),
        ("classes: [{name: a, color: [1, 2, 256]}]", "classes: entry 1: color: [1, 2, 256]"),
        ("classes: [{name: a, color: [1, 2, 3]}, {name: a, color: [1, 2, 3]}]", "two of them have the same name"),
        ("classes: []", "classes:"),
        ("classes: kitti6\nmapping: cityscapes", "mapping: 'cityscapes' maps to street, but classes are kitti6"),
        ("classes: street\nmapping: {1: raod}", "did you mean 'road'"),
        ("classes: street\nmapping: no.yaml", "no.yaml cannot be read"),
        ("classes: street\ndepth_scale: 0", "depth_scale: 0 is not above 0"),
        ("classes: street\ndepth: deep", "depth: there is no folder"),
        ("classes: street\nimages: photos", "images: there is no folder"),
        ("classes: street\ncamera: [1]", "camera: [1] is neither a file nor a mapping"),
        ("classes: street\ncamera: {width: 20}", "camera.height is missing; give a number"),
        ("classes: street\ncamera: {width: 20, height: 10, fx: -1, fy: 1, cx: 1, cy: 1}", "focal lengths must be above 0"),
    ],
)
def test_the_error_of_an_invalid_dataset_yaml_names_its_key(tmp_path: Path, description: str, message: str) -> None:
    root = _folder(tmp_path / "f", description)
    with pytest.raises(PerceptionError) as caught:
        open_datasets(root)
    assert message in str(caught.value) and str(root) in str(caught.value)


# Splits of the shared data.


def test_shipped_splits_have_the_documented_samples_and_are_disjoint(
    shared_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATA", str(shared_data))
    train = {dataset.name: dataset for dataset in open_datasets(CONFIG / "street-train.yaml")}
    assert {name: _counts(dataset) for name, dataset in train.items()} == {
        "kitti2015-train": (128, 128, 79),
        "sfnd": (20, 0, 20),
        "residential": (66, 0, 66),
        "slamdemo": (10, 0, 10),
        "single": (12, 0, 12),
        "camvid-train": (367, 367, 0),
    }
    (held,) = open_datasets(CONFIG / "street-heldout.yaml")
    assert _counts(held) == (32, 32, 24)
    assert not set(held.keys) & set(train["kitti2015-train"].keys)
    assert {int(key[:6]) // 10 % 5 for key in held.keys} == {2}
    (drive,) = open_datasets(CONFIG / "street-drive.yaml")
    (camvid,) = open_datasets(CONFIG / "camvid-val.yaml")
    assert _counts(drive) == (32, 0, 32) and _counts(camvid) == (101, 101, 0)


def test_all_data_sets_of_the_shared_folder_are_recognized(shared_data: Path) -> None:
    found = {dataset.name: dataset for dataset in open_datasets(shared_data)}
    assert {name: _counts(dataset) for name, dataset in found.items()} == {
        "camvid-train": (367, 367, 0),
        "camvid-val": (101, 101, 0),
        "kitti2015": (160, 160, 103),
        "drive_0009": (32, 0, 32),
        "residential": (66, 0, 66),
        "sfnd": (20, 0, 20),
        "single": (12, 0, 12),
        "slamdemo": (10, 0, 10),
        "2011_09_26_drive_0009_sync": (32, 0, 2),
    }


def test_projected_lidar_sweep_equals_an_independent_depth_image(shared_data: Path) -> None:
    found = {dataset.name: dataset for dataset in open_datasets(shared_data)}
    projected, independent = found["2011_09_26_drive_0009_sync"][17].depth, found["drive_0009"][17].depth
    assert projected is not None and independent is not None
    both = ~np.isnan(projected)
    np.testing.assert_array_equal(both, ~np.isnan(independent))
    assert both.sum() > 19000
    # The depth image is quantized in steps of 1/256 m.
    assert np.abs(projected - independent)[both].max() < 1 / 256


def test_real_samples_have_plausible_labels_and_depth(shared_data: Path) -> None:
    (kitti,) = open_datasets(shared_data / "kitti2015")
    assert kitti.keys[0] == "000000_10"
    sample = kitti[kitti.keys.index("000002_10")]
    assert sample.labels is not None and sample.depth is not None
    known = sample.depth[~np.isnan(sample.depth)]
    assert known.min() > 3 and known.max() < 100 and 0.1 < known.size / sample.depth.size < 0.3
    assert set(np.unique(sample.labels)) <= {*range(12), 255}


def test_data_sets_can_be_pickled(tmp_path: Path) -> None:
    write_kitti2015(tmp_path / "k", [0, 1], depth=[1])
    entries = [{"path": "k", "select": {"need": "depth"}}, {"path": "f"}, {"format": "synthetic", "count": 2}]
    _folder(tmp_path / "f")
    sets = open_sets(entries, tmp_path)
    copies = pickle.loads(pickle.dumps(sets))
    assert [copy.keys for copy in copies] == [["000001_10"], ["one", "yard/two"], ["000000", "000001"]]
    assert isinstance(copies[0], Subset) and copies[0][0].depth[4, 3] == 10
