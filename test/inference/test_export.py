"""`export`: agreement of ONNX files with the pipeline at any size, and rejection of files that differ."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.images import noise_image

onnx = pytest.importorskip("onnx", reason="needs onnx: pip install 'mtl_perception[export]'")
pytest.importorskip("onnxruntime", reason="needs onnxruntime: pip install 'mtl_perception[export]'")

from mtl_perception import CameraModel, Frame, Pipeline, load_network
from mtl_perception.__main__ import main
from mtl_perception.errors import PerceptionError
from mtl_perception.inference.onnx.check import TOLERANCES, OnnxFile, compare
from mtl_perception.inference.onnx.export import metadata, write_onnx
from mtl_perception.inference.onnx.graph import ExportGraph, ExportOptions
from mtl_perception.labels import STREET
from mtl_perception.network.description import Description, published_description
from mtl_perception.network.folding import fold_batch_norm
from mtl_perception.weights.files import read_weights, save_weights

OUTPUTS = ("labels", "confidence", "depth")
CLASSES = (0, len(STREET.names))
LIMITS = (5.0, 40.0)
"""Smallest and largest depth of the pipeline and the file, meters."""


@pytest.fixture(scope="module")
def metric_weights(weights_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The random weights, described as trained at a focal length of 500 pixels."""
    state, description = read_weights(weights_file)
    path = tmp_path_factory.mktemp("metric") / "metric.safetensors"
    save_weights(path, state, replace(description, depth_focal_length=500.0), half=False)
    return path


@pytest.fixture(scope="module")
def pipeline(metric_weights: Path) -> Pipeline:
    """The pipeline that `any_size` was exported from."""
    return Pipeline(metric_weights, "cpu", max_depth=LIMITS[1], min_depth=LIMITS[0], min_confidence=0.4, warm_up=False)


