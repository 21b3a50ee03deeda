"""Labels, depth and cloud of a pipeline, with each parameter and each kind of network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from support.images import noise_image
from support.pipeline_fixtures import (
    CAMERA,
    FRAME,
    HEIGHT,
    IMAGE,
    SINGLE,
    WIDTH,
    assert_cloud_belongs_to,
    pipeline_fixtures,
    same,
)

from mtl_perception import CameraModel, Frame, Pipeline, load_network
from mtl_perception.errors import ConfigError, WeightsError
from mtl_perception.labels import KITTI6, NYUD40, STREET
from mtl_perception.network.description import Description, published_description
from mtl_perception.network.model import MultiTaskRefineNet
from mtl_perception.types import OUTPUTS
from mtl_perception.weights.files import save_weights

REFERENCE = Path(__file__).resolve().parents[3] / "shared" / "reference"

make, pipe, tuned, full = pipeline_fixtures()


@pytest.fixture(scope="module")
def reusing(make) -> Pipeline:
    return make(reuse_outputs=True)


class TestParity:
    @pytest.mark.skipif(not (REFERENCE / "kitti6.npz").is_file(), reason=f"the reference outputs are not in {REFERENCE}")
    def test_outputs_equal_those_of_the_published_network(self):
        reference = np.load(REFERENCE / "kitti6.npz")
        pipe = Pipeline(weights=REFERENCE / "kitti6.ckpt", device="cpu", warm_up=False, max_depth=1000.0)
        result = pipe(Frame(reference["image"]), ("labels", "depth"))
        assert (result.labels == reference["labels_full"]).mean() >= 0.9999
        depth = reference["depth_full"]
        assert np.abs(result.depth - depth).max() < 1e-4 * depth.max()
        assert pipe.class_set.names == KITTI6.names

    def test_outputs_equal_an_independent_implementation(self, weights_file, full):
        """Compare with the network, a resize and an argmax written without the inference package."""
        network = load_network(weights_file)
        mean, std = (np.array(values, np.float32) for values in (network.description.mean, network.description.std))
        x = torch.from_numpy(((IMAGE / np.float32(255) - mean) / std).transpose(2, 0, 1)[None].copy())
        with torch.inference_mode():
            logits, raw = (output[0].numpy() for output in network(x))

        def upsampled(plane: np.ndarray) -> np.ndarray:
            # Each cell covers 4 x 4 pixels; those beyond the image are cropped.
            cells = (4 * plane.shape[1], 4 * plane.shape[0])
            return cv2.resize(plane, cells, interpolation=cv2.INTER_CUBIC)[:HEIGHT, :WIDTH]

        scores = np.stack([upsampled(plane) for plane in logits])
        odds = np.exp(scores - scores.max(axis=0))
        meters = np.exp(upsampled(raw[0]))
        assert (full.labels == scores.argmax(axis=0)).mean() > 0.999
        assert np.abs(full.confidence - 255 * odds.max(axis=0) / odds.sum(axis=0)).max() < 0.6
        near = meters < 79.9
        np.testing.assert_allclose(full.depth[near], meters[near], rtol=1e-4)
        assert np.isposinf(full.depth[meters > 80.1]).all()
        assert np.isposinf(full.depth).any()


class TestOutputs:
    def test_outputs_have_the_documented_types_and_sizes(self, full):
        assert (full.labels.shape, full.labels.dtype) == ((HEIGHT, WIDTH), np.uint8)
        assert (full.confidence.shape, full.confidence.dtype) == ((HEIGHT, WIDTH), np.uint8)
        assert (full.depth.shape, full.depth.dtype) == ((HEIGHT, WIDTH), np.float32)
        assert full.normals is None, "this network has no head for normals"
        assert full.camera == CAMERA
        assert len(np.unique(full.labels)) >= 3
        assert set(np.unique(full.labels)) <= set(range(len(STREET)))
        assert_cloud_belongs_to(full)

    @pytest.mark.parametrize("name", SINGLE)
    @pytest.mark.parametrize("reuse", [False, True])
    def test_a_single_output_is_the_same_and_the_others_are_none(self, pipe, reusing, full, name, reuse):
        pipe = reusing if reuse else pipe
        pipe(Frame(IMAGE[::-1], CAMERA))
        alone = pipe(FRAME, {name})
        assert same(getattr(alone, name), getattr(full, name))
        assert all(getattr(alone, other) is None for other in OUTPUTS if other != name)

    def test_no_outputs_are_computed_if_none_is_requested(self, pipe):
        result = pipe(FRAME, ())
        assert all(getattr(result, name) is None for name in OUTPUTS)
        assert result.camera == CAMERA

    def test_scores_are_the_upsampled_logits(self, pipe, full):
        result = pipe(FRAME, {"scores"})
        assert (result.scores.shape, result.scores.dtype) == ((len(STREET), HEIGHT, WIDTH), np.float32)
        assert (result.scores.argmax(axis=0) == full.labels).mean() > 0.999
        assert full.scores is None and result.labels is None

    @pytest.mark.parametrize("outputs", [{"label"}, "labels", ["depth", "points"]])
    def test_an_unknown_output_is_refused(self, pipe, outputs):
        with pytest.raises(ConfigError, match="labels, confidence, depth, cloud, normals"):
            pipe(FRAME, outputs)

    def test_no_cloud_is_computed_without_a_camera(self, pipe, full):
        result = pipe(Frame(IMAGE))
        assert result.cloud is None
        assert result.camera is None
        assert same(result.depth, full.depth)
        assert same(result.labels, full.labels)

    def test_results_are_deterministic(self, make, pipe, full):
        for again in (pipe(FRAME), make()(FRAME)):
            assert all(same(getattr(again, name), getattr(full, name)) for name in SINGLE)


class TestSizes:
    @pytest.mark.parametrize("scale", [0.5, 0.37, 0.05])
    def test_output_scale_changes_the_size_and_the_intrinsics(self, tuned, scale):
        result = tuned(output_scale=scale)(FRAME)
        height, width = round(HEIGHT * scale), round(WIDTH * scale)
        assert result.depth.shape == result.confidence.shape == (height, width)
        assert result.image.shape == (height, width, 3)
        camera = result.camera
        assert (camera.fx, camera.cx) == pytest.approx((70 * width / WIDTH, 44.5 * width / WIDTH))
        assert (camera.fy, camera.cy) == pytest.approx((71 * height / HEIGHT, 30.5 * height / HEIGHT))
        assert_cloud_belongs_to(result)

    def test_input_scale_downsamples_the_network_input_only(self, tuned, full):
        result = tuned(input_scale=0.5)(FRAME)
        assert result.labels.shape == (HEIGHT, WIDTH)
        assert not same(result.depth, full.depth)
        assert_cloud_belongs_to(result)
        half = cv2.resize(IMAGE, (45, 30), interpolation=cv2.INTER_AREA)
        small = tuned()(Frame(half))
        coarse = cv2.resize(result.confidence, (45, 30), interpolation=cv2.INTER_AREA).astype(int)
        assert np.abs(coarse - small.confidence).mean() < 12, "the network saw the downsampled image"

    def test_bilinear_upsampling_changes_depth_and_keeps_most_labels(self, tuned, full):
        result = tuned(upsampling="bilinear")(FRAME)
        assert not same(result.depth, full.depth)
        assert (result.labels == full.labels).mean() > 0.9
        assert_cloud_belongs_to(result)

    @pytest.mark.parametrize("size", [(1, 1), (3, 500), (500, 3), (2, 2), (32, 33)])
    @pytest.mark.parametrize("scale", [1.0, 0.1])
    def test_extreme_sizes_are_processed(self, tuned, size, scale):
        camera = CameraModel(size[1], size[0], 50.0, 50.0, size[1] / 2, size[0] / 2)
        result = tuned(input_scale=scale)(Frame(noise_image(*size), camera))
        assert result.labels.shape == result.depth.shape == result.cloud.shape == size
        assert (result.labels < len(STREET)).all()


class TestRules:
    def test_labels_below_min_confidence_are_unlabeled(self, tuned, full):
        result = tuned(min_confidence=0.6)(FRAME)
        sure = full.confidence >= 154
        unsure = full.confidence < 152
        assert sure.any()
        assert unsure.any()
        assert (result.labels[unsure] == 255).all()
        np.testing.assert_array_equal(result.labels[sure], full.labels[sure])
        assert same(result.confidence, full.confidence)
        assert same(tuned(min_confidence=0.6)(FRAME, {"labels"}).labels, result.labels)
        assert_cloud_belongs_to(result)

    def test_depth_below_the_range_is_nan_and_beyond_it_inf(self, tuned, full):
        result = tuned(min_depth=15.0, max_depth=30.0)(FRAME)
        near, far = full.depth < 15, full.depth > 30
        assert near.any()
        assert far.any()
        assert np.isnan(result.depth[near]).all()
        assert np.isposinf(result.depth[far]).all()
        between = ~near & ~far
        np.testing.assert_array_equal(result.depth[between], full.depth[between])
        assert_cloud_belongs_to(result)

    def test_max_depth_defaults_to_that_of_the_weights(self, pipe, tuned):
        assert pipe.max_depth == 80
        assert tuned(max_depth=12).max_depth == 12

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    @pytest.mark.parametrize("upsampling", ["bicubic", "bilinear"])
    def test_nonfinite_outputs_give_no_label_and_no_depth(self, make, value, upsampling):
        pipe = make(upsampling=upsampling, backend="torch")
        network = pipe._backend.engine._network
        network.get_parameter("segm.bias")[3] = value
        network.get_parameter("depth.bias")[0] = value
        result = pipe(FRAME)
        assert np.isnan(result.depth).all()
        assert all(np.isnan(result.cloud[name]).all() for name in "xyz")
        assert (result.labels == 255).all()
        assert (result.confidence == 0).all()
        assert (pipe(FRAME, {"labels"}).labels == 255).all()

    def test_points_of_a_distorted_camera_project_to_their_pixels(self, pipe):
        lens = CameraModel(WIDTH, HEIGHT, 70.0, 71.0, 44.5, 30.5, "plumb_bob", (-0.2, 0.05, 0.001, 0.002, 0.0))
        result = pipe(Frame(IMAGE, lens))
        finite = np.isfinite(result.cloud["z"])
        points = np.stack([result.cloud[name] for name in "xyz"], axis=-1)[finite]
        pixels = np.stack(np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT)), axis=-1)[finite]
        assert np.abs(lens.project(points) - pixels).max() < 1e-2


def save_random(path: Path, description: Description) -> Path:
    torch.manual_seed(3)
    save_weights(path, MultiTaskRefineNet(description).state_dict(), description)
    return path


class TestNetworks:
    def test_labels_are_chosen_within_the_class_group(self, tmp_path):
        path = save_random(tmp_path / "both.safetensors", published_description(46, 2))
        for group, classes in (("", KITTI6), ("nyud40", NYUD40)):
            pipe = Pipeline(weights=path, device="cpu", backend="torch", warm_up=False, classes=group)
            labels = pipe(FRAME, {"labels"}).labels
            assert (pipe.class_set.names, pipe.class_set.colors) == (classes.names, classes.colors)
            logits = pipe._backend.engine.forward(IMAGE)[0].numpy()
            first = 0 if group == "nyud40" else 40
            planes = logits[first : first + len(classes)]
            upsampled = np.stack([cv2.resize(plane, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC) for plane in planes])
            assert (labels == upsampled.argmax(axis=0)).all()
        with pytest.raises(WeightsError, match="no class group 'cityscapes'"):
            Pipeline(weights=path, device="cpu", warm_up=False, classes="cityscapes")

    def test_normals_are_unit_vectors_along_the_network_output(self, tmp_path):
        path = save_random(tmp_path / "three.safetensors", published_description(40, 3))
        pipe = Pipeline(weights=path, device="cpu", backend="torch", warm_up=False)
        result = pipe(FRAME)
        assert (result.normals.shape, result.normals.dtype) == ((HEIGHT, WIDTH, 3), np.float32)
        np.testing.assert_allclose(np.linalg.norm(result.normals, axis=-1), 1, rtol=1e-5)
        raw = pipe._backend.engine.forward(IMAGE)[2].numpy()
        upsampled = np.dstack([cv2.resize(plane, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC) for plane in raw])
        np.testing.assert_allclose((result.normals * upsampled).sum(axis=-1), np.linalg.norm(upsampled, axis=-1), rtol=1e-4)
        assert pipe(FRAME, {"depth"}).normals is None
        assert pipe.max_depth == 8


def test_the_image_is_returned_on_request_only(tuned):
    pipe = tuned(output_scale=0.5)
    assert pipe(Frame(IMAGE), {"labels"}).image is None
    image = pipe(Frame(IMAGE), {"image"}).image
    assert image is not None
    assert image.shape == (round(HEIGHT / 2), round(WIDTH / 2), 3)


def test_depth_scales_with_the_focal_length_that_the_network_sees(weights_file, tmp_path):
    """Twice the focal length makes a scene appear half as far; the camera model compensates for it."""
    network = load_network(weights_file)
    paths = {}
    for focal_length in (0.0, 35.0):
        paths[focal_length] = tmp_path / f"{focal_length:.0f}.safetensors"
        description = replace(network.description, depth_focal_length=focal_length)
        save_weights(paths[focal_length], network.state_dict(), description, half=False)
    options = {"backend": "torch", "warm_up": False, "max_depth": 1000.0, "min_depth": 0.0}
    plain, metric = (Pipeline(str(path), "cpu", **options) for path in paths.values())
    assert metric.description.depth_focal_length == 35.0

    def ratio(camera, **parameters):
        plain.update(**parameters)
        metric.update(**parameters)
        a, b = (pipe(Frame(IMAGE, camera), {"depth"}).depth for pipe in (plain, metric))
        known = np.isfinite(a) & np.isfinite(b) & (b > 0)
        assert known.mean() > 0.5
        return np.unique(np.round(b[known] / a[known], 4))

    assert ratio(CAMERA) == 2.0, "70 pixels now, 35 in the training"
    assert ratio(CAMERA, input_scale=0.5) == 1.0, "the network sees 35 pixels"
    # The network's input has whole pixels: 13.5 become 14.
    assert ratio(CAMERA, input_scale=0.15) == pytest.approx(2 * 14 / 90, abs=1e-4)
    trained = network.description.camera
    assert ratio(None, input_scale=1.0) == pytest.approx(trained["fx"] * WIDTH / trained["width"] / 35, abs=1e-3)
