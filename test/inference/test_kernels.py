"""Triton kernels in the interpreter on the CPU, compared with the operators of PyTorch."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

# Must be set before the kernels are imported, so that they run in NumPy.
os.environ["TRITON_INTERPRET"] = "1"
triton = pytest.importorskip("triton", reason="Triton is not installed")

from support.images import noise_image

from mtl_perception import CameraModel, Frame, Pipeline, load_network
from mtl_perception.inference.cuda import backend as cuda_backend
from mtl_perception.inference.cuda import fused_network
from mtl_perception.inference.cuda.backend import CudaBackend
from mtl_perception.inference.cuda.fused_network import FusedNetwork
from mtl_perception.inference.cuda.kernels import convolution, pooling
from mtl_perception.inference.cuda.kernels.heads import heads_3x3, taps_side_by_side
from mtl_perception.inference.cuda.kernels.launch import Tile
from mtl_perception.inference.cuda.kernels.outputs import write_outputs
from mtl_perception.inference.cuda.network import AtenNetwork
from mtl_perception.inference.cuda.program import DeviceProgram, ProgramSpec
from mtl_perception.inference.cuda.runtime import HostRuntime
from mtl_perception.network.grid import ResizeSpec, uncropped_size

ROOT = Path(__file__).parents[2]
LIMITS = torch.tensor([[2.0, 60.0, 0.3, 1.1, 5.0], [3.0, 40.0, 0.0, 0.9, 3.0]])
EXACT = {"rtol": 1e-5, "atol": 1e-5}


@pytest.fixture(scope="module", autouse=True)
def _without_overflow_checks():
    """Leave out checks of integers, which take half of the interpreter's time, and which it ignores outside of debugging."""
    from triton.runtime.interpreter import interpreter_builder

    assert not interpreter_builder.options.debug
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interpreter_builder, "options", replace(interpreter_builder.options, sanitize_overflow=False))
        yield


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def planes(values: torch.Tensor) -> torch.Tensor:
    """Permute N x H x W x C to N x C x H x W."""
    return values.permute(0, 3, 1, 2)


@pytest.mark.parametrize(("inputs", "outputs"), [(32, 16), (24, 40), (16, 96)])
@pytest.mark.parametrize(("tile", "size"), [(Tile(16, 16, 16), (3, 3)), (Tile(64, 64, 32), (5, 7))], ids=str)
def test_pointwise_convolution_with_bias_residual_and_activation(inputs, outputs, tile, size):
    assert tile.m < 2 * size[0] * size[1] < 2 * tile.m, "two blocks of pixels, the second one incomplete"
    x, weight = randn(2, *size, inputs), randn(inputs, outputs, seed=1)
    bias, residual = randn(outputs, seed=2), randn(2, *size, outputs, seed=3)
    for options in itertools.product([False, True], repeat=3):
        with_bias, with_residual, relu6 = options
        out = torch.full((2, *size, outputs), torch.nan)
        convolution.pointwise(
            x,
            weight,
            bias if with_bias else None,
            residual=residual if with_residual else None,
            out=out,
            relu6=relu6,
            tile=tile,
        )
        expected = x @ weight + (bias if with_bias else 0) + (residual if with_residual else 0)
        torch.testing.assert_close(out, expected.clamp(0, 6) if relu6 else expected, **EXACT)


@pytest.mark.parametrize(
    ("size", "low", "uncropped"), [((5, 7), (3, 4), (6, 8)), ((4, 6), (2, 3), (4, 6)), ((1, 1), (1, 1), (2, 2))]
)
def test_pointwise_convolution_adds_a_coarser_map_upsampled_as_pytorch_does(size, low, uncropped):
    x, weight, coarse = randn(2, *size, 24), randn(24, 32, seed=1), randn(2, *low, 32, seed=2)
    out = torch.empty(2, *size, 32)
    convolution.pointwise(x, weight, low=coarse, uncropped=uncropped, out=out)
    upsampled = F.interpolate(planes(coarse), size=uncropped, mode="bilinear", align_corners=False)
    expected = x @ weight + upsampled[..., : size[0], : size[1]].permute(0, 2, 3, 1)
    torch.testing.assert_close(out, expected, **EXACT)


def test_pointwise_convolution_is_added_to_a_total_with_and_without_an_output():
    x, weight = randn(1, 3, 5, 32), randn(32, 32, seed=1)
    for out in (torch.empty(1, 3, 5, 32), None):
        total = randn(1, 3, 5, 32, seed=2)
        expected = total + x @ weight
        convolution.pointwise(x, weight, total=total, out=out)
        torch.testing.assert_close(total, expected, **EXACT)
        if out is not None:
            torch.testing.assert_close(out, x @ weight, **EXACT)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (5, 7)], ids=str)
