"""The function of an exported ONNX file: from uint8 images to labels and depth."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mtl_perception.errors import ConfigError
from mtl_perception.inference.device import DTYPES
from mtl_perception.inference.outputs import depth_from_raw, labels_from_scores, normals_from_raw
from mtl_perception.network.folding import fold_batch_norm
from mtl_perception.network.grid import STRIDE, upsample
from mtl_perception.network.model import MultiTaskRefineNet

EXPORTABLE = ("labels", "confidence", "depth", "normals")
"""Outputs of an exported file, in this order."""


@dataclass(frozen=True)
class ExportOptions:
    """Options of an exported file; the pipeline's parameters among them become constants.

    Attributes:
        outputs: One or more of `EXPORTABLE`.
        classes: First class and number of classes to choose among.
        max_depth: Meters; farther is +Inf.
        min_depth: Meters; nearer is NaN.
        min_confidence: Labels with a lower softmax maximum (0 to 1) become 255.
        upsampling: bicubic or bilinear.
        precision: Arithmetic of the network, fp32, fp16 or int8; preprocessing and postprocessing use float32.
        size: Height and width of the images; None: any.
        opset: Version of the ONNX operators.
    """

    outputs: tuple[str, ...]
    classes: tuple[int, int]
    max_depth: float
    min_depth: float = 0.0
    min_confidence: float = 0.0
    upsampling: str = "bicubic"
    precision: str = "fp32"
    size: tuple[int, int] | None = None
    opset: int = 17


class ExportGraph(nn.Module):
    """Compute labels, confidence, depth and normals of images as the pipeline does.

    Args:
        network: What `load_network` returns; it is copied, not changed.
        options: What to compute.

    Raises:
        ConfigError: An output that the network does not have.
    """

    def __init__(self, network: MultiTaskRefineNet, options: ExportOptions) -> None:
        super().__init__()
        description = network.description
        self.options = options
        self.outputs = _validated(options.outputs, description.tasks)
        # int8 is introduced in the written graph.
        self._dtype = DTYPES.get(options.precision, torch.float32)
        # Folded before it is rounded to half precision.
        self.network = fold_batch_norm(network).to(self._dtype)
        self._trained_focal_length = description.depth_focal_length
        for name, values in zip(("scale", "offset"), description.normalization(), strict=True):
            self.register_buffer(name, torch.from_numpy(values))

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the inputs; `focal_length` only where depth depends on it."""
        return ("image", "focal_length") if "depth" in self.outputs and self._trained_focal_length else ("image",)

    @property
    def raw_outputs(self) -> tuple[str, ...]:
        """Names of the network's own outputs that `forward` returns after the others, for the check of a file."""
        segmentation = {"labels", "confidence"} & set(self.outputs)
        wanted = {"logits": segmentation, "raw_depth": "depth" in self.outputs, "raw_normals": "normals" in self.outputs}
        return tuple(name for name, needed in wanted.items() if needed)

    def forward(self, image: Tensor, focal_length: Tensor | None = None) -> tuple[Tensor, ...]:
        """Compute all outputs, then the network's own at stride 4.

        Args:
            image: N x H x W x 3 uint8, RGB.
            focal_length: Scalar float32, pixels; None where depth does not depend on it.

        Returns:
            In the order of `outputs`: labels N x H x W uint8, confidence N x H x W uint8, depth N x H x W float32 meters,
            normals N x H x W x 3 float32; then those of `raw_outputs`, float32.
        """
        pixels = image.float() * self.get_buffer("scale") + self.get_buffer("offset")
        raw = tuple(output.float() for output in self.network(pixels.permute(0, 3, 1, 2).to(self._dtype)))
        values = dict(zip(("logits", "raw_depth", "raw_normals"), raw, strict=False))
        # From the input itself, not from a tensor derived from it, so that the traced graph keeps dynamic sizes.
        size = (image.shape[1], image.shape[2])
        if "logits" in self.raw_outputs:
            values |= self._segmentation(raw[0], size)
        if "depth" in self.outputs:
            values["depth"] = self._depth(raw[1], size, focal_length)
        if "normals" in self.outputs:
            values["normals"] = normals_from_raw(self._upsample(raw[2], size))
        return tuple(values[name] for name in (*self.outputs, *self.raw_outputs))

    def _segmentation(self, logits: Tensor, size: tuple[int, int]) -> dict[str, Tensor]:
        first, count = self.options.classes
        labels, confidence = labels_from_scores(
            self._upsample(logits[:, first : first + count], size),
            self.options.min_confidence,
            with_confidence="confidence" in self.outputs or self.options.min_confidence > 0,
            max_skips_nan=True,
        )
        values = {"labels": labels}
        if confidence is not None:
            values["confidence"] = confidence.to(torch.uint8)
        return values

    def _depth(self, raw: Tensor, size: tuple[int, int], focal_length: Tensor | None) -> Tensor:
        factor = 1.0 if focal_length is None else focal_length / self._trained_focal_length
        limits = self.options.min_depth, self.options.max_depth
        return depth_from_raw(self._upsample(raw, size)[:, 0], self.network.description.depth_transform, factor, *limits)

    def _upsample(self, planes: Tensor, size: tuple[int, int]) -> Tensor:
        return upsample(STRIDE, planes, size, self.network.description.grid, self.options.upsampling)


def _validated(outputs: Collection[str], tasks: Collection[str]) -> tuple[str, ...]:
    known = [name for name in EXPORTABLE if name != "normals" or name in tasks]
    unknown = sorted(set(outputs) - set(known))
    if unknown or not outputs:
        found = f"these weights have no output {', '.join(map(repr, unknown))}" if unknown else "no output is requested"
        raise ConfigError(f"{found}: choose among {', '.join(known)}")
    return tuple(name for name in known if name in outputs)
