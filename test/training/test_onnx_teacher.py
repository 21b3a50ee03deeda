"""Teachers in ONNX files, and pseudo-labels that are kept for a machine without them."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from support.training import FOCAL_LENGTH, HEIGHT, PERSON, ROAD, SKY, WIDTH, datasets_fixture, read_log, train, write_config

from mtl_perception.camera.model import CameraModel
from mtl_perception.errors import ConfigError, SourceError
from mtl_perception.labels import KITTI6, STREET
from mtl_perception.network.description import Description
from mtl_perception.training.config import OnnxTeacher, Teacher
from mtl_perception.training.config_file import read_config
from mtl_perception.training.data.training_set import open_training_sets
from mtl_perception.training.onnx_teacher import OnnxNetwork
from mtl_perception.training.pseudo_labels import mean_depth, write_pseudo_labels
from mtl_perception.types import Frame
from mtl_perception.weights.files import load_network, save_weights

onnx = pytest.importorskip("onnx", reason="onnx writes the file of the teacher")
pytest.importorskip("openvino", reason="OpenVINO runs the teacher")
data = datasets_fixture()
SIZE = (40, 32)


@pytest.fixture(scope="module")
def teacher_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a network with input `rgb`: `disparity` is the mean of the channels, `scores` are 50 times the channels."""
    node, tensor = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    shape = [1, 3, *SIZE[::-1]]
    constants = [onnx.helper.make_tensor("fifty", onnx.TensorProto.FLOAT, [], [50.0])]
    graph = onnx.helper.make_graph(
        [node("ReduceMean", ["rgb"], ["disparity"], axes=[1], keepdims=1), node("Mul", ["rgb", "fifty"], ["scores"])],
        "teacher",
        [tensor("rgb", onnx.TensorProto.FLOAT, shape)],
        [tensor("disparity", onnx.TensorProto.FLOAT, [1, 1, *shape[2:]]), tensor("scores", onnx.TensorProto.FLOAT, shape)],
        constants,
    )
    path = tmp_path_factory.mktemp("onnx") / "teacher.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def options(file: Path, **changes: Any) -> OnnxTeacher:
    values = {"file": str(file), "size": SIZE, "depth": "disparity", "form": "inverse", "depth_scale": (0.01, 0.5)}
    return OnnxTeacher(**{**values, **changes})