@pytest.fixture(scope="module")
def any_size_file(metric_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All outputs, any size, bicubic, every limit set."""
    path = tmp_path_factory.mktemp("onnx") / "any.onnx"
    write_onnx(
        load_network(metric_weights), ExportOptions(OUTPUTS, CLASSES, LIMITS[1], min_depth=LIMITS[0], min_confidence=0.4), path
    )
    return path


@pytest.fixture(scope="module")
def any_size(any_size_file: Path) -> OnnxFile:
    return OnnxFile(any_size_file)


def pipeline_outputs(pipeline: Pipeline, image: np.ndarray, focal_length: float, outputs: tuple[str, ...] = OUTPUTS) -> dict:
    height, width = image.shape[:2]
    camera = CameraModel(width, height, focal_length, focal_length, width / 2, height / 2)
    result = pipeline(Frame(image, camera), outputs)
    return {name: getattr(result, name) for name in outputs}


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for name, values in found.items():
        assert values.shape == expected[name].shape and values.dtype == expected[name].dtype
        if name == "depth":
            # NaN and Inf at the same pixels, except for depths at a limit up to rounding.
            finite = np.isfinite(values) & np.isfinite(expected[name])
            apart = np.isfinite(values) != np.isfinite(expected[name])
            edges = np.where(np.isfinite(values), values, expected[name])[apart]
            assert np.mean(apart) <= 1e-3 and np.isclose(edges[:, None], LIMITS, rtol=1e-3).any(axis=1).all()
            np.testing.assert_allclose(values[finite], expected[name][finite], rtol=1e-3)
            np.testing.assert_array_equal(values[~finite & ~apart], expected[name][~finite & ~apart])
        else:
            # Scores that are equal up to rounding may give either label.
            difference = np.abs(values.astype(int) - expected[name])
            assert np.mean(difference > (name == "confidence")) <= 1e-3


# 61x90: the network's sizes are 31x45, 16x23, 8x12, 4x6, 2x3: all rounded up somewhere.
@pytest.mark.parametrize(("height", "width"), [(61, 90), (33, 131), (7, 5)])
def test_one_file_agrees_with_the_pipeline_at_any_size(any_size: OnnxFile, pipeline: Pipeline, height: int, width: int) -> None:
    image = noise_image(height, width)
    expected = pipeline_outputs(pipeline, image, 450.0)
    found = any_size(image[None], 450.0)
    assert_same({name: values[0] for name, values in found.items()}, expected)
    if height > 60:
        depth = found["depth"]
        assert np.isnan(depth).any() and np.isposinf(depth).any() and (np.isfinite(depth) & (depth < 40)).any()
        assert not (depth < 5).any()
        assert 0.02 < np.mean(found["labels"] == 255) < 0.98 and len(np.unique(found["labels"])) > 3


def test_images_of_a_batch_do_not_mix(any_size: OnnxFile) -> None:
    images = np.stack([noise_image(45, 70, seed) for seed in (1, 2)])
    together = any_size(images, 500.0)
    for position, image in enumerate(images):
        assert_same(
            {name: values[position] for name, values in together.items()},
            {name: values[0] for name, values in any_size(image[None], 500.0).items()},
        )
    assert (together["labels"][0] != together["labels"][1]).any()


def test_depth_scales_with_the_focal_length(any_size: OnnxFile) -> None:
    image = noise_image(48, 80)[None]
    near, far = any_size(image, 500.0)["depth"], any_size(image, 550.0)["depth"]
    both = np.isfinite(near) & np.isfinite(far)
    assert both.any()
    np.testing.assert_allclose(far[both] / near[both], 1.1, rtol=1e-5)


def test_metadata_describe_the_file(any_size: OnnxFile, metric_weights: Path) -> None:
    texts = any_size.metadata
    assert Description.from_json(texts["mtl_perception"]) == load_network(metric_weights).description
    assert json.loads(texts["classes"]) == list(STREET.names)
    assert texts["license"] == "none"
    assert float(texts["depth_focal_length"]) == 500.0
    chosen = json.loads(texts["export"])
    assert (chosen["upsampling"], chosen["max_depth"], chosen["min_confidence"]) == ("bicubic", 40.0, 0.4)


def test_command_writes_a_file_of_fixed_size_with_its_license(
    weights_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "fixed.onnx"
    arguments = ["export", str(weights_file), "--out", str(out), "--size", "90x61", "--upsampling", "bilinear"]
    assert main([*arguments, "--outputs", "depth,labels", "--opset", "20"]) == 0
    printed = capsys.readouterr()
    assert "license: none" in printed.err
    assert "labels, depth of 90x61 images, fp32" in printed.out and "agrees with the pipeline" in printed.out
    model = onnx.load(str(out))
    onnx.checker.check_model(model, full_check=True)
    shapes = {
        value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    # No input for the focal length: the depth of these weights does not depend on it.
    assert shapes == {"image": ["N", 61, 90, 3], "labels": ["N", 61, 90], "depth": ["N", 61, 90]}
    assert [entry.version for entry in model.opset_import if not entry.domain] == [20]
    kinds = {node.op_type for node in model.graph.node}
    assert "BatchNormalization" not in kinds
    windows = {
        tuple(a.ints) for n in model.graph.node if n.op_type == "MaxPool" for a in n.attribute if a.name == "kernel_shape"
    }
    assert windows == {(1, 5), (5, 1)}
    file = OnnxFile(out)
    image = noise_image(61, 90)
    pipeline = Pipeline(weights_file, "cpu", upsampling="bilinear", warm_up=False)
    found = {name: values[0] for name, values in file(image[None], 0.0).items()}
    assert_same(found, pipeline_outputs(pipeline, image, 450.0, ("labels", "depth")))
    with pytest.raises(PerceptionError, match=r"ONNX Runtime failed on 1 images of 80x61"):
        file(image[None, :, :80], 0.0)
    assert main([*arguments, "--no-check"]) == 2
    assert "exists already" in capsys.readouterr().err


def test_published_network_with_a_group_of_classes_agrees_with_the_pipeline(tmp_path: Path) -> None:
    from mtl_perception.network.model import MultiTaskRefineNet

    torch.manual_seed(3)
    network = MultiTaskRefineNet(published_description(46, 2)).eval()
    torch.nn.init.normal_(network.get_parameter("depth.weight"), std=30)
    checkpoint = tmp_path / "published.ckpt"
    torch.save({"state_dict": network.state_dict()}, checkpoint)
    network = load_network(checkpoint)
    pipeline = Pipeline(checkpoint, "cpu", classes="kitti6", warm_up=False)
    path = tmp_path / "published.onnx"
    write_onnx(network, ExportOptions(OUTPUTS, (40, 6), pipeline.max_depth), path)
    image = noise_image(50, 75)
    expected = pipeline_outputs(pipeline, image, 700.0)
    # Depth is a magnitude here, and ratios near 0 mean little.
    assert expected["depth"][np.isfinite(expected["depth"])].std() > 0.01
    found = {name: values[0] for name, values in OnnxFile(path)(image[None], 0.0).items()}
    assert not [verdict for verdict in compare(found, expected, TOLERANCES["fp32"]).values() if verdict.startswith("differs")]
    assert json.loads(metadata(network, ExportOptions(OUTPUTS, (40, 6), 80.0))["classes"])[0] == "sky"


def test_half_precision_is_close(weights_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "half.onnx"
    write_onnx(load_network(weights_file), ExportOptions(("labels", "depth"), CLASSES, 80.0, precision="fp16"), path)
    assert path.stat().st_size < 7e6
    image = noise_image(61, 90)
    expected = pipeline_outputs(Pipeline(weights_file, "cpu", warm_up=False), image, 450.0, ("labels", "depth"))
    found = {name: values[0] for name, values in OnnxFile(path)(image[None], 0.0).items()}
    assert np.mean(found["labels"] == expected["labels"]) > 0.97
    both = np.isfinite(found["depth"]) & np.isfinite(expected["depth"])
    # Random weights amplify rounding more than trained ones: with `street` the difference stays within 0.001.
    assert np.median(np.abs(found["depth"][both] / expected["depth"][both] - 1)) < 0.03


@pytest.mark.parametrize("outputs", [("labels",), OUTPUTS], ids="-".join)
def test_nonfinite_outputs_give_no_label_and_no_depth(weights_file: Path, outputs: tuple[str, ...]) -> None:
    network = load_network(weights_file)
    network.get_parameter("segm.bias")[3] = torch.nan
    network.get_parameter("depth.bias")[0] = torch.inf
    graph = ExportGraph(network, ExportOptions(outputs, CLASSES, 80.0))
    with torch.no_grad():
        values = dict(zip(outputs, graph(torch.zeros(1, 20, 30, 3, dtype=torch.uint8)), strict=False))
    assert (values["labels"] == 255).all()
    if "depth" in outputs:
        assert (values["confidence"] == 0).all() and torch.isnan(values["depth"]).all()


def test_folded_network_is_the_same_function(weights_file: Path) -> None:
    network = load_network(weights_file)
    # Statistics that change the output.
    for name, value in network.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            value.copy_(torch.linspace(0.5, 1.5, len(value)))
    image = torch.from_numpy(noise_image(24, 32)).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.no_grad():
        for plain, folded in zip(network(image), fold_batch_norm(network)(image), strict=True):
            torch.testing.assert_close(folded, plain, rtol=0, atol=1e-4 * float(plain.abs().max()))


def test_a_file_that_differs_is_removed(
    metric_weights: Path,
    any_size_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from mtl_perception.cli import export as command

    # The same network with other limits, as if the exporter ignored the options.
    monkeypatch.setattr(command, "write_onnx", lambda network, options, path: shutil.copy(any_size_file, path))
    out = tmp_path / "wrong.onnx"
    assert main(["export", str(metric_weights), "--out", str(out), "--size", "90x61"]) == 1
    message = capsys.readouterr().err.splitlines()[-1]
    assert "differs from the pipeline: " in message and "depth of the generated image 1 of 90x61 differs: " in message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message", "code"),
    [
        (["--size", "0x5"], "--size '0x5' is not WIDTHxHEIGHT", 2),
        (["--opset", "9"], "opset 9: choose one from 13 to 20", 2),
        (["--outputs", "labels,points"], "these weights have no output 'points': choose among labels, confidence, depth", 2),
        (["--outputs", "normals"], "these weights have no output 'normals'", 2),
        (["--outputs", ""], "no output is requested", 2),
        (["--max-depth", "3", "--min-depth", "4"], "min_depth", 2),
        (["--image", "none.png", "--size", "9x9"], "none.png", 1),
    ],
)
def test_invalid_options_are_refused_and_no_file_is_written(
    arguments: list[str], message: str, code: int, weights_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(weights_file), "--out", str(tmp_path / "a.onnx"), *arguments]) == code
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("package", "hint"), [("onnx", ""), ("onnxruntime", "--no-check")])
def test_missing_package_is_reported(
    package: str, hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    assert main(["export", "street", "--out", str(tmp_path / "a.onnx")]) == 1
    printed = capsys.readouterr().err
    assert f"needs {package}, which cannot be imported" in printed and "pip install 'mtl_perception[export]'" in printed
    assert hint in printed


def test_failing_exporter_is_reported_in_one_line(weights_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("first\nsecond")

    monkeypatch.setattr(torch.onnx, "export", fail)
    with pytest.raises(PerceptionError, match=r"could not export: first second; "):
        write_onnx(load_network(weights_file), ExportOptions(("depth",), CLASSES, 80.0), tmp_path / "a.onnx")


def test_comparison_reports_what_differs() -> None:
    depth = np.array([[1.0, np.nan, np.inf, 50.0]], np.float32)
    tolerance = TOLERANCES["fp32"]

    def verdict(name: str, found: np.ndarray, expected: np.ndarray) -> str:
        return compare({name: found}, {name: expected}, tolerance)[name]

    assert verdict("depth", depth, depth).startswith("100")
    for changed in ([1.003, np.nan, np.inf, 50], [1, 2, np.inf, 50], [1, np.nan, np.nan, 50], [np.nan, np.nan, np.inf, 50]):
        assert verdict("depth", np.array([changed], np.float32), depth).startswith("differs: 75.000%")
    assert verdict("labels", np.array([1, 2], np.uint8), np.array([1, 3], np.uint8)).startswith("differs: 50.000%")
    assert verdict("labels", np.zeros(2, np.uint8), np.zeros(3, np.uint8)) == "differs: uint8 (2,), not uint8 (3,)"
    assert verdict("confidence", np.array([9], np.uint8), np.array([10], np.uint8)).startswith("100")
    assert verdict("logits", np.array([np.nan, 1.0]), np.array([1.0, 1.0])).startswith("differs")
    assert verdict("raw_depth", np.array([2.001, 1.0]), np.array([2.0, 1.0])).startswith("off by 5.0e-04")
