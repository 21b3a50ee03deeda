"""Outputs of the network, and loading of published checkpoints; test_parity.py compares with a committed reference."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from mtl_perception.network.description import Description, published_description
from mtl_perception.network.model import MultiTaskRefineNet
from mtl_perception.network.refinenet import max_pool_5x5
from mtl_perception.weights.files import load_network, save_weights

REFERENCE = Path(__file__).resolve().parents[3] / "shared" / "reference"
needs_reference = pytest.mark.skipif(
    not (REFERENCE / "kitti6.ckpt").is_file(), reason=f"needs the published weights' outputs in {REFERENCE}"
)
FAMILY = {"kitti": (6, 2), "nyud": (40, 2), "nyud-kitti": (46, 2), "nyud-normals": (40, 3)}


def random_network(description: Description) -> MultiTaskRefineNet:
    torch.manual_seed(0)
    return MultiTaskRefineNet(description).eval().requires_grad_(False)


def normalized(image: np.ndarray, description: Description) -> torch.Tensor:
    values = (image / 255 - np.array(description.mean)) / np.array(description.std)
    return torch.from_numpy(values.transpose(2, 0, 1)[None].astype(np.float32))


def relative_difference(got: torch.Tensor, wanted: np.ndarray) -> float:
    return float(np.abs(got.numpy() - wanted).max() / np.abs(wanted).max())


@pytest.fixture(scope="module")
def reference() -> dict[str, np.ndarray]:
    """A KITTI image and the published network's outputs for it."""
    with np.load(REFERENCE / "kitti6.npz") as file:
        return {name: file[name] for name in ("image", "segm", "depth")}


@pytest.fixture(scope="module")
def published() -> MultiTaskRefineNet:
    return load_network(REFERENCE / "kitti6.ckpt")


@needs_reference
def test_outputs_of_published_weights_equal_the_reference(
    reference: dict[str, np.ndarray], published: MultiTaskRefineNet
) -> None:
    with torch.inference_mode():
        logits, depth = published(normalized(reference["image"], published.description))
    assert tuple(logits.shape) == (1, 6, 93, 307)
    assert tuple(depth.shape) == (1, 1, 93, 307)
    assert relative_difference(logits[0], reference["segm"]) < 1e-4
    assert relative_difference(depth[0, 0], reference["depth"]) < 1e-4


@needs_reference
def test_conversion_to_safetensors_preserves_parameters_and_description(tmp_path: Path, published: MultiTaskRefineNet) -> None:
    save_weights(tmp_path / "own.safetensors", published.state_dict(), published.description, half=False)
    network = load_network(tmp_path / "own.safetensors")
    assert network.description == published.description
    assert network.state_dict().keys() == published.state_dict().keys()
    for name, value in network.state_dict().items():
        assert torch.equal(value, published.state_dict()[name]), name


@needs_reference
def test_conversion_to_half_precision_nearly_preserves_the_outputs(
    tmp_path: Path, reference: dict[str, np.ndarray], published: MultiTaskRefineNet
) -> None:
    save_weights(tmp_path / "own.safetensors", published.state_dict(), published.description, half=True)
    network = load_network(tmp_path / "own.safetensors")
    with torch.inference_mode():
        logits, depth = network(normalized(reference["image"], network.description))
    assert relative_difference(logits[0], reference["segm"]) < 3e-2
    assert relative_difference(depth[0, 0], reference["depth"]) < 3e-2
    assert (logits[0].numpy().argmax(0) == reference["segm"].argmax(0)).mean() > 0.99


@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize("wrapped", [True, False], ids=["state_dict", "bare"])
def test_published_checkpoints_load_unchanged(tmp_path: Path, name: str, wrapped: bool) -> None:
    original = random_network(published_description(*FAMILY[name]))
    path = tmp_path / "published.ckpt"
    state = original.state_dict()
    torch.save({"state_dict": state} if wrapped else state, path, _use_new_zipfile_serialization=False)
    assert path.read_bytes()[:2] == b"\x80\x02"  # Legacy pickle instead of a zip archive.

    network = load_network(path)
    assert network.description.name == name
    assert not network.training
    x = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        outputs, wanted = network(x), original(x)
    classes, tasks = FAMILY[name]
    assert [tuple(output.shape) for output in outputs] == [(1, channels, 16, 24) for channels in (classes, 1, 3)[:tasks]]
    for output, other in zip(outputs, wanted, strict=True):
        assert torch.equal(output, other)


def test_zip_format_and_data_parallel_prefix_are_read(tmp_path: Path) -> None:
    original = random_network(published_description(6, 2))
    path = tmp_path / "trained.pth"
    torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in original.state_dict().items()}}, path)
    assert path.read_bytes()[:2] == b"PK"
    network = load_network(path)
    assert torch.equal(network.state_dict()["layer5.2.output.1.0.weight"], original.state_dict()["layer5.2.output.1.0.weight"])


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 3), (5, 4), (31, 33), (37, 50), (64, 96), (97, 2)])
def test_outputs_have_a_quarter_of_the_input_size_rounded_up(size: tuple[int, int]) -> None:
    height, width = size
    network = random_network(published_description(40, 3))
    with torch.inference_mode():
        outputs = network(torch.randn(2, 3, height, width))
    quarter = (-(-height // 4), -(-width // 4))
    assert [tuple(output.shape) for output in outputs] == [(2, channels, *quarter) for channels in (40, 1, 3)]
    assert all(bool(torch.isfinite(output).all()) for output in outputs)


def test_separable_pooling_equals_5x5_pooling() -> None:
    torch.manual_seed(0)
    for shape in [(1, 1, 1, 1), (2, 3, 4, 7), (1, 2, 13, 10)]:
        x = torch.randn(shape) - 3  # Negative values reveal zero padding.
        assert torch.equal(max_pool_5x5(x), torch.nn.functional.max_pool2d(x, 5, 1, 2))
        # The gradient of each output goes to its maximum in both forms.
        learned = x.clone().requires_grad_()
        y = max_pool_5x5(learned)
        assert torch.equal(y, max_pool_5x5(x))
        y.sum().backward()
        by_rows = x.clone().requires_grad_()
        rows = torch.nn.functional.max_pool2d(by_rows, (1, 5), 1, (0, 2))
        torch.nn.functional.max_pool2d(rows, (5, 1), 1, (2, 0)).sum().backward()
        assert torch.equal(learned.grad, by_rows.grad)


def test_parameter_names_are_the_published_ones() -> None:
    names = list(random_network(published_description(6, 2)).state_dict())
    assert len(names) == 343
    assert {"layer1.0.weight", "layer8.0.output.2.1.running_var", "conv3.weight", "conv_adapt2.weight", "segm.bias"} <= set(
        names
    )
    assert {"crp1.0.4_outvar_dimred.weight", "pre_depth.weight"} <= set(names)
    with_normals = set(random_network(published_description(40, 3)).state_dict())
    assert with_normals - set(names) == {"pre_normal.weight", "normal.weight", "normal.bias"}
