"""Fixtures with a pipeline on the CPU and a frame, and comparison of results."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mtl_perception import CameraModel, Frame, Pipeline
from mtl_perception.inference.openvino.engine import OpenVinoEngine
from mtl_perception.result import Result
from mtl_perception.types import CLOUD_DTYPE
from support.images import noise_image

HEIGHT, WIDTH = 61, 90
IMAGE = noise_image(HEIGHT, WIDTH)
CAMERA = CameraModel(WIDTH, HEIGHT, 70.0, 71.0, 44.5, 30.5)
FRAME = Frame(IMAGE, CAMERA, 123, "cam")
SINGLE = ("labels", "confidence", "depth", "cloud")


def pipeline_fixtures() -> tuple[Any, Any, Any, Any]:
    """Create the fixtures `make`, `pipe`, `tuned` and `full`; all but `tuned` have module scope.

    The edge filter is off unless a test sets it: nearly all depth of a random network is at edges. OpenVINO compiles a network
    for images of FRAME's size once.
    """

    @pytest.fixture(scope="module")
    def make(weights_file):
        compile_network, compiled = OpenVinoEngine._compile, {}

        def compile_once(engine, size):
            if size != FRAME.image.shape[:2]:
                return compile_network(engine, size)
            key = repr(engine._key_of(size))
            if key not in compiled:
                compiled[key] = compile_network(engine, size)
                engine._unstored.pop(size, None)
            return compiled[key]

        def pipeline(**parameters) -> Pipeline:
            defaults = {"weights": weights_file, "device": "cpu", "warm_up": False, "points_edge_filter": 0.0}
            return Pipeline(**{**defaults, **parameters})

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(OpenVinoEngine, "_compile", compile_once)
            yield pipeline

    @pytest.fixture(scope="module")
    def pipe(make) -> Pipeline:
        return make()

    @pytest.fixture
    def tuned(pipe):
        """Change live parameters of the pipeline for one test."""
        before = pipe.config

        def update(**changes) -> Pipeline:
            pipe.config = before
            pipe.update(**changes)
            return pipe

        yield update
        pipe.config = before

    @pytest.fixture(scope="module")
    def full(pipe) -> Result:
        return pipe(FRAME)

    return make, pipe, tuned, full


def same(a: np.ndarray | None, b: np.ndarray | None) -> bool:
    """Compare byte by byte, NaN included."""
    return a is not None and b is not None and a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def assert_cloud_belongs_to(result: Result) -> None:
    """Check that each point lies on its pixel's ray at its depth and has its color and label."""
    assert result.cloud.dtype == CLOUD_DTYPE
    assert result.cloud.shape == result.depth.shape == result.labels.shape
    assert (result.camera.height, result.camera.width) == result.depth.shape
    finite = np.isfinite(result.depth)
    assert finite.any()
    u, v = np.meshgrid(np.arange(result.camera.width), np.arange(result.camera.height))
    z = np.where(finite, result.depth, np.nan).astype(np.float64)
    np.testing.assert_array_equal(result.cloud["z"], z.astype(np.float32))
    np.testing.assert_allclose(result.cloud["x"], (u - result.camera.cx) * z / result.camera.fx, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(result.cloud["y"], (v - result.camera.cy) * z / result.camera.fy, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(result.cloud["label"], result.labels)
    red, green, blue = result.image.astype(np.uint32).transpose(2, 0, 1)
    np.testing.assert_array_equal(result.cloud["rgb"], red << 16 | green << 8 | blue)
