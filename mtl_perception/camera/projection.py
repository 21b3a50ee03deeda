"""Back-projection of a depth image to an organized cloud."""

from __future__ import annotations

import torch
from torch import Tensor

CLOUD_FLOATS = 5
"""Number of 32-bit words of a point: x, y, z, rgb, label; see types.CLOUD_DTYPE."""


PART_PIXELS = 2**20
"""Points that are computed at a time."""


def backproject(depth: Tensor, rays: Tensor, out: Tensor, edges: Tensor | None = None) -> Tensor:
    """Back-project a depth image to points in the camera's optical frame: X = x Z, Y = y Z.

    With x = (u - cx) / fx and y = (v - cy) / fy this is the formula of depth_image_proc (depth_conversions.hpp).

    Args:
        depth: H x W float32, meters along Z.
        rays: H x W x 2 float32, (x, y) of each pixel at Z = 1; see CameraModel.rays.
        out: H x W x 3 or more float32; the first three of each pixel are written.
        edges: H x W bool, pixels at depth discontinuities; None: there are none.

    Returns:
        `out`. All three are NaN where depth or ray is NaN, depth is Inf, or the pixel is at an edge.
    """
    valid = torch.isfinite(depth) & torch.isfinite(rays[..., 0])
    if edges is not None:
        valid &= ~edges
    z = torch.where(valid, depth, torch.nan)
    torch.mul(rays, z[..., None], out=out[..., :2])
    out[..., 2] = z
    return out


def pack_cloud(depth: Tensor, rays: Tensor, image: Tensor, labels: Tensor, out: Tensor, edges: Tensor | None = None) -> Tensor:
    """Write organized clouds in the memory layout of the PointCloud2.

    Args:
        depth: ... x H x W float32, meters.
        rays: ... x H x W x 2 float32.
        image: ... x H x W x 3 uint8, RGB.
        labels: ... x H x W uint8.
        out: ... x H x W x 5 float32, contiguous: 20 bytes per point.
        edges: ... x H x W bool, pixels at depth discontinuities, which have no point; None: there are none.

    Returns:
        `out`: x, y, z, then the bits of 0x00RRGGBB, then the bits of the label as uint32.
    """
    # The rows of all images, one below the other.
    width = depth.shape[-1]
    depth, labels = depth.reshape(-1, width), labels.reshape(-1, width)
    edges = None if edges is None else edges.reshape(-1, width)
    rays, image, points = rays.reshape(-1, width, 2), image.reshape(-1, width, 3), out.view(-1, width, CLOUD_FLOATS)
    bits = points.view(torch.int32)
    # In parts, because the intermediate results of an 8K image take 200 MB.
    rows = max(PART_PIXELS // width, 1)
    for first in range(0, len(depth), rows):
        part = slice(first, first + rows)
        backproject(depth[part], rays[part], points[part], None if edges is None else edges[part])
        rgb = bits[part, :, 3]
        rgb.copy_(image[part, :, 0])
        for channel in (1, 2):
            rgb.bitwise_left_shift_(8).bitwise_or_(image[part, :, channel])
        bits[part, :, 4] = labels[part]
    return out
