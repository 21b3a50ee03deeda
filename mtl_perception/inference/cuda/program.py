"""All that a GPU computes for a request, as functions of tensors: images as bytes in, finished outputs out.

The rules are those of the CPU backend, for N images of one size. Nothing waits for a value, so that the network's part can be
captured as a CUDA graph. It runs on CPU tensors just as well, where it is tested.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mtl_perception.camera.projection import CLOUD_FLOATS, pack_cloud
from mtl_perception.inference.cuda.area import AreaDownsample
from mtl_perception.inference.cuda.network import AtenNetwork, HeadMaps
from mtl_perception.inference.outputs import depth_edges, depth_from_raw, labels_from_scores, normals_from_raw
from mtl_perception.network.grid import STRIDE, ResizeSpec, nearest_cells, resize

LIMITS = ("min_depth", "max_depth", "min_confidence", "depth_factor", "max_jump")
"""Columns of the tensor of numbers that can differ from frame to frame."""
ALIGNMENT = 256
"""Bytes: outputs begin at multiples of it, as the GPU's own allocations do."""


@dataclass(frozen=True)
class NetworkSpec:
    """What the network is run for; a change of any of these needs another graph.

    Attributes:
        batch: Number of images, N.
        size: Their height and width, H x W.
        network_size: Height and width that the network sees.
        heads: Of segm, depth and normal.
    """

    batch: int
    size: tuple[int, int]
    network_size: tuple[int, int]
    heads: frozenset[str]


