"""Selection of device, precision and threads."""

from __future__ import annotations

import weakref

import numpy as np
import pytest
import torch
from support.images import noise_image

from mtl_perception.errors import ConfigError, DeviceError
from mtl_perception.inference.device import select_device, select_precision
from mtl_perception.inference.host.postprocess import Postprocessor
from mtl_perception.inference.host.workspace import Workspace
from mtl_perception.inference.openvino.arithmetic import cpu_arithmetic
from mtl_perception.inference.torch.engine import TorchEngine
from mtl_perception.network.grid import ResizeSpec
from mtl_perception.pipeline import Pipeline
from mtl_perception.types import Frame
from mtl_perception.weights.files import load_network

no_cuda = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device")
FRAME = Frame(noise_image(96, 160))


@no_cuda
@pytest.mark.parametrize("name", ["cuda", "cuda:0", "cuda:7"])
def test_an_absent_gpu_is_an_error(name, weights_file):
    with pytest.raises(DeviceError, match=f"device '{name}'.*use device cpu"):
        select_device(name)
    with pytest.raises(DeviceError):
        Pipeline(weights=weights_file, device=name)


def test_an_unknown_device_number_is_an_error():
    with pytest.raises(DeviceError, match="device 'cuda:99999'"):
        select_device("cuda:99999")


@no_cuda
def test_auto_selects_the_cpu_without_a_gpu():
    device = select_device("auto")
    assert (device.type, select_precision("auto", device)) == ("cpu", "auto")


@no_cuda
@pytest.mark.parametrize(("built", "reason"), [(False, "is built without CUDA; install a CUDA build"), (True, "nvidia-smi")])
def test_gpu_that_pytorch_cannot_use_is_noted(weights_file, tmp_path, monkeypatch, built, reason):
    """As on a Jetson with PyTorch of PyPI, whose users wonder why it is slow."""
    monkeypatch.setattr("mtl_perception.inference.device.GPU_FILES", (tmp_path / "nvidia0",))
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: built)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def note(device="auto"):
        return " ".join(Pipeline(weights=weights_file, device=device, backend="torch", warm_up=False).notes)

    assert "NVIDIA GPU" not in note()
    (tmp_path / "nvidia0").touch()
    assert "runs on the CPU although there is an NVIDIA GPU: this PyTorch" in note() and reason in note()
    # Who asks for the CPU, or hides the GPU, knows.
    assert "NVIDIA GPU" not in note("cpu")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert "NVIDIA GPU" not in note()


def test_auto_precision_depends_on_the_device():
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert [select_precision(name, cuda) for name in ("auto", "fp32", "fp16", "bf16")] == ["fp16", "fp32", "fp16", "bf16"]
    assert [select_precision(name, cpu) for name in ("auto", "fp32", "bf16", "int8")] == ["auto", "fp32", "bf16", "int8"]
    with pytest.raises(ConfigError, match="fp16 needs a GPU"):
        select_precision("fp16", cpu)
    with pytest.raises(ConfigError, match="int8 runs on a CPU, not on device cuda"):
        select_precision("int8", cuda)


def test_fp16_on_a_cpu_is_refused(weights_file):
    with pytest.raises(ConfigError, match="precision fp16 needs a GPU; on a CPU use fp32, bf16 or int8"):
        Pipeline(weights=weights_file, device="cpu", precision="fp16")


def test_bf16_agrees_with_fp32_on_most_pixels(weights_file):
    if cpu_arithmetic("bf16")[0] != "bf16":
        pytest.skip("needs a processor with bfloat16 instructions")
    exact = Pipeline(weights=weights_file, device="cpu", precision="fp32", warm_up=False)(FRAME)
    pipe = Pipeline(weights=weights_file, device="cpu", warm_up=False, precision="bf16")
    rough = pipe(FRAME)
    assert pipe.precision == "bf16"
    assert (rough.labels == exact.labels).mean() > 0.8, "a random network is less sure than a trained one"
    both = np.isfinite(rough.depth) & np.isfinite(exact.depth)
    assert np.median(np.abs(rough.depth[both] / exact.depth[both] - 1)) < 0.25


def test_the_given_network_is_not_modified(weights_file):
    network = load_network(weights_file)
    TorchEngine(network, "bf16")
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}


def test_cpu_threads_sets_the_threads_of_pytorch(weights_file):
    before = torch.get_num_threads()
    try:
        Pipeline(weights=weights_file, device="cpu", cpu_threads=before + 1, warm_up=False)
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)


def test_warm_up_uses_the_size_of_the_training_camera(weights_file, monkeypatch):
    seen = []
    forward = TorchEngine.forward
    monkeypatch.setattr(
        TorchEngine, "forward", lambda self, image, scale=1.0: seen.append(image.shape) or forward(self, image, 0.1)
    )
    Pipeline(weights=weights_file, device="cpu", backend="torch")
    assert seen == [(375, 1242, 3)]


def test_buffers_are_reused_until_shape_or_type_changes():
    work = Workspace()
    first = work.get("a", (2, 3), np.float32)
    assert work.get("a", (2, 3), np.float32) is first
    assert work.get("b", (2, 3), np.float32) is not first
    assert work.get("a", (3, 2), np.float32).shape == (3, 2)
    assert work.get("a", (3, 2), np.uint8).dtype == np.uint8


def test_a_buffer_is_freed_before_a_larger_one_is_allocated(monkeypatch):
    work, found = Workspace(), []
    before, allocate = weakref.ref(work.get("a", (2, 3), np.uint8)), torch.empty
    monkeypatch.setattr(torch, "empty", lambda *size, **options: found.append(before()) or allocate(*size, **options))
    assert work.get("a", (400, 300), np.uint8).shape == (400, 300)
    assert found == [None]


@needs_cuda
@pytest.mark.parametrize(("precision", "agreement", "bound"), [("fp32", 0.98, 0.02), ("fp16", 0.95, 0.05), ("bf16", 0.8, 0.25)])
@pytest.mark.parametrize("reuse", [False, True])
def test_gpu_agrees_with_cpu(weights_file, precision, agreement, bound, reuse):
    exact = Pipeline(weights=weights_file, device="cpu", warm_up=False)(FRAME)
    pipe = Pipeline(weights=weights_file, device="cuda", precision=precision, warm_up=False, reuse_outputs=reuse)
    result = pipe(FRAME)
    assert (result.labels == exact.labels).mean() > agreement
    both = np.isfinite(result.depth) & np.isfinite(exact.depth)
    assert np.median(np.abs(result.depth[both] / exact.depth[both] - 1)) < bound


@pytest.mark.parametrize("with_confidence", [False, True])
def test_an_infinite_score_gives_no_label(with_confidence):
    logits = torch.tensor([[[1.0, torch.inf, torch.nan]], [[3.0, 2.0, 2.0]]])
    postprocess = Postprocessor("abs", (0, 2))
    labels, confidence = postprocess.segmentation(logits, ResizeSpec((1, 3), (1, 3), "bicubic"), 0.0, with_confidence)
    assert labels.tolist() == [[1, 255, 255]]
    assert (None if confidence is None else confidence.tolist()) == ([[225, 0, 0]] if with_confidence else None)
