"""The network against a committed reference that was computed without the package's code; see make_parity.py."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from network.make_parity import CASES, FIXTURE, checksum, random_image, random_state, reference

from mtl_perception.labels import KITTI6
from mtl_perception.network.description import Description, published_description
from mtl_perception.weights.files import build_network

TOLERANCE = 1e-4
"""Largest difference relative to the largest value: float32 against float64."""


def description(name: str) -> Description:
    classes, normals, exact = CASES[name]
    if exact:
        return Description("exact", KITTI6.names, KITTI6.colors, grid="exact")
    return published_description(classes, 3 if normals else 2)


def relative_difference(got: torch.Tensor, wanted: np.ndarray) -> float:
    assert tuple(got.shape) == wanted.shape
    return float(np.abs(got.numpy() - wanted).max() / np.abs(wanted).max())


@pytest.fixture(scope="module")
def fixture() -> dict[str, np.ndarray]:
    with np.load(FIXTURE) as arrays:
        return dict(arrays)


@pytest.mark.parametrize("name", CASES)
def test_outputs_equal_the_reference(fixture: dict[str, np.ndarray], name: str) -> None:
    classes, normals, _ = CASES[name]
    state = random_state(classes, normals)
    assert checksum(state) == str(fixture[f"{name}/sha256"]), "the generated weights differ from those of the fixture"
    network = build_network(description(name), state, where=name)
    with torch.inference_mode():
        outputs = network(torch.from_numpy(random_image()))
    assert len(outputs) == (3 if normals else 2)
    for i, output in enumerate(outputs):
        assert relative_difference(output[0], fixture[f"{name}/output{i}"]) < TOLERANCE


def test_encoder_features_equal_the_reference(fixture: dict[str, np.ndarray]) -> None:
    network = build_network(description("kitti"), random_state(6, normals=False), where="kitti")
    with torch.inference_mode():
        features = network.encode(torch.from_numpy(random_image()))
    for i, feature in enumerate(features, start=3):
        assert relative_difference(feature[0, :4], fixture[f"kitti/feature{i}"]) < TOLERANCE


def test_fixture_is_discriminative(fixture: dict[str, np.ndarray]) -> None:
    """Outputs vary over the image, and every class wins somewhere near another: no layer is saturated or dead."""
    logits, depth = fixture["kitti/output0"], fixture["kitti/output1"]
    assert depth.std() > 0.05 * np.abs(depth).max()
    assert (logits.std(axis=(1, 2)) > 0.05 * np.abs(logits).max()).all()
    assert len(np.unique(logits.argmax(0))) >= 3
    for i in range(3, 9):
        assert fixture[f"kitti/feature{i}"].std() > 0.1
    assert np.abs(fixture["kitti/output0"] - fixture["exact-grid/output0"]).max() > 0.1 * np.abs(logits).max()


def test_generator_reproduces_the_fixture(fixture: dict[str, np.ndarray]) -> None:
    _, outputs = reference(random_state(6, normals=False), random_image(), normals=False, exact=False)
    assert relative_difference(outputs[0][0], fixture["kitti/output0"]) < 1e-6
