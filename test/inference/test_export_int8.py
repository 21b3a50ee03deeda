"""`export --precision int8`: QDQ operators, agreement in ONNX Runtime, size, and refused weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.images import noise_image

onnx = pytest.importorskip("onnx", reason="needs onnx: pip install 'mtl_perception[export]'")
pytest.importorskip("onnxruntime", reason="needs onnxruntime: pip install 'mtl_perception[export]'")
pytest.importorskip("openvino", reason="needs openvino: pip install 'mtl_perception[openvino]'")

from mtl_perception import CameraModel, Frame, Pipeline, load_network
from mtl_perception.__main__ import main
from mtl_perception.cli.export import CHECKED_SIZES
from mtl_perception.inference.onnx.check import OnnxFile, synthetic_image
from mtl_perception.inference.onnx.export import write_onnx
from mtl_perception.inference.onnx.graph import ExportOptions
from mtl_perception.inference.openvino.calibration import calibrate
from mtl_perception.inference.openvino.engine import OpenVinoEngine
from mtl_perception.network.quantization import quantized_convolutions
from mtl_perception.weights.files import save_weights

FOCAL_LENGTH = 700.0


def with_table(weights: str | Path, images: list[np.ndarray], path: Path) -> Path:
    """Write weights with a table made from images."""
    network = load_network(weights)
    table = calibrate(network, images).describe(network, ["test"], len(images))
    save_weights(path, network.state_dict(), replace(network.description, quantization=table), half=False)
    return path


@pytest.fixture(scope="module")
def random_weights(weights_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    images = [noise_image(61, 90, seed) for seed in (1, 2)]
    return with_table(weights_file, images, tmp_path_factory.mktemp("int8") / "random.safetensors")


@pytest.fixture(scope="module")
def model_file(random_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "int8.onnx"
    assert main(["export", str(random_weights), "--out", str(path), "--precision", "int8", "--no-check"]) == 0
    return path


def test_convolutions_of_the_table_read_int8_with_scales_by_channel(random_weights: Path, model_file: Path) -> None:
    model = onnx.load(str(model_file))
    producers = {output: node for node in model.graph.node for output in node.output}
    arrays = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    quantized = []
    for node in model.graph.node:
        if node.op_type != "Conv" or node.input[1] not in producers:
            continue
        source, weight = (producers[name] for name in node.input[:2])
        assert (source.op_type, producers[source.input[0]].op_type, weight.op_type) == (
            "DequantizeLinear",
            "QuantizeLinear",
            "DequantizeLinear",
        )
        values, scales, zeros = (arrays[name] for name in weight.input)
        assert (values.dtype, zeros.dtype, scales.shape, zeros.any()) == (np.int8, np.int8, values.shape[:1], np.False_)
        largest = np.abs(values.astype(int)).reshape(len(values), -1).max(1)
        assert largest.min() >= 126 and largest.max() == 127, "each channel uses the whole range"
        assert arrays[source.input[2]].dtype == np.int8 and arrays[source.input[2]] == 0, "TensorRT has no other zero points"
        quantized.append(node.input[1].removesuffix(".weight_float"))
    expected = quantized_convolutions(load_network(random_weights))
    assert sorted(quantized) == sorted(name for name in expected if name != "conv8")


def test_file_has_four_tenths_of_the_size(random_weights: Path, model_file: Path, tmp_path: Path) -> None:
    write_onnx(load_network(random_weights), ExportOptions(("labels",), (0, 12), 80.0), tmp_path / "fp32.onnx")
    assert model_file.stat().st_size < 0.4 * (tmp_path / "fp32.onnx").stat().st_size


@pytest.mark.parametrize("opset", [13, 20])
def test_all_operator_sets_give_the_same_labels(random_weights: Path, model_file: Path, tmp_path: Path, opset: int) -> None:
    path = tmp_path / "other.onnx"
    write_onnx(
        load_network(random_weights),
        ExportOptions(("labels", "confidence", "depth"), (0, 12), 80.0, precision="int8", opset=opset),
        path,
    )
    image = noise_image(45, 70)[None]
    found, expected = (OnnxFile(one)(image, FOCAL_LENGTH)["labels"] for one in (path, model_file))
    assert np.mean(found == expected) > 0.999


def test_rendered_scene_has_the_labels_and_depth_of_the_pipeline(tmp_path: Path) -> None:
    """Compare with float32 and with the pipeline's own int8, which has uint8 inputs, in a part of a rendered street."""
    pytest.importorskip("open3d", reason="needs open3d: pip install 'mtl_perception[synthetic]'")
    from mtl_perception.synthetic.drive import SyntheticDrive

    image = np.ascontiguousarray(SyntheticDrive(1, seed=5).sample(0).frame.image[90:346, 300:812])
    # The images of the check, too: their values would be clamped by the ranges of others.
    images = [image, np.ascontiguousarray(image[:, ::-1]), *(synthetic_image(*size) for size in CHECKED_SIZES)]
    weights = with_table("street", images, tmp_path / "street.safetensors")
    path = tmp_path / "street.onnx"
    assert main(["export", str(weights), "--out", str(path), "--precision", "int8"]) == 0, "the check accepts it"
    height, width = image.shape[:2]
    pipe = Pipeline(weights, "cpu", precision="fp32", backend="torch", warm_up=False)
    frame = Frame(image, CameraModel(width, height, FOCAL_LENGTH, FOCAL_LENGTH, width / 2, height / 2))
    exact = pipe(frame, ("labels", "depth"))
    found = OnnxFile(path)(image[None], FOCAL_LENGTH)
    assert np.mean(found["labels"][0] == exact.labels) > 0.98
    both = np.isfinite(found["depth"][0]) & np.isfinite(exact.depth)
    assert both.mean() > 0.3
    assert np.median(np.abs(found["depth"][0][both] / exact.depth[both] - 1)) < 0.02
    pipe._backend.engine = OpenVinoEngine(load_network(weights), "int8-fp32")
    assert np.mean(found["labels"][0] == pipe(frame, ("labels",)).labels) > 0.98


def test_weights_without_a_table_are_refused(weights_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "int8.onnx"
    assert main(["export", str(weights_file), "--out", str(path), "--precision", "int8"]) == 1
    assert "the weights have no table; make a table with `mtl_perception quantize`" in capsys.readouterr().err
    assert not path.exists()
