"""`bench`: reports, agreement of implementations, and plots; latency itself is not tested."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from support.images import noise_image
from torch import nn
from torch.nn import functional as F

from mtl_perception.__main__ import main
from mtl_perception.benchmark import compare as bench_compare
from mtl_perception.benchmark import scaling as bench_scaling
from mtl_perception.benchmark.published import PublishedPipeline, eager, published_network
from mtl_perception.benchmark.timing import PeakMemory
from mtl_perception.camera.model import CameraModel
from mtl_perception.errors import PerceptionError
from mtl_perception.types import CLOUD_DTYPE
from mtl_perception.weights.files import load_network

ARGUMENTS = ["--runs", "3", "--no-warm-up", "--device", "cpu"]


def test_stages_are_printed_and_written_as_json(tmp_path, weights_file, capsys):
    arguments = ["--size", "48x32", "--runs", "3", "--json", str(tmp_path / "new/b.json"), "--no-warm-up", "--device", "cpu"]
    assert main(["bench", *arguments, "--weights", str(weights_file)]) == 0
    written = json.loads((tmp_path / "new/b.json").read_text())
    assert written["runs"] == 3
    assert (written["machine"]["precision"], written["machine"]["weights"]) == ("fp32", str(weights_file))
    stages = written["sizes"]["48x32"]
    assert {"decode bgr8", "forward", "upsampling, argmax", "depth", "cloud", "message fields"} <= stages.keys()
    assert all(row["median_ms"] > 0 and row["iqr_ms"] >= 0 for row in stages.values())
    shown = capsys.readouterr().out
    assert "48x32" in shown
    for stage, row in stages.items():
        assert any(
            line.split(stage)[-1].split()[:1] == [f"{row['median_ms']:.2f}"] for line in shown.splitlines() if stage in line
        )


def test_normalization_is_a_stage_of_the_torch_backend(tmp_path, weights_file):
    for backend, expected in (("torch", True), ("auto", False)):
        if backend == "auto":
            pytest.importorskip("openvino", reason="needs openvino")
        file = tmp_path / f"{backend}.json"
        arguments = [*ARGUMENTS, "--size", "24x16", "--backend", backend, "--json", str(file), "--weights", str(weights_file)]
        assert main(["bench", *arguments]) == 0
        assert ("normalize (part of forward)" in json.loads(file.read_text())["sizes"]["24x16"]) == expected


@pytest.mark.parametrize(
    "arguments", [["--runs", "2"], ["--size", "64"], ["--size", "0x9"], ["--size", "9x²"], ["--size", "axb"]]
)
def test_invalid_options_exit_with_code_2(weights_file, arguments, capsys):
    assert main(["bench", *arguments, "--no-warm-up", "--device", "cpu", "--weights", str(weights_file)]) == 2
    assert capsys.readouterr().err.startswith(f"mtl_perception bench: {arguments[0]} ")


def test_implementations_agree_and_missing_ones_give_a_reason(tmp_path, weights_file, capsys, monkeypatch):
    real = bench_compare.require

    def require(package, **named):
        if package == "onnxruntime":
            raise PerceptionError("no onnxruntime here")
        return real(package, **named)

    monkeypatch.setattr(bench_compare, "require", require)
    arguments = [*ARGUMENTS, "--compare", "--size", "90x61", "--json", str(tmp_path / "c.json"), "--weights", str(weights_file)]
    assert main(["bench", *arguments]) == 0
    rows = json.loads((tmp_path / "c.json").read_text())["compare"]["90x61"]
    shown = capsys.readouterr().out
    assert all(name in shown for name in rows)
    assert rows.pop(bench_compare.ONNX_RUNTIME) == {"skipped": "no onnxruntime here"}
    assert "no quantization table" in rows["ours: openvino, int8"]["skipped"]
    published = rows[bench_compare.PUBLISHED]
    assert published["network"]["ratio"] == published["total"]["ratio"] == 1
    assert (published["agreement"]["labels"], published["agreement"]["network"]) == (1, 0)
    fp32 = [row for name, row in rows.items() if name.endswith("fp32") and "skipped" not in row]
    assert fp32
    for row in fp32:
        assert row["network"]["median_ms"] > 0 and row["total"]["iqr_ms"] >= 0
        assert row["agreement"]["network"] < 1e-3
        assert row["agreement"]["labels"] > 0.999
        assert row["agreement"]["depth_p99"] < 1e-3


def test_published_implementation_uses_single_pooling_and_gives_the_same_results(weights_file):
    network = load_network(weights_file)
    network.description = replace(network.description, grid="stretched")
    calls = []
    max_pool = F.max_pool2d

    def counting(*args, **kwargs):
        calls.append(kwargs.get("kernel_size", args[1] if len(args) > 1 else None))
        return max_pool(*args, **kwargs)

    pipeline = PublishedPipeline(network.description, eager(published_network(network)))
    image, camera = noise_image(61, 90), CameraModel(90, 61, 70.0, 71.0, 44.5, 30.5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(F, "max_pool2d", counting)
        found = pipeline(image, camera)
    assert calls == [5] * 16
    x = pipeline.prepare(image)
    assert (x.shape, x.dtype, x.flags.c_contiguous) == ((1, 3, 61, 90), np.float32, True)
    with torch.inference_mode():
        logits, raw = (output[0].numpy() for output in network(torch.from_numpy(x)))
    upsampled = np.stack([cv2.resize(plane, (90, 61), interpolation=cv2.INTER_CUBIC) for plane in logits])
    assert (found["labels"] == upsampled.argmax(axis=0)).mean() > 0.999
    meters = np.exp(cv2.resize(raw[0], (90, 61), interpolation=cv2.INTER_CUBIC))
    np.testing.assert_allclose(found["depth"], meters, rtol=1e-4)
    cloud = found["cloud"]
    assert cloud.dtype == CLOUD_DTYPE
    np.testing.assert_allclose(cloud["x"][7, 60], (60 - 44.5) * found["depth"][7, 60] / 70, rtol=1e-6)
    assert cloud["rgb"][7, 60] == int.from_bytes(bytes(image[7, 60]), "big")
    assert any(isinstance(module, nn.BatchNorm2d) for module in published_network(network).modules())


def test_scaling_writes_report_and_plot(tmp_path, weights_file, monkeypatch, capsys):
    pytest.importorskip("matplotlib", reason="needs matplotlib")
    monkeypatch.setattr(bench_scaling, "FULL_SIZE", (64, 48))
    monkeypatch.setattr(bench_scaling, "PIXEL_RATIOS", (0.5, 1.0))
    monkeypatch.setattr(bench_scaling, "SMALL_SIZE", (48, 32))
    monkeypatch.setattr(bench_scaling, "CLASSES", (2, 24))
    monkeypatch.setattr(bench_scaling, "CAMERAS", (1, 3))
    files = tmp_path / "plots" / "p.png", tmp_path / "s.json"
    assert main(["bench", *ARGUMENTS, "--scaling", str(files[0]), "--json", str(files[1]), "--weights", str(weights_file)]) == 0
    found = json.loads(files[1].read_text())["scaling"]
    assert found["pixels"]["x"] == [45 * 34, 64 * 48]
    assert found["classes"]["x"] == [2, 24]
    assert found["cameras"]["x"] == [1, 3]
    assert all(len(part["median_ms"]) == 2 and "linear_or_slower" in part for part in found.values())
    image = cv2.imread(str(files[0]))
    assert image is not None and image.std() > 0
    assert "latency against pixels" in capsys.readouterr().out


def test_scaling_plot_shows_the_measured_points():
    pytest.importorskip("matplotlib", reason="needs matplotlib")
    row = {"exponent": 1.0}
    report = {
        "pixels": row | {"x": [500_000, 2_000_000], "median_ms": [10.0, 40.0]},
        "cameras": row | {"x": [1, 2], "median_ms": [5.0, 9.0]},
    }
    pixels, cameras = bench_scaling.draw(report).axes
    assert (pixels.get_xlabel(), cameras.get_xlabel()) == ("megapixels", "cameras")
    linear, measured = pixels.get_lines()
    np.testing.assert_allclose(measured.get_xydata(), [(0.5, 10), (2, 40)])
    np.testing.assert_allclose(linear.get_xydata(), [(0, 0), (2, 40)])
    np.testing.assert_allclose(cameras.get_lines()[1].get_xydata(), [(1, 5), (2, 9)])


def test_scaling_without_matplotlib_names_the_extra(tmp_path, weights_file, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert main(["bench", *ARGUMENTS, "--scaling", str(tmp_path / "p.png"), "--weights", str(weights_file)]) == 1
    assert "pip install 'mtl_perception[plot]'" in capsys.readouterr().err


def test_growth_is_classified():
    slow = bench_scaling._report([1, 2, 4], [[1.0] * 3, [2.0] * 3, [4.0] * 3])
    fast = bench_scaling._report([1, 2, 4], [[1.0] * 3, [4.0] * 3, [16.0] * 3])
    assert (slow["exponent"], slow["linear_or_slower"]) == (1, True)
    assert (fast["exponent"], fast["linear_or_slower"]) == (2, False)


def test_peak_memory_is_that_of_the_block():
    with PeakMemory() as memory:
        block = np.ones(200_000_000, np.uint8)
        del block
    if memory.megabytes is None:
        pytest.skip("the high-water mark cannot be reset here (Linux's /proc/self/clear_refs)")
    # Memory of earlier tests may be freed meanwhile.
    assert 150 < memory.megabytes < 260