@dataclass(frozen=True)
class ProgramSpec:
    """What a program is made for; a change of any of these needs another program.

    Attributes:
        batch: Number of images, N.
        size: Their height and width, H x W.
        outputs: Of types.OUTPUTS, in that order; `image` (the image at the output size) only where the sizes differ.
        network_size: Height and width that the network sees.
        resize_spec: How the network's maps are upsampled to the outputs.
        with_probability: Whether the softmax is computed: for confidence, or for a least confidence above 0.
        score_planes: Number of classes where the output `scores` is asked for, otherwise 0.
        filters_edges: Whether points at depth edges are removed.
        points_stride: Step of the rows and columns of the outputs that have points.
    """

    batch: int
    size: tuple[int, int]
    outputs: tuple[str, ...]
    network_size: tuple[int, int]
    resize_spec: ResizeSpec
    with_probability: bool = False
    score_planes: int = 0
    filters_edges: bool = False
    points_stride: int = 1

    @property
    def output_size(self) -> tuple[int, int]:
        """Height and width of the outputs."""
        return self.resize_spec.size

    @property
    def cloud_size(self) -> tuple[int, int]:
        """Height and width of the clouds."""
        height, width = self.output_size
        return -(-height // self.points_stride), -(-width // self.points_stride)

    @property
    def has_labels(self) -> bool:
        """Whether a label is chosen for each pixel."""
        return bool({"labels", "confidence", "cloud"} & set(self.outputs))

    @property
    def has_depth(self) -> bool:
        """Whether the depth head is needed."""
        return bool({"depth", "cloud"} & set(self.outputs))

    @property
    def heads(self) -> frozenset[str]:
        """Heads that the outputs need: of segm, depth and normal."""
        needed = {
            "segm": self.has_labels or "scores" in self.outputs,
            "depth": self.has_depth,
            "normal": "normals" in self.outputs,
        }
        return frozenset(head for head, is_needed in needed.items() if is_needed)

    @property
    def network(self) -> NetworkSpec:
        """What the network is run for, which programs with other outputs may share."""
        return NetworkSpec(self.batch, self.size, self.network_size, self.heads)

    def input_layout(self) -> Layout:
        """Where images and limits lie in the block of bytes that is uploaded."""
        return Layout(
            {"image": ((self.batch, *self.size, 3), torch.uint8), "limits": ((self.batch, len(LIMITS)), torch.float32)}
        )

    def output_layout(self) -> Layout:
        """Where the outputs lie in the block of bytes that is downloaded."""
        shape = (self.batch, *self.output_size)
        forms = {
            "labels": (shape, torch.uint8),
            "confidence": (shape, torch.uint8),
            "depth": (shape, torch.float32),
            "cloud": ((self.batch, *self.cloud_size, CLOUD_FLOATS), torch.float32),
            "normals": ((*shape, 3), torch.float32),
            "image": ((*shape, 3), torch.uint8),
            "scores": ((self.batch, self.score_planes, *self.output_size), torch.float32),
        }
        return Layout({name: forms[name] for name in self.outputs})


class Layout:
    """Several tensors in one block of bytes, so that one copy moves them all.

    Args:
        forms: Shape and type by name.
    """

    def __init__(self, forms: Mapping[str, tuple[tuple[int, ...], torch.dtype]]) -> None:
        self._places: dict[str, tuple[int, int, tuple[int, ...], torch.dtype]] = {}
        end = 0
        for name, (shape, dtype) in forms.items():
            size = dtype.itemsize * torch.Size(shape).numel()
            self._places[name] = (end, end + size, shape, dtype)
            end += -(-size // ALIGNMENT) * ALIGNMENT
        self.nbytes = max(end, ALIGNMENT)

    def views(self, block: Tensor) -> dict[str, Tensor]:
        """The tensors in a block of `nbytes` uint8."""
        return {name: block[begin:end].view(dtype).view(shape) for name, (begin, end, shape, dtype) in self._places.items()}


class DeviceProgram:
    """All that is computed for a request, in two parts: the network's maps, and the outputs that are made of them.

    Args:
        network: What `prepare_network` returns.
        classes: First class and number of classes to choose among.
        spec: What it is for.
    """

    def __init__(self, network: AtenNetwork, classes: tuple[int, int], spec: ProgramSpec) -> None:
        self.spec = spec
        self._network = network
        self._classes = slice(classes[0], classes[0] + classes[1])
        self._downsample_input = (
            None if spec.network_size == spec.size else AreaDownsample(spec.size, spec.network_size, network.device)
        )
        is_smaller = spec.output_size != spec.size and {"cloud", "image"} & set(spec.outputs)
        self._downsample_image = AreaDownsample(spec.size, spec.output_size, network.device) if is_smaller else None
        cells = [-(-side // STRIDE) for side in spec.network_size]
        # On the device before a request needs them: a copy from the host would wait for the device.
        self._cells = [index.to(network.device) for index in nearest_cells(spec.resize_spec, cells, spec.points_stride)]

    def allocate_maps(self) -> HeadMaps:
        """Allocate what `compute_maps` writes."""
        return self._network.allocate(self.spec.batch, self.spec.network_size, self.spec.heads)

    def compute_maps(self, image: Tensor, maps: HeadMaps) -> None:
        """Run the network.

        Args:
            image: N x H x W x 3 uint8, RGB.
            maps: From `allocate_maps`; overwritten.
        """
        self._network(image if self._downsample_input is None else self._downsample_input(image), self.spec.heads, maps)

    def write_outputs(
        self, maps: HeadMaps, image: Tensor, limits: Tensor, rays: Tensor | None, out: Mapping[str, Tensor]
    ) -> None:
        """Compute what `out` holds.

        Args:
            maps: From `compute_maps`.
            image: N x H x W x 3 uint8, RGB.
            limits: N x 5 float32, columns as `LIMITS`: meters, meters, 0 to 1, meters over transformed depth, log of the ratio
                of depths.
            rays: N x H' x W' x 2 float32 at the size of the cloud; None without a cloud.
            out: By name of the spec's outputs, shapes and types as its `output_layout`; they are overwritten.
        """
        if self._downsample_image is not None:
            image = self._downsample_image(image).to(torch.uint8)
            _keep(out, "image", image)
        if "normals" in out:
            assert maps.normals is not None
            _keep(out, "normals", normals_from_raw(resize(maps.normals, self.spec.resize_spec)))
        if "scores" in out:
            _keep(out, "scores", self._scores(maps))
        if self._network.uses_kernels:
            self._write_by_kernel(maps, image.contiguous(), limits, rays, out)
        else:
            self._write_by_operators(maps, image, limits, rays, out)

    def _write_by_kernel(
        self, maps: HeadMaps, image: Tensor, limits: Tensor, rays: Tensor | None, out: Mapping[str, Tensor]
    ) -> None:
        from mtl_perception.inference.cuda.kernels.outputs import write_outputs

        write_outputs(
            maps.values,
            image,
            rays,
            limits,
            out,
            classes=self._classes,
            depth_column=maps.depth_column,
            size=self.spec.output_size,
            uncropped=self.spec.resize_spec.uncropped,
            cubic=self.spec.resize_spec.mode == "bicubic",
            exp=self._network.description.depth_transform == "exp",
            with_probability=self.spec.with_probability,
            filters_edges=self.spec.filters_edges,
            stride=self.spec.points_stride,
        )

    def _write_by_operators(
        self, maps: HeadMaps, image: Tensor, limits: Tensor, rays: Tensor | None, out: Mapping[str, Tensor]
    ) -> None:
        columns = dict(zip(LIMITS, limits[:, :, None, None].unbind(dim=1), strict=True))
        if self.spec.has_labels:
            labels, confidence = labels_from_scores(
                self._scores(maps), columns["min_confidence"], with_confidence=self.spec.with_probability
            )
            _keep(out, "labels", labels)
            _keep(out, "confidence", confidence)
        if self.spec.has_depth:
            raw = self._upsample(maps.values[..., maps.depth_column : maps.depth_column + 1])[:, 0]
            depth = depth_from_raw(
                raw,
                self._network.description.depth_transform,
                columns["depth_factor"],
                columns["min_depth"],
                columns["max_depth"],
            )
            _keep(out, "depth", depth)
        if "cloud" in out:
            assert rays is not None
            edges = None
            if self.spec.filters_edges:
                raw = maps.values[..., maps.depth_column]
                found = depth_edges(raw, self._network.description.depth_transform, columns["max_jump"])
                rows, cells = self._cells
                edges = found[:, rows][:, :, cells]
            step = self.spec.points_stride
            depth, image, labels = (plane[:, ::step, ::step] for plane in (depth, image, labels))
            pack_cloud(depth, rays, image, labels, out["cloud"], edges)

    def _scores(self, maps: HeadMaps) -> Tensor:
        return self._upsample(maps.values[..., self._classes])

    def _upsample(self, values: Tensor) -> Tensor:
        """Interpolate N x h x w x C to N x C x H x W, a new tensor.

        Plane by plane and not channels last: neighboring threads of the GPU then read and write neighboring values.
        """
        return resize(values.permute(0, 3, 1, 2).contiguous(), self.spec.resize_spec)


def _keep(out: Mapping[str, Tensor], name: str, values: Tensor | None) -> None:
    if name in out and values is not None:
        out[name].copy_(values)
