"""Non-finite outputs of the network."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support.faulty_gpu import Gpu, faulty_gpu, spoil_outputs
from support.images import noise_image

from mtl_perception import CameraModel, Frame, Pipeline
from mtl_perception.errors import DeviceError
from mtl_perception.inference.finite import find_nonfinite_head
from mtl_perception.runtime.recovery import Recovery

WIDTH, HEIGHT = 64, 48
FRAME = Frame(noise_image(HEIGHT, WIDTH), CameraModel(WIDTH, HEIGHT, 60.0, 62.0, WIDTH / 2 - 1.25, HEIGHT / 2 + 0.75))
NAVIGATION = {"cloud", "labels", "confidence"}
"""Outputs that a costmap layer subscribes to."""


@pytest.fixture
def gpu(monkeypatch) -> Gpu:
    return faulty_gpu(monkeypatch)


def recovery() -> Recovery:
    return Recovery("retry", print, SimpleNamespace(error=print, warning=print))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("upsampling", ["bicubic", "bilinear"])
@pytest.mark.parametrize("way", ["openvino", "torch", "device program"])
def test_nonfinite_pixels_are_invalid_in_every_backend(weights_file, monkeypatch, request, way, upsampling, value) -> None:
    if way == "openvino":
        pytest.importorskip("openvino", reason="needs openvino")
    elif way == "device program":
        request.getfixturevalue("gpu")
    settings = {"device": "cuda"} if way == "device program" else {"device": "cpu", "backend": way}
    pipe = Pipeline(weights=weights_file, warm_up=False, upsampling=upsampling, **settings)
    before = pipe(FRAME)
    spoil_outputs(monkeypatch, value)
    result = pipe(FRAME)
    spoilt, far = (slice(0, 16), slice(0, 16)), (slice(32, None), slice(32, None))
    assert (result.labels[spoilt] == 255).all() and (result.confidence[spoilt] == 0).all()
    assert np.isnan(result.depth[spoilt]).all() and np.isnan(result.cloud["x"][spoilt]).all()
    assert (pipe(FRAME, {"labels"}).labels[spoilt] == 255).all()
    np.testing.assert_array_equal(result.depth[far], before.depth[far])
    assert (result.labels[far] == before.labels[far]).mean() > 0.99


def _result(**planes) -> SimpleNamespace:
    return SimpleNamespace(**{"labels": None, "confidence": None, "depth": None, "cloud": None, **planes})


def test_fully_nonfinite_head_is_distinguished_from_low_confidence() -> None:
    size = (50, 90)
    nothing, unsure = np.full(size, 255, np.uint8), np.full(size, 30, np.uint8)
    void = np.full(size, np.nan, np.float32)
    assert find_nonfinite_head(_result(labels=nothing)) == "labels"
    assert find_nonfinite_head(_result(labels=nothing), min_confidence=0.9) == "", "none may be sure enough"
    assert find_nonfinite_head(_result(labels=nothing, confidence=unsure), min_confidence=0.9) == ""
    assert find_nonfinite_head(_result(confidence=np.zeros(size, np.uint8)), min_confidence=0.9) == "labels"
    assert find_nonfinite_head(_result(depth=void)) == "depth"
    assert find_nonfinite_head(_result(depth=void), min_depth=1.0) == "", "all may be nearer"
    assert find_nonfinite_head(_result(depth=np.full(size, np.inf, np.float32))) == "", "the sky"
    for plane in (nothing, void):
        plane[13, 17] = 1
    assert find_nonfinite_head(_result(labels=nothing, depth=void)) == "", "one pixel is enough"
    cloud = np.zeros(size, [("label", np.uint32)])
    assert find_nonfinite_head(_result(cloud=cloud)) == ""
    cloud["label"] = 255
    assert find_nonfinite_head(_result(cloud=cloud)) == "labels"


@pytest.mark.parametrize("wanted", [{"cloud"}, NAVIGATION], ids=["points alone", "for navigation"])
@pytest.mark.parametrize("images", [1, 2])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_cloud_of_nonfinite_depth_is_a_device_failure(weights_file: Path, request, device, images, wanted) -> None:
    if device == "cuda":
        request.getfixturevalue("gpu")
    # Nearly all depth of a random network is at edges.
    options = {"backend": "torch", "warm_up": False, "reuse_outputs": True, "points_edge_filter": 0.0}
    pipe = Pipeline(weights=weights_file, device=device, **options)
    frames, outputs = [FRAME] * images, [wanted] * images
    found = recovery()
    assert np.isfinite(found.run(pipe, frames, outputs)[-1].cloud["z"]).any()
    network = pipe._backend._network.module if device == "cuda" else pipe._backend.engine._network
    with torch.no_grad():
        network.get_parameter("depth.bias").fill_(float("nan"))
    with pytest.raises(DeviceError, match="depth output is non-finite for every pixel"):
        found.run(pipe, frames, outputs)


@pytest.mark.parametrize("images", [1, 2])
def test_cloud_beyond_max_depth_is_returned_empty(weights_file: Path, images: int) -> None:
    pipe = Pipeline(weights=weights_file, device="cpu", backend="torch", warm_up=False, reuse_outputs=True)
    expected = pipe(FRAME)
    nearest, labels = float(np.nanmin(expected.depth)), expected.labels.copy()
    pipe.update(max_depth=nearest / 2)
    found = recovery()
    for result in found.run(pipe, [FRAME] * images, [NAVIGATION] * images):
        assert np.isnan(result.cloud["z"]).all()
        np.testing.assert_array_equal(result.cloud["label"], labels)
        np.testing.assert_array_equal(result.labels, labels)
    assert found.failures == 0
