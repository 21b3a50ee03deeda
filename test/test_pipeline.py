"""A frame becomes labels, metres and a cloud: with each parameter, and with anything that a caller may hand in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import noise_picture

from mtl_perception import CameraModel, Frame, Pipeline, load_network
from mtl_perception.config import Config
from mtl_perception.errors import CameraError, ConfigError, FrameError, WeightsError
from mtl_perception.labels import KITTI6, NYUD40, STREET
from mtl_perception.net.description import Description, published_description
from mtl_perception.net.model import MultiTaskRefineNet
from mtl_perception.net.weights import save_weights
from mtl_perception.types import CLOUD_DTYPE, OUTPUTS, Result

REFERENCE = Path(__file__).resolve().parents[2] / "shared" / "reference"
HEIGHT, WIDTH = 61, 90
IMAGE = noise_picture(HEIGHT, WIDTH)
CAMERA = CameraModel(WIDTH, HEIGHT, 70.0, 71.0, 44.5, 30.5)
FRAME = Frame(IMAGE, CAMERA, 123, "cam")
SINGLE = ("labels", "confidence", "depth", "cloud")


@pytest.fixture(scope="module")
def make(weights_file):
    def pipeline(**parameters) -> Pipeline:
        return Pipeline(**{"weights": weights_file, "device": "cpu", "warm_up": False, **parameters})

    return pipeline


@pytest.fixture(scope="module")
def pipe(make) -> Pipeline:
    return make()


@pytest.fixture
def tuned(pipe):
    """The pipeline with other live parameters, for one test."""
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


def same(a: np.ndarray | None, b: np.ndarray | None) -> bool:
    """Equal to the byte, NaN included."""
    return a is not None and b is not None and a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def assert_cloud_belongs_to(result: Result) -> None:
    """Each point is its pixel's depth along its pixel's ray, in its pixel's colour, with its pixel's label."""
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


class TestParity:
    @pytest.mark.skipif(not (REFERENCE / "kitti6.npz").is_file(), reason=f"the reference outputs are not in {REFERENCE}")
    def test_published_outputs(self):
        reference = np.load(REFERENCE / "kitti6.npz")
        pipe = Pipeline(weights=REFERENCE / "kitti6.ckpt", device="cpu", warm_up=False, max_depth=1000.0)
        result = pipe(Frame(reference["image"]), ("labels", "depth"))
        assert (result.labels == reference["labels_full"]).mean() >= 0.9999
        depth = reference["depth_full"]
        assert np.abs(result.depth - depth).max() < 1e-4 * depth.max()
        assert pipe.class_set.names == KITTI6.names

    def test_by_hand(self, weights_file, full):
        """Network, resize, compare: written out with nothing of the engine."""
        network = load_network(weights_file)
        mean, std = (np.array(values, np.float32) for values in (network.description.mean, network.description.std))
        x = torch.from_numpy(((IMAGE / np.float32(255) - mean) / std).transpose(2, 0, 1)[None].copy())
        with torch.inference_mode():
            logits, raw = (output[0].numpy() for output in network(x))

        def grown(plane: np.ndarray) -> np.ndarray:
            # Each cell to its 4 x 4 pixels; what is beyond the picture is cut off.
            cells = (4 * plane.shape[1], 4 * plane.shape[0])
            return cv2.resize(plane, cells, interpolation=cv2.INTER_CUBIC)[:HEIGHT, :WIDTH]

        scores = np.stack([grown(plane) for plane in logits])
        odds = np.exp(scores - scores.max(axis=0))
        metres = np.exp(grown(raw[0]))
        assert (full.labels == scores.argmax(axis=0)).mean() > 0.999
        assert np.abs(full.confidence - 255 * odds.max(axis=0) / odds.sum(axis=0)).max() < 0.6
        near = metres < 79.9
        np.testing.assert_allclose(full.depth[near], metres[near], rtol=1e-4)
        assert np.isposinf(full.depth[metres > 80.1]).all()
        assert np.isposinf(full.depth).any()


class TestOutputs:
    def test_types_and_sizes(self, full):
        assert (full.labels.shape, full.labels.dtype) == ((HEIGHT, WIDTH), np.uint8)
        assert (full.confidence.shape, full.confidence.dtype) == ((HEIGHT, WIDTH), np.uint8)
        assert (full.depth.shape, full.depth.dtype) == ((HEIGHT, WIDTH), np.float32)
        assert full.normals is None, "this network has none"
        assert full.camera == CAMERA
        assert len(np.unique(full.labels)) >= 3
        assert set(np.unique(full.labels)) <= set(range(len(STREET)))
        assert_cloud_belongs_to(full)

    @pytest.mark.parametrize("name", SINGLE)
    @pytest.mark.parametrize("reuse", [False, True])
    def test_alone_is_the_same_and_the_others_are_none(self, make, full, name, reuse):
        alone = make(reuse_outputs=reuse)(FRAME, {name})
        assert same(getattr(alone, name), getattr(full, name))
        assert all(getattr(alone, other) is None for other in OUTPUTS if other != name)

    def test_nothing(self, pipe):
        result = pipe(FRAME, ())
        assert all(getattr(result, name) is None for name in OUTPUTS)
        assert result.camera == CAMERA

    @pytest.mark.parametrize("outputs", [{"label"}, "labels", ["depth", "points"]])
    def test_unknown(self, pipe, outputs):
        with pytest.raises(ConfigError, match="labels, confidence, depth, cloud, normals"):
            pipe(FRAME, outputs)

    def test_no_camera_no_cloud(self, pipe, full):
        result = pipe(Frame(IMAGE))
        assert result.cloud is None
        assert result.camera is None
        assert same(result.depth, full.depth)
        assert same(result.labels, full.labels)

    def test_deterministic(self, make, pipe, full):
        for again in (pipe(FRAME), make()(FRAME)):
            assert all(same(getattr(again, name), getattr(full, name)) for name in SINGLE)


class TestMemory:
    def test_reused(self, make, full):
        pipe = make(reuse_outputs=True)
        first = pipe(FRAME)
        copies = {name: getattr(first, name).copy() for name in SINGLE}
        places = {name: getattr(first, name).ctypes.data for name in SINGLE}
        other = pipe(Frame(255 - IMAGE, CAMERA))
        assert not same(other.labels, copies["labels"])
        third = pipe(FRAME)
        for name in SINGLE:
            assert same(copies[name], getattr(full, name))
            assert same(getattr(third, name), copies[name])
            assert getattr(third, name).ctypes.data == places[name]

    def test_not_reused(self, pipe):
        first = pipe(FRAME)
        copies = {name: getattr(first, name).copy() for name in SINGLE}
        pipe(Frame(255 - IMAGE, CAMERA))
        assert all(same(getattr(first, name), copies[name]) for name in SINGLE)

    def test_sizes_may_change(self, make, full):
        pipe = make(reuse_outputs=True)
        small = Frame(IMAGE[:33, :47], CAMERA.cropped(0, 0, 47, 33))
        expected = make()(small)
        for frame, wanted in ((FRAME, full), (small, expected), (FRAME, full)):
            result = pipe(frame)
            assert all(same(getattr(result, name), getattr(wanted, name)) for name in SINGLE)


class TestBatch:
    SMALL = Frame(IMAGE[:33, :47], CAMERA.cropped(0, 0, 47, 33))

    @pytest.mark.parametrize("reuse", [False, True])
    def test_is_what_single_calls_give(self, make, full, pipe, reuse):
        batching = make(reuse_outputs=reuse)
        frames, wanted = [FRAME, self.SMALL, replace(FRAME, camera=None)], [OUTPUTS, {"depth", "cloud"}, {"labels"}]
        results = batching.batch(frames, wanted)
        assert all(same(getattr(results[0], name), getattr(full, name)) for name in SINGLE)
        alone = pipe(self.SMALL)
        assert same(results[1].depth, alone.depth) and same(results[1].cloud, alone.cloud)
        assert (results[1].labels, results[1].camera) == (None, self.SMALL.camera)
        assert same(results[2].labels, full.labels) and results[2].cloud is None
        assert batching.batch([], []) == []
        assert same(batching.batch([FRAME], [{"labels"}])[0].labels, full.labels)

    def test_one_bad_frame_fails_it(self, pipe):
        with pytest.raises(FrameError, match="H x W x 3"):
            pipe.batch([FRAME, Frame(IMAGE[..., 0])], [OUTPUTS, OUTPUTS])

    def test_on_a_cpu_frames_go_one_by_one(self, pipe):
        assert (pipe.batch_limit, pipe.result_sets) == (1, 1)


class TestSizes:
    @pytest.mark.parametrize("scale", [0.5, 0.37, 0.05])
    def test_output_scale(self, tuned, scale):
        result = tuned(output_scale=scale)(FRAME)
        height, width = round(HEIGHT * scale), round(WIDTH * scale)
        assert result.depth.shape == result.confidence.shape == (height, width)
        assert result.image.shape == (height, width, 3)
        camera = result.camera
        assert (camera.fx, camera.cx) == pytest.approx((70 * width / WIDTH, 44.5 * width / WIDTH))
        assert (camera.fy, camera.cy) == pytest.approx((71 * height / HEIGHT, 30.5 * height / HEIGHT))
        assert_cloud_belongs_to(result)

    def test_input_scale(self, tuned, full):
        result = tuned(input_scale=0.5)(FRAME)
        assert result.labels.shape == (HEIGHT, WIDTH)
        assert not same(result.depth, full.depth)
        assert_cloud_belongs_to(result)
        half = cv2.resize(IMAGE, (45, 30), interpolation=cv2.INTER_AREA)
        small = tuned()(Frame(half))
        coarse = cv2.resize(result.confidence, (45, 30), interpolation=cv2.INTER_AREA).astype(int)
        assert np.abs(coarse - small.confidence).mean() < 12, "the network saw the shrunken picture"

    def test_bilinear(self, tuned, full):
        result = tuned(upsampling="bilinear")(FRAME)
        assert not same(result.depth, full.depth)
        assert (result.labels == full.labels).mean() > 0.9
        assert_cloud_belongs_to(result)

    @pytest.mark.parametrize("size", [(1, 1), (3, 500), (500, 3), (2, 2), (32, 33)])
    @pytest.mark.parametrize("scale", [1.0, 0.1])
    def test_odd_pictures(self, tuned, size, scale):
        camera = CameraModel(size[1], size[0], 50.0, 50.0, size[1] / 2, size[0] / 2)
        result = tuned(input_scale=scale)(Frame(noise_picture(*size), camera))
        assert result.labels.shape == result.depth.shape == result.cloud.shape == size
        assert (result.labels < len(STREET)).all()


class TestRules:
    def test_min_confidence(self, tuned, full):
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

    def test_depth_range(self, tuned, full):
        result = tuned(min_depth=15.0, max_depth=30.0)(FRAME)
        near, far = full.depth < 15, full.depth > 30
        assert near.any()
        assert far.any()
        assert np.isnan(result.depth[near]).all()
        assert np.isposinf(result.depth[far]).all()
        between = ~near & ~far
        np.testing.assert_array_equal(result.depth[between], full.depth[between])
        assert_cloud_belongs_to(result)

    def test_the_weights_own_range_is_the_default(self, pipe, tuned):
        assert pipe.max_depth == 80
        assert tuned(max_depth=12).max_depth == 12

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    @pytest.mark.parametrize("upsampling", ["bicubic", "bilinear"])
    def test_what_is_no_number_never_becomes_one(self, make, value, upsampling):
        pipe = make(upsampling=upsampling, backend="torch")
        network = pipe._engine._network
        network.get_parameter("segm.bias")[3] = value
        network.get_parameter("depth.bias")[0] = value
        result = pipe(FRAME)
        assert np.isnan(result.depth).all()
        assert all(np.isnan(result.cloud[name]).all() for name in "xyz")
        assert (result.labels == 255).all()
        assert (result.confidence == 0).all()
        assert (pipe(FRAME, {"labels"}).labels == 255).all()

    def test_distorted_camera(self, pipe):
        lens = CameraModel(WIDTH, HEIGHT, 70.0, 71.0, 44.5, 30.5, "plumb_bob", (-0.2, 0.05, 0.001, 0.002, 0.0))
        result = pipe(Frame(IMAGE, lens))
        finite = np.isfinite(result.cloud["z"])
        points = np.stack([result.cloud[name] for name in "xyz"], axis=-1)[finite]
        pixels = np.stack(np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT)), axis=-1)[finite]
        assert np.abs(lens.project(points) - pixels).max() < 1e-2


class TestRefused:
    @pytest.mark.parametrize(
        "image",
        [
            IMAGE.astype(np.float32),
            IMAGE.astype(np.uint16),
            IMAGE[..., 0],
            np.dstack([IMAGE, IMAGE[..., :1]]),
            IMAGE[None],
            IMAGE.tolist(),
            None,
            np.zeros((0, 5, 3), np.uint8),
            np.zeros((5, 0, 3), np.uint8),
        ],
    )
    def test_no_picture(self, pipe, image):
        with pytest.raises(FrameError, match="picture") as caught:
            pipe(Frame(image))
        assert caught.value.reason in ("format", "size")

    @pytest.mark.parametrize("size", [(WIDTH - 1, HEIGHT), (WIDTH, HEIGHT + 1), (HEIGHT, WIDTH)])
    def test_camera_of_another_size(self, pipe, size):
        with pytest.raises(CameraError, match=f"the camera is for {size[0]}x{size[1]}, the picture has {WIDTH}x{HEIGHT}"):
            pipe(Frame(IMAGE, CameraModel(*size, 70.0, 71.0, 44.5, 30.5)))

    def test_weights(self):
        with pytest.raises(WeightsError, match="'kity': did you mean 'kitti'"):
            Pipeline(weights="kity", device="cpu")
        with pytest.raises(WeightsError, match=r"no such weights file: /nowhere/x\.safetensors"):
            Pipeline(weights="/nowhere/x.safetensors", device="cpu")

    def test_config_and_parameters_at_once(self, weights_file):
        with pytest.raises(ConfigError, match="not both"):
            Pipeline(config=Config(weights=str(weights_file)), max_depth=3.0)


class TestMemoryLayouts:
    @pytest.mark.parametrize("scale", [1.0, 0.5])
    @pytest.mark.parametrize(
        "layout",
        {
            "padded rows": lambda image: np.dstack([np.pad(image, ((0, 0), (0, 7), (0, 0)))])[:, :WIDTH],
            "BGR turned": lambda image: np.ascontiguousarray(image[..., ::-1])[..., ::-1],
            "mirrored": lambda image: np.ascontiguousarray(image[:, ::-1])[:, ::-1],
            "upside down": lambda image: np.ascontiguousarray(image[::-1])[::-1],
            "column by column": np.asfortranarray,
            "fourth channel": lambda image: np.dstack([image, image[..., :1]])[..., :3],
            "read-only": lambda image: np.frombuffer(image.tobytes(), np.uint8).reshape(image.shape),
        }.items(),
        ids=lambda item: item[0],
    )
    def test_any_layout_gives_the_same(self, tuned, layout, scale):
        image = layout[1](IMAGE)
        np.testing.assert_array_equal(image, IMAGE)
        pipe = tuned(input_scale=scale, output_scale=scale)
        result, expected = pipe(Frame(image, CAMERA)), pipe(FRAME)
        assert all(same(getattr(result, name), getattr(expected, name)) for name in SINGLE)
        np.testing.assert_array_equal(result.image, expected.image)


class TestUpdate:
    def test_live(self, make):
        pipe = make()
        pipe.update(max_depth=30, output_scale=0.5, upsampling="bilinear")
        assert (pipe.config.max_depth, pipe.config.output_scale) == (30.0, 0.5)
        expected = make(max_depth=30, output_scale=0.5, upsampling="bilinear")(FRAME)
        assert same(pipe(FRAME).cloud, expected.cloud)

    @pytest.mark.parametrize("name", ["weights", "device", "precision", "cpu_threads", "classes", "autostart"])
    def test_not_live(self, pipe, name):
        with pytest.raises(ConfigError, match=f"parameter {name} can change"):
            pipe.update(**{name: getattr(Config(), name)})

    @pytest.mark.parametrize("wrong", [{"min_confidence": 2.0}, {"min_confidenc": 0.5}, {"weights": "x"}, {"min_depth": 20.0}])
    def test_all_or_none(self, pipe, wrong):
        before = pipe.config
        with pytest.raises(ConfigError):
            pipe.update(max_depth=10.0, **wrong)
        assert pipe.config == before


def save_random(path: Path, description: Description) -> Path:
    torch.manual_seed(3)
    save_weights(path, MultiTaskRefineNet(description).state_dict(), description)
    return path


class TestForms:
    def test_class_groups(self, tmp_path):
        path = save_random(tmp_path / "both.safetensors", published_description(46, 2))
        for group, classes in (("", KITTI6), ("nyud40", NYUD40)):
            pipe = Pipeline(weights=path, device="cpu", warm_up=False, classes=group)
            labels = pipe(FRAME, {"labels"}).labels
            assert (pipe.class_set.names, pipe.class_set.colors) == (classes.names, classes.colors)
            logits = pipe._engine.forward(IMAGE)[0].numpy()
            first = 0 if group == "nyud40" else 40
            planes = logits[first : first + len(classes)]
            grown = np.stack([cv2.resize(plane, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC) for plane in planes])
            assert (labels == grown.argmax(axis=0)).all()
        with pytest.raises(WeightsError, match="no class group 'cityscapes'"):
            Pipeline(weights=path, device="cpu", warm_up=False, classes="cityscapes")

    def test_normals(self, tmp_path):
        path = save_random(tmp_path / "three.safetensors", published_description(40, 3))
        pipe = Pipeline(weights=path, device="cpu", warm_up=False)
        result = pipe(FRAME)
        assert (result.normals.shape, result.normals.dtype) == ((HEIGHT, WIDTH, 3), np.float32)
        np.testing.assert_allclose(np.linalg.norm(result.normals, axis=-1), 1, rtol=1e-5)
        raw = pipe._engine.forward(IMAGE)[2].numpy()
        grown = np.dstack([cv2.resize(plane, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC) for plane in raw])
        np.testing.assert_allclose((result.normals * grown).sum(axis=-1), np.linalg.norm(grown, axis=-1), rtol=1e-4)
        assert pipe(FRAME, {"depth"}).normals is None
        assert pipe.max_depth == 8


def test_depth_range_is_checked_against_the_weights_own_maximum(weights_file):
    pipe = Pipeline(str(weights_file), device="cpu", warm_up=False)
    with pytest.raises(ConfigError, match="min_depth: 500.0 is not below max_depth 80.0"):
        pipe.update(min_depth=500.0)
    assert pipe.config.min_depth == 0.0
    with pytest.raises(ConfigError, match="min_depth"):
        Pipeline(str(weights_file), device="cpu", warm_up=False, min_depth=90.0)


def test_all_threads_come_back(weights_file):
    before = torch.get_num_threads()
    Pipeline(str(weights_file), device="cpu", warm_up=False, cpu_threads=1)
    assert torch.get_num_threads() == 1
    Pipeline(str(weights_file), device="cpu", warm_up=False, cpu_threads=0)
    assert torch.get_num_threads() == before


def test_the_picture_is_given_only_when_asked_for(weights_file):
    pipe = Pipeline(str(weights_file), device="cpu", warm_up=False, output_scale=0.5)
    frame = Frame(noise_picture(40, 60))
    assert pipe(frame, {"labels"}).image is None
    image = pipe(frame, {"image"}).image
    assert image is not None
    assert image.shape == (20, 30, 3)


def test_metres_follow_the_focal_length_of_the_picture_as_the_network_sees_it(weights_file, tmp_path):
    """To a network a picture of twice the focal length shows a scene half as far: the camera must undo that."""
    network = load_network(weights_file)
    paths = {}
    for focal_length in (0.0, 35.0):
        paths[focal_length] = tmp_path / f"{focal_length:.0f}.safetensors"
        description = replace(network.description, depth_focal_length=focal_length)
        save_weights(paths[focal_length], network.state_dict(), description, half=False)
    plain = Pipeline(str(paths[0.0]), "cpu", warm_up=False, max_depth=1000.0, min_depth=0.0)
    metric = Pipeline(str(paths[35.0]), "cpu", warm_up=False, max_depth=1000.0, min_depth=0.0)
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
    trained = network.description.camera
    assert ratio(None, input_scale=1.0) == pytest.approx(trained["fx"] * WIDTH / trained["width"] / 35, abs=1e-3)
