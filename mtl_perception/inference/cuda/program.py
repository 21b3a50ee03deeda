"""All that a GPU does for a frame, as one function of tensors: pictures as bytes in, finished outputs out.

It does what `Preprocessor`, the network, `Postprocessor` and `pack_cloud` do, by the same rules, for N pictures of one size.
Sizes and outputs are fixed and nothing waits for a value, so that it can be captured as a CUDA graph; what may change with each
frame (limits, focal lengths, rays) comes in as tensors. It runs on CPU tensors just as well, where it is tested.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mtl_perception.camera.projection import CLOUD_FLOATS, pack_cloud
from mtl_perception.inference.cuda.area import AreaShrink
from mtl_perception.inference.outputs import depth_from_raw, labels_from_scores, normals_from_raw
from mtl_perception.network.folding import fold_batch_norm
from mtl_perception.network.grid import ResizeSpec, resize
from mtl_perception.network.model import MultiTaskRefineNet

LIMITS = ("min_depth", "max_depth", "min_confidence", "depth_factor")
"""Columns of the tensor of numbers that can differ from frame to frame."""
ALIGNMENT = 256
"""Bytes: outputs begin at multiples of it, as the GPU's own allocations do."""


@dataclass(frozen=True)
class ProgramSpec:
    """What a program is made for; a change of any of these needs another program.

    Attributes:
        batch: Number of pictures, N.
        size: Their height and width, H x W.
        outputs: Of types.OUTPUTS, in that order; `image` (the picture at the output size) only where the sizes differ.
        network_size: Height and width that the network sees.
        growth: How its outputs become the program's.
        with_probability: Whether the softmax is computed: for confidence, or for a least confidence above 0.
        score_planes: Number of classes where the output `scores` is asked for, otherwise 0.
    """

    batch: int
    size: tuple[int, int]
    outputs: tuple[str, ...]
    network_size: tuple[int, int]
    growth: ResizeSpec
    with_probability: bool = False
    score_planes: int = 0

    @property
    def output_size(self) -> tuple[int, int]:
        """Height and width of the outputs."""
        return self.growth.size

    @property
    def has_labels(self) -> bool:
        """Whether the segmentation head is needed."""
        return bool({"labels", "confidence", "cloud", "scores"} & set(self.outputs))

    @property
    def has_depth(self) -> bool:
        """Whether the depth head is needed."""
        return bool({"depth", "cloud"} & set(self.outputs))

    def input_layout(self) -> Layout:
        """Where picture and limits lie in the block of bytes that goes up."""
        return Layout(
            {"image": ((self.batch, *self.size, 3), torch.uint8), "limits": ((self.batch, len(LIMITS)), torch.float32)}
        )

    def output_layout(self) -> Layout:
        """Where the outputs lie in the block of bytes that comes down."""
        shape = (self.batch, *self.output_size)
        forms = {
            "labels": (shape, torch.uint8),
            "confidence": (shape, torch.uint8),
            "depth": (shape, torch.float32),
            "cloud": ((*shape, CLOUD_FLOATS), torch.float32),
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


def prepare_network(network: MultiTaskRefineNet, device: torch.device, dtype: torch.dtype) -> MultiTaskRefineNet:
    """A copy for inference: batch norms folded, on the device, of that type, in channels-last memory."""
    # Folded before it is rounded to half precision, not after.
    return fold_batch_norm(network).to(device, dtype).to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


class DeviceProgram:
    """The function of tensors.

    Args:
        network: What `prepare_network` returns.
        classes: First class and number of classes to choose among.
        spec: What it is for.
    """

    def __init__(self, network: MultiTaskRefineNet, classes: tuple[int, int], spec: ProgramSpec) -> None:
        self.spec = spec
        self._network = network
        self._classes = slice(classes[0], classes[0] + classes[1])
        weight = network.get_parameter("segm.weight")
        device, self._dtype = weight.device, weight.dtype
        mean, std = torch.tensor(network.description.mean), torch.tensor(network.description.std)
        self._scale, self._offset = (1 / (255 * std)).to(device), (-mean / std).to(device)
        self._for_network = None if spec.network_size == spec.size else AreaShrink(spec.size, spec.network_size, device)
        is_smaller = spec.output_size != spec.size and {"cloud", "image"} & set(spec.outputs)
        self._for_outputs = AreaShrink(spec.size, spec.output_size, device) if is_smaller else None

    def __call__(self, image: Tensor, limits: Tensor, rays: Tensor | None, out: Mapping[str, Tensor]) -> None:
        """Compute what `out` holds.

        Args:
            image: N x H x W x 3 uint8, RGB.
            limits: N x 4 float32, columns as `LIMITS`: meters, meters, 0 to 1, meters over transformed depth.
            rays: N x H' x W' x 2 float32 at the output size; None without a cloud.
            out: By name of the spec's outputs, shapes and types as its `output_layout`; they are overwritten.
        """
        columns = dict(zip(LIMITS, limits[:, :, None, None].unbind(dim=1), strict=True))
        if self.spec.has_labels or self.spec.has_depth or "normals" in out:
            shared = self._features(image)
        if self.spec.has_labels:
            scores = self._grow(self._network.head("segm", shared)[:, self._classes])
            _keep(out, "scores", scores)
            labels, confidence = labels_from_scores(
                scores, columns["min_confidence"], with_confidence=self.spec.with_probability
            )
            _keep(out, "labels", labels)
            _keep(out, "confidence", confidence)
        if self.spec.has_depth:
            depth = depth_from_raw(
                self._grow(self._network.head("depth", shared))[:, 0],
                self._network.description.depth_transform,
                columns["depth_factor"],
                columns["min_depth"],
                columns["max_depth"],
            )
            _keep(out, "depth", depth)
        if "normals" in out:
            _keep(out, "normals", normals_from_raw(self._grow(self._network.head("normal", shared))))
        if self._for_outputs is not None:
            image = self._for_outputs(image).to(torch.uint8)
            _keep(out, "image", image)
        if "cloud" in out:
            assert rays is not None
            pack_cloud(depth, rays, image, labels, out["cloud"])

    def _features(self, image: Tensor) -> Tensor:
        seen = image.float() if self._for_network is None else self._for_network(image)
        pixels = (seen * self._scale).add_(self._offset).permute(0, 3, 1, 2)
        x = pixels.to(self._dtype).contiguous(memory_format=torch.channels_last)
        return self._network.shared(x)

    def _grow(self, planes: Tensor) -> Tensor:
        """To the output's pixels, as OpenCV's resize does; a new tensor, plane by plane.

        Planes and not channels last: neighboring threads of the GPU then read and write neighboring values.
        """
        planes = planes.float().contiguous()
        return resize(planes, self.spec.growth)


def _keep(out: Mapping[str, Tensor], name: str, values: Tensor | None) -> None:
    if name in out and values is not None:
        out[name].copy_(values)