def half_image() -> Frame:
    """Return an image whose left half is pure red at 200 and whose right half is pure blue at 100."""
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    image[:, : WIDTH // 2, 0] = 200
    image[:, WIDTH // 2 :, 2] = 100
    return Frame(image, CameraModel(WIDTH, HEIGHT, FOCAL_LENGTH, FOCAL_LENGTH, WIDTH / 2, HEIGHT / 2))


def expected_depth(value: float) -> float:
    return 1 / (0.01 + 0.5 * value / 255 / 3)


@pytest.mark.parametrize("mirror", [False, True])
def test_disparity_becomes_depth_at_the_size_of_the_image(teacher_file: Path, mirror: bool) -> None:
    network = OnnxNetwork(options(teacher_file, mirror=mirror), Path(), STREET)
    labels, depth = network(half_image(), 0.5)
    assert labels is None
    assert depth is not None and depth.shape == (HEIGHT, WIDTH) and depth.dtype == np.float32
    assert np.allclose(depth[:, :70], expected_depth(200), rtol=1e-4)
    assert np.allclose(depth[:, 90:], expected_depth(100), rtol=1e-4)


def test_depth_is_converted_to_the_focal_length_of_the_camera(teacher_file: Path) -> None:
    # Resized from 160 to 40 columns, the image has a focal length of 25 pixels.
    network = OnnxNetwork(options(teacher_file, focal_length=50.0), Path(), STREET)
    depth = network(half_image(), 0.5)[1]
    assert depth is not None and depth[0, 0] == pytest.approx(expected_depth(200) / 2, rel=1e-4)


def test_scores_become_labels_of_the_classes_of_the_run(teacher_file: Path, tmp_path: Path) -> None:
    (tmp_path / "ids.yaml").write_text("source: test\nto: street\nids: {0: person, 1: sky, 2: null}\n")
    network = OnnxNetwork(options(teacher_file, depth="", labels="scores", mapping="ids.yaml"), tmp_path, STREET)
    labels, depth = network(half_image(), 0.7)
    assert depth is None and labels is not None
    assert (labels[:, :76] == PERSON).all() and (labels[:, 84:] == 255).all()
    unsure = network(Frame(np.full((HEIGHT, WIDTH, 3), 90, np.uint8)), 0.7)[0]
    assert unsure is not None and (unsure == 255).all()


def test_wrong_files_and_outputs_are_named(teacher_file: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="none.onnx does not exist"):
        OnnxNetwork(options(Path("none.onnx")), tmp_path, STREET)
    with pytest.raises(ConfigError, match="no output 'dept'; it has disparity, scores"):
        OnnxNetwork(options(teacher_file, depth="dept"), tmp_path, STREET)
    (tmp_path / "broken.onnx").write_bytes(b"nothing")
    with pytest.raises(ConfigError, match=r"broken.onnx cannot be used"):
        OnnxNetwork(options(tmp_path / "broken.onnx"), tmp_path, STREET)
    with pytest.raises(ConfigError, match="at least one of its outputs"):
        OnnxTeacher(file="x.onnx")


def test_labels_of_other_classes_are_refused(data: Path, tmp_path: Path, teacher_file: Path, weights_file: Path) -> None:
    (tmp_path / "ids.yaml").write_text("to: kitti6\nids: {0: road}\n")
    with pytest.raises(ConfigError, match="ids.yaml maps to 'kitti6', but the data sets have the classes 'street'"):
        OnnxNetwork(options(teacher_file, labels="scores", mapping="ids.yaml"), tmp_path, STREET)
    network = OnnxNetwork(options(teacher_file, labels="scores"), tmp_path, STREET)
    with pytest.raises(ConfigError, match=r"teacher.onnx has 3 classes, not the 12 of 'street'; give a `mapping:`"):
        network(half_image(), 0.7)
    state = load_network(weights_file).state_dict()
    state |= {name: state[name][: len(KITTI6)].clone() for name in ("segm.weight", "segm.bias")}
    description = Description("six", KITTI6.names, KITTI6.colors, depth_transform="exp", depth_range=(1.0, 80.0))
    save_weights(tmp_path / "six.safetensors", state, description)
    teacher = Teacher(weights=str(tmp_path / "six.safetensors"))
    sets = open_training_sets([{"path": "depth", "format": "folder"}], data)
    with pytest.raises(ConfigError, match="has the classes 'six', the data sets have 'street'; set teacher.tasks to"):
        write_pseudo_labels(sets, teacher, tmp_path / "out", "cpu")
    assert not (tmp_path / "out").exists()
    [entry] = write_pseudo_labels(sets, replace(teacher, tasks=("depth",)), tmp_path / "out", "cpu")
    labels, depth = entry.pseudo_labels.load(0, (HEIGHT, WIDTH))
    assert labels is None and np.isfinite(depth).any()


def test_mean_depth_keeps_the_first_far_away_and_nothing_where_the_two_disagree() -> None:
    first = np.array([[10.0, 10.0, 50.0, 90.0, np.inf, np.nan]], np.float32)
    second = np.array([[14.4, 30.0, 72.0, 99.0, 20.0, 20.0]], np.float32)
    depth = mean_depth(first, second, Teacher(agreement=2.0, far=(30.0, 70.0)))
    # At 50 m the share of the second is half of a half.
    expected = [12.0, np.nan, 50 * 1.44**0.25, 90.0, np.inf, np.nan]
    assert np.allclose(depth[0], expected, rtol=1e-5, equal_nan=True)


def test_written_pseudo_labels_train_without_the_teacher(data: Path, tmp_path: Path, teacher_file: Path) -> None:
    onnx_keys = {"file": str(teacher_file), "size": list(SIZE), "depth": "disparity", "labels": "scores"}
    onnx_keys |= {"form": "inverse", "depth_scale": [0.01, 0.5], "mapping": "channels.yaml"}
    (data / "channels.yaml").write_text("to: street\nids: {0: road, 1: sidewalk, 2: terrain}\n")
    teacher = {"onnx": onnx_keys, "folder": str(tmp_path / "kept"), "sparse": True}
    sets = [{"path": "labels", "format": "folder", "focal_length": 90.0}, {"path": "depth", "format": "folder"}]
    path = write_config(data, "onnx", sets=sets, teacher=teacher, steps=2)
    assert train(path, tmp_path / "run", "--teach").strip().endswith(str(tmp_path / "kept"))
    assert len(list((tmp_path / "kept").rglob("*.png"))) == 8 and not (tmp_path / "run").exists()
    image = cv2.cvtColor(cv2.imread(str(next((data / "labels/image").iterdir()))), cv2.COLOR_BGR2RGB)
    [entry, _] = write_pseudo_labels(open_training_sets(sets, data), read_config(path).teacher, tmp_path / "kept", "cpu", data)
    labels, depth = entry.pseudo_labels.load(0, (HEIGHT, WIDTH))
    small = cv2.resize(image, SIZE, interpolation=cv2.INTER_AREA).astype(np.float32).mean(2)
    wanted = 1 / (0.01 + 0.5 * cv2.resize(small, (WIDTH, HEIGHT), interpolation=cv2.INTER_LINEAR) / 255)
    assert np.allclose(depth, wanted, rtol=0.01)
    assert set(np.unique(labels)) <= {ROAD, 1, 2, 255} and SKY not in labels
    # On a machine without OpenVINO and without the file of the teacher.
    program = f"""
import sys
sys.modules.update(dict.fromkeys(("openvino", "onnx", "onnxruntime")))
from mtl_perception.__main__ import main
sys.exit(main(["train", {str(path)!r}, "--out", {str(tmp_path / "run")!r}, "--device", "cpu",
    "--set", "teacher.onnx.file=absent.onnx"]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = read_log(tmp_path / "run")
    assert len(rows) == 2 and all(float(row["segmentation"]) > 0 and float(row["depth"]) > 0 for row in rows)


def test_teaching_without_a_teacher_is_refused(data: Path, tmp_path: Path) -> None:
    assert "set teacher.weights or teacher.onnx" in train(write_config(data, "none"), tmp_path, "--teach", code=2)