def test_depthwise_convolution(size, stride):
    x, weight, bias = randn(2, *size, 48), randn(9, 48, seed=1), randn(48, seed=2)
    found = convolution.depthwise(x, weight, bias, stride)
    kernel = weight.T.reshape(48, 1, 3, 3)
    expected = F.conv2d(planes(x), kernel, bias, stride, 1, groups=48).clamp(0, 6)
    torch.testing.assert_close(planes(found), expected, **EXACT)


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (9, 14)], ids=str)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_first_convolution_normalizes_and_pads_with_zeros_after_that(size, dtype):
    image = torch.from_numpy(noise_image(*size)).expand(2, -1, -1, -1).contiguous().to(dtype)
    scale, offset, kernel, bias = randn(3).abs() / 64, randn(3, seed=1), randn(32, 3, 3, 3, seed=2), randn(32, seed=3)
    weight = torch.cat([kernel.permute(2, 3, 1, 0).reshape(27, 32), torch.zeros(5, 32)])
    found = convolution.stem(image, scale, offset, weight, bias)
    expected = F.conv2d(planes(image.float() * scale + offset), kernel, bias, 2, 1).clamp(0, 6)
    torch.testing.assert_close(planes(found), expected, **EXACT)


@pytest.mark.parametrize("size", [(1, 1), (3, 4), (5, 9)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_pooling_equals_that_of_pytorch_and_propagates_nan(size, dtype):
    x = randn(2, *size, 64).to(dtype)
    x[0, 0, 0, 3] = torch.nan
    x[1, -1, -1, 5] = torch.inf
    found = pooling.max_pool_5x5(x)
    expected = F.max_pool2d(planes(x).float(), 5, 1, 2).to(dtype)
    torch.testing.assert_close(planes(found), expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("last", [False, True])
def test_pooling_stage_scales_and_adds(last):
    x, scale, total = randn(2, 6, 9, 64), randn(64, seed=1), randn(2, 6, 9, 64, seed=2)
    added = torch.empty_like(total)
    out = pooling.depthwise_stage(x, scale, total, added, last=last)
    expected = F.max_pool2d(planes(x), 5, 1, 2).permute(0, 2, 3, 1) * scale
    torch.testing.assert_close(added, total + expected, **EXACT)
    assert (out is None) == last
    if out is not None:
        torch.testing.assert_close(out, expected, **EXACT)


@pytest.mark.parametrize("which", [(True, True), (True, False), (False, True)], ids=str)
def test_heads_are_scale_relu6_and_convolution(which):
    x, scales = randn(2, 4, 6, 256), randn(2, 256, seed=1)
    kernels = [randn(5, 256, 3, 3, seed=2), randn(1, 256, 3, 3, seed=3)]
    bias = torch.cat([randn(6, seed=4), torch.zeros(10)])
    weights = torch.zeros(2, 6, 256, 3, 3)
    weights[0, :5], weights[1, 5:] = kernels
    found = heads_3x3(x, scales, taps_side_by_side(weights), bias, 6, which)
    for head, columns in enumerate((slice(0, 5), slice(5, 6))):
        if which[head]:
            hidden = planes((x * scales[head]).clamp(0, 6))
            expected = F.conv2d(hidden, kernels[head], bias[columns], 1, 1)
            torch.testing.assert_close(planes(found[..., columns]), expected, rtol=1e-4, atol=1e-3)


class Maps(AtenNetwork):
    """A network with given maps, whose outputs are written by a kernel or by operators of PyTorch."""

    def __init__(self, description, uses_kernels: bool) -> None:
        self.description, self.device, self.uses_kernels = description, torch.device("cpu"), uses_kernels


def outputs_both_ways(network, size, outputs, mode="bicubic", classes=(0, 12), min_confidence=True, spoil=False, **points):
    """Return the outputs of the kernel and of the operators for the same random maps.

    The interpreter runs a program for each row of an image, one after another: of many rows there is one image, otherwise two.
    """
    count = 1 if size[0] > 10 else 2
    spec = ProgramSpec(
        count,
        size,
        tuple(outputs),
        size,
        ResizeSpec(size, uncropped_size(size, size, "exact"), mode),
        "confidence" in outputs or min_confidence,
        **points,
    )
    limits = LIMITS[:count].clone()
    if not min_confidence:
        limits[:, 2] = 0
    image = torch.stack([torch.from_numpy(noise_image(*size, seed=seed)) for seed in range(count)])
    rays = torch.from_numpy(CameraModel(size[1], size[0], 30.0, 31.0, size[1] / 2, size[0] / 2).rays(spec.points_stride))
    rays = rays.repeat(count, 1, 1, 1)
    rays[0, 0, 0, 0] = torch.nan
    found = []
    for uses_kernels in (True, False):
        program = DeviceProgram(Maps(network.description, uses_kernels), classes, spec)
        maps = program.allocate_maps()
        h, w, columns = maps.values.shape[1:]
        maps.values.copy_(3 * randn(count, h, w, columns, seed=5))
        if spoil:
            maps.values[0, 0, 0, 3] = torch.nan
            maps.values[0, -1, -1, 2] = torch.inf
            maps.values[-1, 0, 0, 7] = -torch.inf
            maps.values[0, h // 2, w // 2, maps.depth_column] = torch.nan
            maps.values[-1, -1, 0, maps.depth_column] = torch.inf
        layout = spec.output_layout()
        out = layout.views(torch.full((layout.nbytes,), 77, dtype=torch.uint8))
        program.write_outputs(maps, image, limits, rays, out)
        found.append(out)
    return found


def assert_same_outputs(found, expected) -> None:
    """Check that outputs are equal, except for ties of two scores and values at a limit."""
    for name in found:
        a, b = found[name], expected[name]
        if name == "labels":
            assert (a == b).float().mean() > 0.999
        elif name == "confidence":
            assert ((a.int() - b.int()).abs() <= 1).float().mean() > 0.999
        elif name == "depth":
            torch.testing.assert_close(a, b, rtol=1e-4, atol=0, equal_nan=True)
        elif name == "cloud":
            torch.testing.assert_close(a[..., :3], b[..., :3], rtol=1e-4, atol=1e-6, equal_nan=True)
            assert (a.view(torch.int32)[..., 3] == b.view(torch.int32)[..., 3]).all()
            assert (a.view(torch.int32)[..., 4] == b.view(torch.int32)[..., 4]).float().mean() > 0.999


@pytest.fixture(scope="module")
def network(weights_file):
    return load_network(weights_file)


@pytest.mark.parametrize("mode", ["bicubic", "bilinear"])
@pytest.mark.parametrize("spoil", [False, True], ids=["finite", "non-finite"])
@pytest.mark.parametrize("size", [(1, 1), (3, 70), (13, 18)], ids=str)
def test_kernel_writes_the_outputs_of_the_rule(network, size, mode, spoil):
    outputs = ("labels", "confidence", "depth", "cloud")
    assert_same_outputs(*outputs_both_ways(network, size, outputs, mode, spoil=spoil))


@pytest.mark.parametrize("outputs", [("labels",), ("confidence",), ("depth",), ("cloud",), ("labels", "depth")], ids="-".join)
@pytest.mark.parametrize("min_confidence", [False, True])
def test_kernel_writes_any_subset_of_the_outputs(network, outputs, min_confidence):
    assert_same_outputs(*outputs_both_ways(network, (2, 9), outputs, min_confidence=min_confidence, spoil=True))


@pytest.mark.parametrize("classes", [(0, 6), (5, 3), (11, 1)], ids=str)
def test_kernel_chooses_among_a_group_of_classes(network, classes):
    assert_same_outputs(*outputs_both_ways(network, (2, 9), ("labels", "confidence", "cloud"), classes=classes))


def test_kernel_computes_depth_as_a_magnitude(network):
    plain = SimpleNamespace(description=replace(network.description, depth_transform="abs", depth_range=(0.1, 80.0)))
    assert_same_outputs(*outputs_both_ways(plain, (5, 14), ("depth", "cloud"), spoil=True, filters_edges=True))


@pytest.mark.parametrize("spoil", [False, True], ids=["finite", "non-finite"])
@pytest.mark.parametrize("size", [(1, 1), (5, 70)], ids=str)
def test_kernel_removes_exactly_the_points_at_depth_edges(network, size, spoil):
    found, expected = outputs_both_ways(network, size, ("depth", "cloud"), spoil=spoil, filters_edges=True)
    assert_same_outputs(found, expected)
    missing = [out["cloud"][..., 2].isnan() & out["depth"].isfinite() for out in (found, expected)]
    assert torch.equal(*missing)
    if size != (1, 1):
        assert 0.1 < missing[0].float().mean() < 0.9


def test_kernel_writes_every_nth_point(network):
    size = (4, 14)
    dense = outputs_both_ways(network, size, ("cloud",), filters_edges=True)[0]["cloud"].view(torch.int32)
    for stride, outputs in ((2, ("cloud",)), (3, ("labels", "cloud")), (50, ("cloud",))):
        found, expected = outputs_both_ways(network, size, outputs, filters_edges=True, points_stride=stride)
        assert_same_outputs(found, expected)
        # NaN is compared by its bits.
        assert torch.equal(found["cloud"].view(torch.int32), dense[:, ::stride, ::stride])


def test_confidence_rounds_halves_to_even(network):
    """Two equal scores have a probability of 0.5 each, which is 127.5 levels."""
    maps = torch.zeros(1, 1, 1, 16)
    out = {"confidence": torch.zeros(1, 4, 4, dtype=torch.uint8), "labels": torch.zeros(1, 4, 4, dtype=torch.uint8)}
    image = torch.zeros(1, 4, 4, 3, dtype=torch.uint8)
    options = {"depth_column": 12, "size": (4, 4), "uncropped": (4, 4), "cubic": True, "exp": True, "with_probability": True}
    write_outputs(maps, image, None, torch.zeros(1, 5), out, classes=slice(0, 2), **options)
    assert (out["confidence"] == 128).all() and (out["labels"] == 0).all(), "the first of two equal scores"


@pytest.fixture
def few_programs(monkeypatch):
    """Use blocks that just hold whole maps, because the interpreter runs programs one after another."""
    whole = triton.next_power_of_2
    monkeypatch.setattr(
        convolution, "pointwise_tile", lambda rows, inputs, outputs, **_: Tile(whole(rows), whole(outputs), whole(inputs))
    )
    monkeypatch.setattr(convolution, "depthwise_tile", lambda rows, channels: Tile(whole(rows), whole(channels)))
    monkeypatch.setattr(pooling, "pooling_tile", lambda rows: Tile(8, 256, 1 if rows < 8 else 2))


def test_whole_network_agrees_with_the_operators(network, few_programs):
    device, dtype = torch.device("cpu"), torch.float32
    size = (7, 22)
    image = torch.from_numpy(noise_image(*size)).expand(2, -1, -1, -1).contiguous()
    image[1] = image[1].flip(1)
    heads = frozenset({"segm", "depth"})
    found = []
    for kind in (FusedNetwork, AtenNetwork):
        one = kind(network, device, dtype)
        maps = one.allocate(2, size, heads)
        with torch.no_grad():
            one(image, heads, maps)
        found.append(maps.values)
    used = slice(0, 13)
    torch.testing.assert_close(found[0][..., used], found[1][..., used], rtol=1e-4, atol=1e-4 * found[1].abs().max().item())


def test_backend_with_kernels_agrees_with_the_cpu_backend(network, weights_file, few_programs, monkeypatch):
    monkeypatch.setattr(cuda_backend, "prepare_network", lambda *args: (FusedNetwork(*args), ""))
    camera = CameraModel(30, 7, 20.0, 20.0, 15.0, 3.0)
    frame = Frame(noise_image(7, 30), camera)
    pipe = Pipeline(weights=weights_file, device="cpu", backend="torch", warm_up=False)
    expected = pipe(frame)
    pipe._backend = CudaBackend(network, HostRuntime(), "fp32", (0, 12))
    found = pipe(frame)
    assert pipe.backend == "cpu eager, Triton"
    assert (found.labels == expected.labels).mean() > 0.99
    torch.testing.assert_close(
        torch.from_numpy(found.depth), torch.from_numpy(expected.depth), rtol=1e-3, atol=0, equal_nan=True
    )
    assert (found.cloud["rgb"] == expected.cloud["rgb"]).all()
    only_depth = pipe(frame, {"depth"})
    assert only_depth.depth.tobytes() == found.depth.tobytes() and only_depth.labels is None


def test_images_too_large_for_the_kernels_fall_back_to_the_operators(network, monkeypatch):
    monkeypatch.setattr(fused_network, "LARGEST_MAP", 1000)
    monkeypatch.setattr(FusedNetwork, "shared", lambda *_: pytest.fail("the kernels address 32 bits"))
    one = FusedNetwork(network, torch.device("cpu"), torch.float32)
    heads = frozenset({"segm", "depth"})
    maps = one.allocate(1, (13, 22), heads)
    with torch.no_grad():
        one(torch.from_numpy(noise_image(13, 22))[None], heads, maps)
    assert maps.values.abs().sum() > 0


@pytest.mark.slow
def test_every_kernel_compiles_for_a_gpu_without_spilling():
    """One variant of each kernel for older GPUs, and all variants for an H100; Triton brings the assembler."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(ROOT / "build" / "triton_cache"), "PYTHONPATH": str(ROOT)}
    code = (
        "from tools.gpu.compile_kernels import main\n"
        "for options in (['--capability', '80', '89', '--kernels'], ['--capability', '90']):\n"
        "    assert main(options) == 0"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    assert done.stdout.count("\n0 variants spill registers\n") == done.stdout.count(" 92 launches a frame\n") == 2, done.stdout
