"""Alignment of feature maps and outputs with the image for any image size, and the published grid unchanged."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from mtl_perception.config import Config
from mtl_perception.inference.host.postprocess import Postprocessor
from mtl_perception.inference.request import Request
from mtl_perception.network.grid import STRIDE, ResizeSpec, nearest_cells, uncropped_size, upsample
from mtl_perception.types import Frame

KITTI = (375, 1242)


def centers(height: int, width: int, cell: int) -> torch.Tensor:
    """Return the pixel row and column of the center of each cell, 1 x 2 x h x w, for a map of stride `cell`."""
    cells = -(-height // cell), -(-width // cell)
    rows, columns = ((torch.arange(n, dtype=torch.float32) + 0.5) * cell for n in cells)
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij"))[None]


def upsampled(coarse: torch.Tensor, finer: torch.Tensor, grid: str) -> torch.Tensor:
    """Upsample a map to the next finer one, which has half its stride."""
    return upsample(2, coarse, finer.shape[2:], grid)


def displacement(found: torch.Tensor, expected: torch.Tensor, border: int) -> float:
    """Return the largest displacement in pixels, without the border, where interpolation lacks neighbors."""
    inner = np.s_[..., border:-border, border:-border]
    return float((found[inner] - expected[inner]).abs().max())


@pytest.mark.parametrize("size", [KITTI, (370, 1226), (480, 640), (97, 161)], ids=str)
@pytest.mark.parametrize("stride", [32, 16, 8])
def test_exact_grid_keeps_cells_aligned_when_upsampling(size, stride):
    coarse, finer = centers(*size, stride), centers(*size, stride // 2)
    assert displacement(upsampled(coarse, finer, "exact"), finer, border=1) < 1e-3
    assert upsampled(coarse, finer, "exact").shape == upsampled(coarse, finer, "stretched").shape == finer.shape


def test_stretched_grid_displaces_maps_of_kitti_images():
    """By half a cell in this step of the rows; further steps add to it."""
    coarse, finer = centers(*KITTI, 16), centers(*KITTI, 8)
    assert displacement(upsampled(coarse, finer, "stretched"), finer, border=1) > 7
    # Both grids agree where all sides are multiples of 32.
    coarse, finer = centers(384, 1248, 16), centers(384, 1248, 8)
    assert torch.equal(upsampled(coarse, finer, "stretched"), upsampled(coarse, finer, "exact"))


def make_request(size: tuple[int, int], output_scale: float, input_scale: float, grid: str) -> Request:
    frames = [Frame(np.zeros((*size, 3), np.uint8))]
    config = Config(input_scale=input_scale, output_scale=output_scale, upsampling="bilinear")
    return Request(frames, [frozenset({"depth"})], [1.0], grid, 1e9, config)


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize(
    ("output_scale", "input_scale"), [(1.0, 1.0), (0.5, 1.0), (0.37, 1.0), (1.0, 0.5), (0.5, 0.5), (1.0, 0.7)]
)
def test_output_pixels_are_aligned_with_the_image(mode, output_scale, input_scale):
    request = make_request(KITTI, output_scale, input_scale, "exact")
    seen, output = request.network_size, request.output_size
    resize_spec = ResizeSpec(output, request.resize_spec.uncropped, mode)
    columns = centers(*seen, STRIDE)[0, 1:]
    depth = torch.from_numpy(Postprocessor("abs", (0, 1)).depth(columns, resize_spec, 0.0, 1e9))
    assert depth.shape == output and depth.is_contiguous()
    expected = ((torch.arange(output[1]) + 0.5) * seen[1] / output[1]).expand(output)
    # OpenCV's cubic interpolation deviates from a line by up to a tenth of a cell.
    wave = 0.1 * STRIDE if mode == "bicubic" else 0.01
    # The size of the upsampled map is rounded to whole pixels, an error of up to half a pixel.
    is_even = (output_scale, input_scale) in ((1.0, 1.0), (0.5, 1.0), (1.0, 0.5))
    assert displacement(depth, expected, border=9) < wave + (0 if is_even else 0.5 * seen[1] / output[1])


def test_label_borders_are_at_the_exact_pixel():
    """The border between two classes is at column 1200 of 1242; the stretched grid displaces it by two pixels."""
    scores = torch.zeros(2, 94, 311)
    scores[0, :, :300], scores[1, :, 300:] = 1, 1
    for grid, column in (("exact", 1200), ("stretched", 1198)):
        resize_spec = ResizeSpec(KITTI, uncropped_size(KITTI, KITTI, grid), "bilinear")
        labels, _ = Postprocessor("abs", (0, 2)).segmentation(scores, resize_spec, 0.0, False)
        assert int((labels[100] == 0).sum()) == column


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 3), (33, 1)], ids=str)
@pytest.mark.parametrize("scale", [1.0, 0.1])
def test_upsampled_maps_cover_the_smallest_images(size, scale):
    for output_scale in (1.0, 0.1):
        resize_spec = make_request(size, output_scale, scale, "exact").resize_spec
        assert all(
            uncropped >= cropped >= 1 for uncropped, cropped in zip(resize_spec.uncropped, resize_spec.size, strict=True)
        )


def test_outputs_of_the_stretched_grid_are_upsampled_without_cropping():
    assert make_request(KITTI, 0.5, 1.0, "stretched").resize_spec == ResizeSpec((188, 621), (188, 621), "bilinear")
    assert make_request(KITTI, 1.0, 1.0, "exact").resize_spec == ResizeSpec(KITTI, (376, 1244), "bilinear")


@pytest.mark.parametrize(("output_scale", "input_scale"), [(1.0, 1.0), (0.37, 1.0), (1.0, 0.7)])
@pytest.mark.parametrize("stride", [1, 3])
def test_nearest_cells_are_those_of_an_interpolation_to_the_nearest(output_scale, input_scale, stride):
    request = make_request(KITTI, output_scale, input_scale, "exact")
    cells = [-(-side // STRIDE) for side in request.network_size]
    rows, columns = nearest_cells(request.resize_spec, cells, stride)
    numbers = torch.arange(cells[0] * cells[1], dtype=torch.float64).reshape(1, 1, *cells)
    resized = F.interpolate(numbers, size=request.resize_spec.uncropped, mode="nearest-exact")[0, 0]
    height, width = request.output_size
    assert torch.equal(numbers[0, 0][rows][:, columns], resized[:height:stride, :width:stride])
