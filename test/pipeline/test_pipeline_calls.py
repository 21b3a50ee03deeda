"""Calls of a pipeline: reuse of memory, batches, streams, parameter updates, and validation of arguments."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from support.pipeline_fixtures import CAMERA, FRAME, HEIGHT, IMAGE, SINGLE, WIDTH, pipeline_fixtures, same

from mtl_perception import CameraModel, Frame, Pipeline
from mtl_perception.config import Config
from mtl_perception.errors import CameraError, ConfigError, FrameError, WeightsError
from mtl_perception.types import OUTPUTS

make, pipe, tuned, full = pipeline_fixtures()


class TestMemory:
    def test_outputs_are_overwritten_by_the_next_call(self, make, full):
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

    def test_outputs_are_kept_without_reuse(self, pipe):
        first = pipe(FRAME)
        copies = {name: getattr(first, name).copy() for name in SINGLE}
        pipe(Frame(255 - IMAGE, CAMERA))
        assert all(same(getattr(first, name), copies[name]) for name in SINGLE)

    def test_image_sizes_may_change(self, make, full):
        pipe = make(reuse_outputs=True)
        small = Frame(IMAGE[:33, :47], CAMERA.cropped(0, 0, 47, 33))
        expected = make()(small)
        for frame, wanted in ((FRAME, full), (small, expected), (FRAME, full)):
            result = pipe(frame)
            assert all(same(getattr(result, name), getattr(wanted, name)) for name in SINGLE)


class TestBatch:
    SMALL = Frame(IMAGE[:33, :47], CAMERA.cropped(0, 0, 47, 33))

    @pytest.mark.parametrize("reuse", [False, True])
    def test_results_are_those_of_single_calls(self, make, full, pipe, reuse):
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

    def test_an_invalid_frame_fails_the_batch(self, pipe):
        with pytest.raises(FrameError, match="H x W x 3"):
            pipe.batch([FRAME, Frame(IMAGE[..., 0])], [OUTPUTS, OUTPUTS])

    @pytest.mark.parametrize("outputs", [[], [OUTPUTS], [OUTPUTS] * 3])
    def test_each_frame_needs_its_outputs(self, pipe, outputs):
        with pytest.raises(ConfigError, match=f"one collection for each of the 2 frames, not {len(outputs)}"):
            pipe.batch([FRAME, FRAME], outputs)

    def test_a_cpu_processes_frames_one_by_one(self, pipe):
        assert (pipe.batch_limit, pipe.result_sets, pipe.notes) == (1, 1, ())


class TestStream:
    SMALL = Frame(IMAGE[:33, :47], CAMERA.cropped(0, 0, 47, 33))

    @pytest.mark.parametrize("reuse", [False, True])
    def test_results_are_those_of_calls_in_order(self, make, pipe, reuse):
        frames = [FRAME, self.SMALL, replace(FRAME, image=255 - IMAGE), FRAME]
        count = 0
        for frame, result in zip(frames, make(reuse_outputs=reuse).stream(iter(frames)), strict=True):
            expected = pipe(frame)
            assert all(same(getattr(result, name), getattr(expected, name)) for name in SINGLE)
            count += 1
        assert count == len(frames)

    def test_parameters_may_change_between_frames(self, make):
        pipe = make()
        results = pipe.stream([FRAME] * 2, {"depth"})
        first = next(results)
        assert first.labels is None and first.depth.shape == (HEIGHT, WIDTH)
        pipe.update(output_scale=0.5)
        assert next(results).depth.shape == (HEIGHT // 2, WIDTH // 2)

    def test_an_invalid_frame_ends_it_after_the_results_before(self, pipe):
        results = pipe.stream([FRAME, Frame(IMAGE[..., 0])], {"labels"})
        assert next(results).labels is not None
        with pytest.raises(FrameError, match="H x W x 3"):
            next(results)
        assert list(pipe.stream([])) == []


class TestValidation:
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
    def test_an_invalid_image_is_refused(self, pipe, image):
        with pytest.raises(FrameError, match="image") as caught:
            pipe(Frame(image))
        assert caught.value.reason in ("format", "size")

    @pytest.mark.parametrize("size", [(WIDTH - 1, HEIGHT), (WIDTH, HEIGHT + 1), (HEIGHT, WIDTH)])
    def test_camera_size_must_match(self, pipe, size):
        expected = f"camera model is for {size[0]}x{size[1]} images, but the image is {WIDTH}x{HEIGHT}"
        with pytest.raises(CameraError, match=expected):
            pipe(Frame(IMAGE, CameraModel(*size, 70.0, 71.0, 44.5, 30.5)))

    def test_unknown_weights_are_refused(self):
        with pytest.raises(WeightsError, match="unknown weights 'kity'; did you mean 'kitti'"):
            Pipeline(weights="kity", device="cpu")
        with pytest.raises(WeightsError, match=r"no such weights file: /nowhere/x\.safetensors"):
            Pipeline(weights="/nowhere/x.safetensors", device="cpu")

    def test_config_and_parameters_exclude_each_other(self, weights_file):
        with pytest.raises(ConfigError, match="not both"):
            Pipeline(config=Config(weights=str(weights_file)), max_depth=3.0)


class TestMemoryLayouts:
    @pytest.mark.parametrize("scale", [1.0, 0.5])
    @pytest.mark.parametrize(
        "layout",
        {
            "padded rows": lambda image: np.dstack([np.pad(image, ((0, 0), (0, 7), (0, 0)))])[:, :WIDTH],
            "reversed BGR": lambda image: np.ascontiguousarray(image[..., ::-1])[..., ::-1],
            "mirrored": lambda image: np.ascontiguousarray(image[:, ::-1])[:, ::-1],
            "upside down": lambda image: np.ascontiguousarray(image[::-1])[::-1],
            "column by column": np.asfortranarray,
            "fourth channel": lambda image: np.dstack([image, image[..., :1]])[..., :3],
            "read-only": lambda image: np.frombuffer(image.tobytes(), np.uint8).reshape(image.shape),
        }.items(),
        ids=lambda item: item[0],
    )
    def test_any_memory_layout_gives_the_same_results(self, tuned, layout, scale):
        image = layout[1](IMAGE)
        np.testing.assert_array_equal(image, IMAGE)
        pipe = tuned(input_scale=scale, output_scale=scale)
        result, expected = pipe(Frame(image, CAMERA)), pipe(FRAME)
        assert all(same(getattr(result, name), getattr(expected, name)) for name in SINGLE)
        np.testing.assert_array_equal(result.image, expected.image)


class TestUpdate:
    def test_live_parameters_take_effect(self, make):
        pipe = make()
        pipe.update(max_depth=30, output_scale=0.5, upsampling="bilinear")
        assert (pipe.config.max_depth, pipe.config.output_scale) == (30.0, 0.5)
        expected = make(max_depth=30, output_scale=0.5, upsampling="bilinear")(FRAME)
        assert same(pipe(FRAME).cloud, expected.cloud)

    @pytest.mark.parametrize("name", ["weights", "device", "precision", "cpu_threads", "classes", "autostart"])
    def test_other_parameters_cannot_change(self, pipe, name):
        with pytest.raises(ConfigError, match=f"parameter {name} can change"):
            pipe.update(**{name: getattr(Config(), name)})

    @pytest.mark.parametrize("wrong", [{"min_confidence": 2.0}, {"min_confidenc": 0.5}, {"weights": "x"}, {"min_depth": 20.0}])
    def test_an_invalid_value_changes_nothing(self, pipe, wrong):
        before = pipe.config
        with pytest.raises(ConfigError):
            pipe.update(max_depth=10.0, **wrong)
        assert pipe.config == before


def test_min_depth_must_be_below_the_maximum_of_the_weights(weights_file):
    pipe = Pipeline(str(weights_file), device="cpu", warm_up=False)
    with pytest.raises(ConfigError, match="min_depth: 500.0 is not below max_depth 80.0"):
        pipe.update(min_depth=500.0)
    assert pipe.config.min_depth == 0.0
    with pytest.raises(ConfigError, match="min_depth"):
        Pipeline(str(weights_file), device="cpu", warm_up=False, min_depth=90.0)


def test_cpu_threads_0_restores_all_threads(weights_file):
    before = torch.get_num_threads()
    Pipeline(str(weights_file), device="cpu", warm_up=False, cpu_threads=1)
    assert torch.get_num_threads() == 1
    Pipeline(str(weights_file), device="cpu", warm_up=False, cpu_threads=0)
    assert torch.get_num_threads() == before
