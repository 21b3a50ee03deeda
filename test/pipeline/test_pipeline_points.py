"""Points of a pipeline's cloud: edge filter and stride."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec

import cv2
import numpy as np
import pytest
from support.pipeline_fixtures import CAMERA, FRAME, HEIGHT, WIDTH, pipeline_fixtures, same

from mtl_perception import CameraModel, Frame, Pipeline
from mtl_perception.config import Config
from mtl_perception.errors import ConfigError
from mtl_perception.labels import STREET
from mtl_perception.types import CLOUD_DTYPE

make, pipe, tuned, full = pipeline_fixtures()

RELATIVE_JUMP = 2.0
"""The depth of a random network varies much."""


def edge_cells(raw: np.ndarray, jump: float) -> np.ndarray:
    """Return the cells of h x w log depth at depth edges, pair by pair, as `depth_edges` defines them."""
    edges = np.zeros(raw.shape, bool)
    for line, found in (*zip(raw, edges, strict=True), *zip(raw.T, edges.T, strict=True)):
        jumps = np.concatenate([[0], np.diff(line), [0]])
        for i in range(1, len(line)):
            one, sign = abs(jumps[i]), np.sign(jumps[i])
            if one > jump and (one - sign * jumps[i - 1] > jump or one - sign * jumps[i + 1] > jump):
                found[i - 1 : i + 1] = True
    return edges


@pytest.mark.parametrize("backend", ["torch", "openvino"])
def test_points_at_depth_edges_are_nan_and_nothing_else_changes(make, backend):
    if backend == "openvino" and find_spec("openvino") is None:
        pytest.skip("openvino is not installed")
    pipe = make(backend=backend, points_edge_filter=0.0)
    plain = pipe(FRAME)
    raw = pipe._backend.engine.forward(FRAME.image)[1][0].numpy().copy()
    pipe.update(points_edge_filter=RELATIVE_JUMP)
    result = pipe(FRAME)
    edges = np.kron(edge_cells(raw, np.float32(np.log1p(RELATIVE_JUMP))), np.ones((4, 4), bool))[:HEIGHT, :WIDTH]
    finite = np.isfinite(plain.depth)
    assert 0.05 < edges[finite].mean() < 0.95
    np.testing.assert_array_equal(np.isfinite(result.cloud["z"]), finite & ~edges)
    for axis in "xyz":
        assert np.isnan(result.cloud[axis][edges]).all()
        np.testing.assert_array_equal(result.cloud[axis][~edges], plain.cloud[axis][~edges])
    for name in ("rgb", "label"):
        np.testing.assert_array_equal(result.cloud[name], plain.cloud[name])
    for name in ("labels", "confidence", "depth", "image"):
        assert same(getattr(result, name), getattr(plain, name))


@pytest.mark.parametrize("stride", [1, 2, 3, 4, 100])
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_stride_keeps_every_nth_pixel_of_the_cloud_only(tuned, stride, scale):
    parameters = {"output_scale": scale, "points_edge_filter": RELATIVE_JUMP}
    dense, result = tuned(**parameters)(FRAME), tuned(**parameters, points_stride=stride)(FRAME)
    assert result.cloud.dtype == CLOUD_DTYPE
    assert same(result.cloud, np.ascontiguousarray(dense.cloud[::stride, ::stride]))
    assert all(same(getattr(result, name), getattr(dense, name)) for name in ("labels", "depth", "image"))
    assert result.camera == dense.camera


def test_points_of_a_stride_lie_on_the_rays_of_intrinsics_divided_by_it(tuned):
    """As of image_geometry with binning: fx / n, cx / n."""
    cloud = tuned(points_stride=4)(FRAME).cloud
    fx, fy, cx, cy = (value / 4 for value in (CAMERA.fx, CAMERA.fy, CAMERA.cx, CAMERA.cy))
    u, v = np.meshgrid(np.arange(cloud.shape[1]), np.arange(cloud.shape[0]))
    np.testing.assert_allclose(cloud["x"], (u - cx) / fx * cloud["z"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(cloud["y"], (v - cy) / fy * cloud["z"], rtol=1e-5, atol=1e-6)


def test_stride_of_a_distorted_camera_takes_the_rays_of_its_pixels(tuned):
    lens = CameraModel(WIDTH, HEIGHT, 70.0, 71.0, 44.5, 30.5, "plumb_bob", (-0.2, 0.05, 0.001, 0.002, 0.0))
    frame = replace(FRAME, camera=lens)
    dense = tuned()(frame).cloud
    assert same(tuned(points_stride=3)(frame).cloud, np.ascontiguousarray(dense[::3, ::3]))


def test_out_of_range_values_are_refused(tuned):
    for parameters in ({"points_stride": 0}, {"points_stride": 101}, {"points_edge_filter": -0.1}):
        with pytest.raises(ConfigError, match="parameter points_"):
            tuned(**parameters)


def test_read_only_images_have_the_same_points(tuned):
    image = np.frombuffer(FRAME.image.tobytes(), np.uint8).reshape(FRAME.image.shape)
    pipe = tuned(points_stride=2)
    assert same(pipe(Frame(image, CAMERA)).cloud, pipe(FRAME).cloud)


def test_default_filter_removes_points_between_surfaces_of_a_street():
    """The exact depth of a synthetic drive tells which points are on a surface: within 10 % of its depth."""
    pytest.importorskip("open3d", reason="needs open3d")
    from mtl_perception.synthetic.drive import SyntheticDrive

    sample = SyntheticDrive(1, seed=5).sample(0)
    pipe = Pipeline("street", "cpu", precision="fp32", warm_up=False, points_edge_filter=0.0)
    plain = pipe(sample.frame, {"depth", "cloud"})
    pipe.update(points_edge_filter=Config().points_edge_filter)
    kept = np.isfinite(pipe(sample.frame, {"depth", "cloud"}).cloud["z"])
    has_point = np.isfinite(plain.cloud["z"])
    right = has_point & (np.abs(plain.depth - sample.depth) <= 0.1 * sample.depth)
    window = np.ones((11, 11), np.uint8)
    nearest, farthest = cv2.erode(sample.depth, window), cv2.dilate(sample.depth, window)
    between = has_point & ~right & (plain.depth > 1.1 * nearest) & (plain.depth < 0.9 * farthest)
    assert between.sum() > 10_000
    assert (between & kept).sum() < 0.5 * between.sum()
    assert (right & kept).sum() > 0.9 * right.sum()
    ground = right & (sample.labels == STREET.names.index("road"))
    assert (ground & kept).sum() > 0.99 * ground.sum()
