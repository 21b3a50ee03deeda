"""CUDA program on CPU tensors: the same labels, depth and points as the CPU backend."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from support.images import noise_image

from mtl_perception import CameraModel, Frame, Pipeline, load_network
from mtl_perception.inference.cuda.area import AreaDownsample, area_weights
from mtl_perception.inference.cuda.backend import CudaBackend
from mtl_perception.inference.cuda.network import AtenNetwork
from mtl_perception.inference.cuda.program import DeviceProgram, ProgramSpec
from mtl_perception.inference.cuda.runtime import HostRuntime
from mtl_perception.labels import STREET
from mtl_perception.network.description import published_description
from mtl_perception.network.grid import ResizeSpec
from mtl_perception.network.model import MultiTaskRefineNet
from mtl_perception.types import Outputs
from mtl_perception.weights.files import read_weights, save_weights

HEIGHT, WIDTH = 61, 90
CAMERA = CameraModel(WIDTH, HEIGHT, 70.0, 71.0, 44.5, 30.5)
FRAME = Frame(noise_image(HEIGHT, WIDTH), CAMERA)
CLASSES = (0, len(STREET))


def on_device(weights, reuse: bool = False, **parameters) -> Pipeline:
    """Return a pipeline with the CUDA backend on CPU tensors."""
    parameters = {"points_edge_filter": 0.0, **parameters}
    pipe = Pipeline(weights=weights, device="cpu", backend="torch", warm_up=False, reuse_outputs=reuse, **parameters)
    _, first = pipe.description.class_set(pipe.config.classes)
    network, classes = load_network(weights), (first, len(pipe.class_set))
    pipe._backend = CudaBackend(network, HostRuntime(), pipe.precision, classes, copies=not reuse)
    return pipe


@pytest.fixture(scope="module")
def both(weights_file):
    """Return pipelines with the CUDA backend and the CPU backend and the given live parameters.

    The edge filter is off unless they set it: nearly all depth of a random network is at edges.
    """
    plain = Pipeline(weights=weights_file, device="cpu", backend="torch", warm_up=False, points_edge_filter=0.0)
    pipes = on_device(weights_file), plain
    before = pipes[0].config, pipes[1].config

    def tuned(**parameters) -> tuple[Pipeline, Pipeline]:
        for pipe, config in zip(pipes, before, strict=True):
            pipe.config = config
            pipe.update(**parameters)
        return pipes

    return tuned


def assert_agree(found: Outputs, expected: Outputs, ties: float = 1e-3, rtol: float = 2e-4) -> None:
    """Check labels except for ties, confidence to one level, depth and points up to rounding of folded batch norms."""
    for name in ("labels", "confidence", "depth", "cloud", "normals", "image"):
        a, b = getattr(found, name), getattr(expected, name)
        assert (a is None) == (b is None), name
        if a is not None:
            assert (a.shape, a.dtype) == (b.shape, b.dtype), name
    assert found.camera == expected.camera
    if found.labels is not None:
        assert (found.labels != expected.labels).mean() <= ties
    if found.confidence is not None:
        assert (np.abs(found.confidence.astype(int) - expected.confidence) > 1).mean() <= ties
    if found.depth is not None:
        assert_depth(found.depth, expected.depth, rtol)
    if found.cloud is not None:
        for name in "xyz":
            assert_depth(found.cloud[name], expected.cloud[name], rtol)
        shifts = np.array([16, 8, 0], np.uint32)
        assert_levels(*(result.cloud["rgb"][..., None] >> shifts & 255 for result in (found, expected)))
        assert (found.cloud["label"] != expected.cloud["label"]).mean() <= ties
    if found.normals is not None:
        np.testing.assert_allclose(found.normals, expected.normals, atol=1e-4)
    if found.image is not None:
        assert_levels(found.image, expected.image)


def assert_levels(found: np.ndarray, expected: np.ndarray) -> None:
    """Check that levels are equal, except where a mean lies between two levels."""
    difference = np.abs(found.astype(int) - expected)
    assert difference.max() <= 1 and (difference > 0).mean() < 5e-3


def assert_depth(found: np.ndarray, expected: np.ndarray, rtol: float) -> None:
    """Check that finite values are close, with NaN and Inf at the same pixels except for depths at a limit."""
    finite = np.isfinite(found) & np.isfinite(expected)
    np.testing.assert_allclose(found[finite], expected[finite], rtol=rtol, atol=1e-6)
    kinds = [np.select([np.isnan(a), np.isposinf(a)], [1, 2], 0) for a in (found, expected)]
    assert (kinds[0] != kinds[1]).mean() <= max(rtol, 1e-3)


@pytest.mark.parametrize(
    ("parameters", "rtol"),
    [
        ({}, 2e-4),
        ({"upsampling": "bilinear"}, 2e-4),
        ({"points_edge_filter": 2.0, "points_stride": 3}, 2e-4),
        ({"points_edge_filter": 2.0, "output_scale": 0.37}, 2e-4),
        ({"min_depth": 15.0, "max_depth": 30.0, "min_confidence": 0.5}, 2e-4),
        ({"output_scale": 0.5}, 2e-4),
        # A mean between two levels may be rounded to either, which a random network amplifies.
        ({"output_scale": 0.37, "input_scale": 0.6}, 0.03),
        ({"input_scale": 0.5, "min_confidence": 0.4}, 0.03),
    ],
    ids=str,
)
def test_results_equal_those_of_the_cpu_backend(both, parameters, rtol):
    pipe, plain = both(**parameters)
    expected = plain(FRAME)
    result = pipe(FRAME)
    assert_agree(result, expected, ties=max(rtol, 1e-3), rtol=rtol)
    both_finite = np.isfinite(result.depth) & np.isfinite(expected.depth)
    assert np.median(np.abs(result.depth[both_finite] / expected.depth[both_finite] - 1)) < max(rtol / 5, 1e-4)
    assert np.isfinite(expected.depth).any() and np.isfinite(expected.cloud["x"]).any()


def test_only_ties_differ_without_folded_batch_norms(weights_file):
    pipe = on_device(weights_file)
    pipe._backend._network.module = load_network(weights_file).to(memory_format=torch.channels_last)
    expected = Pipeline(weights=weights_file, device="cpu", backend="torch", warm_up=False, points_edge_filter=0.0)(FRAME)
    assert_agree(pipe(FRAME), expected, ties=2e-4, rtol=1e-5)


@pytest.mark.parametrize(("size", "scale"), [((1, 1), 0.1), ((3, 200), 1.0), ((200, 3), 0.1), ((33, 47), 1.0)], ids=str)
def test_small_and_narrow_images_agree_with_the_cpu_backend(both, size, scale):
    frame = Frame(noise_image(*size), CameraModel(size[1], size[0], 50.0, 50.0, size[1] / 2, size[0] / 2))
    pipe, plain = both(input_scale=scale)
    assert_agree(pipe(frame), plain(frame), ties=0.02, rtol=0.03)


@pytest.mark.parametrize("wanted", ["labels", "confidence", "depth", "cloud", "image", "depth labels", ""])
def test_only_requested_outputs_are_computed(both, wanted):
    outputs = set(wanted.split())
    for scale in (1.0, 0.5):
        pipe, plain = both(output_scale=scale)
        pipe._backend.release()
        assert_agree(pipe(FRAME, outputs), plain(FRAME, outputs))
        computed = outputs - {"image"} if scale == 1.0 else outputs
        assert [set(spec.outputs) for spec in pipe._backend._plans] == ([computed] if computed else [])


@pytest.mark.parametrize("layout", ["padded rows", "reversed BGR", "read-only"])
def test_any_memory_layout_of_the_image_gives_the_same_results(both, layout):
    image = {
        "padded rows": np.pad(FRAME.image, ((0, 0), (0, 7), (0, 0)))[:, :WIDTH],
        "reversed BGR": np.ascontiguousarray(FRAME.image[..., ::-1])[..., ::-1],
        "read-only": np.frombuffer(FRAME.image.tobytes(), np.uint8).reshape(FRAME.image.shape),
    }[layout]
    pipe, _ = both()
    assert pipe(Frame(image, CAMERA)).cloud.tobytes() == pipe(FRAME).cloud.tobytes()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_maps_give_invalid_outputs(weights_file, value):
    pipe = on_device(weights_file)
    pipe._backend._network.module.get_parameter("segm.bias").data[3] = value
    pipe._backend._network.module.get_parameter("depth.bias").data[0] = value
    result = pipe(FRAME)
    assert np.isnan(result.depth).all() and np.isnan(result.cloud["x"]).all()
    assert (result.labels == 255).all() and (result.confidence == 0).all()
    assert (pipe(FRAME, {"labels"}).labels == 255).all()


def test_distorted_cameras_and_focal_lengths_agree_with_the_cpu_backend(weights_file, tmp_path):
    state, description = read_weights(weights_file)
    path = tmp_path / "metric.safetensors"
    save_weights(path, state, replace(description, depth_focal_length=100.0), half=False)
    lens = CameraModel(WIDTH, HEIGHT, 70.0, 71.0, 44.5, 30.5, "plumb_bob", (-0.2, 0.05, 0.001, 0.002, 0.0))
    expected = Pipeline(weights=path, device="cpu", backend="torch", warm_up=False, points_edge_filter=0.0)
    pipe = on_device(path)
    for frame in (Frame(FRAME.image, lens), FRAME, Frame(FRAME.image), Frame(FRAME.image, lens)):
        assert_agree(pipe(frame), expected(frame))


def test_published_networks_with_class_groups_and_normals_agree_with_the_cpu_backend(tmp_path):
    for number, (classes, tasks, group) in enumerate([(46, 2, "kitti6"), (40, 3, "")]):
        torch.manual_seed(3)
        path = tmp_path / f"{number}.safetensors"
        save_weights(
            path, MultiTaskRefineNet(published_description(classes, tasks)).state_dict(), published_description(classes, tasks)
        )
        expected = Pipeline(weights=path, device="cpu", backend="torch", warm_up=False, points_edge_filter=0.0, classes=group)(
            FRAME
        )
        # Depth is a magnitude here, and ratios near 0 mean little.
        assert_agree(on_device(path, classes=group)(FRAME), expected, ties=0.02, rtol=0.02)


def test_images_of_a_batch_do_not_mix(both):
    pipe, single = both()
    pipe._backend.release()
    frames = [
        Frame(noise_image(HEIGHT, WIDTH, seed), replace(CAMERA, cx=30.0 + seed), stamp_ns=seed)
        if seed != 2
        else Frame(FRAME.image)
        for seed in range(4)
    ]
    small = Frame(noise_image(20, 30), CameraModel(30, 20, 30.0, 30.0, 15.0, 10.0))
    frames.insert(2, small)
    wanted = [frozenset({"labels", "cloud", "image"})] * 4 + [frozenset({"depth"})]
    results = pipe.batch(frames, wanted)
    for frame, outputs, result in zip(frames, wanted, results, strict=True):
        assert_agree(result, single(frame, outputs))
    assert sorted(spec.batch for spec in pipe._backend._plans) == [1, 4]


def test_bf16_agrees_with_fp32_on_most_pixels_of_the_program(both, weights_file):
    expected = both()[1](FRAME)
    result = on_device(weights_file, precision="bf16")(FRAME)
    assert (result.labels == expected.labels).mean() > 0.8, "a random network is less sure than a trained one"
    both = np.isfinite(result.depth) & np.isfinite(expected.depth)
    assert np.median(np.abs(result.depth[both] / expected.depth[both] - 1)) < 0.25


def test_program_has_no_synchronization_and_no_data_dependent_shape(weights_file):
    """A CUDA graph cannot capture either. Meta tensors raise an error where values or tensors of the CPU are needed."""
    meta = torch.device("meta")
    network = AtenNetwork(load_network(weights_file), meta, torch.float16)
    outputs = ("labels", "confidence", "depth", "cloud", "image")
    program = DeviceProgram(
        network, CLASSES, ProgramSpec(2, (48, 64), outputs, (36, 48), ResizeSpec((24, 32), (24, 32), "bicubic"), True, 0, True)
    )
    layouts = program.spec.input_layout(), program.spec.output_layout()
    inputs, out = (layout.views(torch.empty(layout.nbytes, dtype=torch.uint8, device=meta)) for layout in layouts)
    maps = program.allocate_maps()
    with torch.no_grad():
        program.compute_maps(inputs["image"], maps)
        program.write_outputs(maps, inputs["image"], inputs["limits"], torch.empty(2, 24, 32, 2, device=meta), out)
        for synchronizes in (lambda: out["depth"][out["labels"] == 1], lambda: out["depth"].max().item()):
            with pytest.raises((RuntimeError, NotImplementedError)):
                synchronizes()


@pytest.mark.parametrize(
    ("before", "after"), [((60, 90), (30, 45)), ((61, 91), (30, 55)), ((60, 90), (20, 30)), ((7, 5), (1, 5))]
)
def test_area_downsampling_equals_that_of_opencv(before, after):
    image = noise_image(*before)
    found = AreaDownsample(before, after, torch.device("cpu"))(torch.from_numpy(image)[None])[0].numpy()
    expected = cv2.resize(image, after[::-1], interpolation=cv2.INTER_AREA).reshape(found.shape)
    difference = np.abs(found - expected)
    assert difference.max() <= 1 and (difference > 0).mean() < 2e-3
    np.testing.assert_allclose(area_weights(before[0], after[0]).sum(axis=1), 1, rtol=1e-6)


def test_scores_are_the_upsampled_logits_of_the_classes(both):
    pipe, expected = both()
    found, plain = (each(FRAME, {"scores", "labels"}) for each in (pipe, expected))
    assert found.scores.shape == (len(STREET), HEIGHT, WIDTH) and found.scores.dtype == np.float32
    np.testing.assert_allclose(found.scores, plain.scores, atol=1e-3 * np.abs(plain.scores).max())
    np.testing.assert_array_equal(found.labels, found.scores.argmax(axis=0))
    assert pipe(FRAME).scores is None
