"""Execution of an exported file in ONNX Runtime, and comparison with the network and the pipeline it was exported from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mtl_perception.errors import PerceptionError, one_line, require
from mtl_perception.network.model import MultiTaskRefineNet

MILLIMETER = 1e-3


@dataclass(frozen=True)
class Tolerance:
    """Largest accepted differences between a file and the float32 network.

    Attributes:
        raw: Difference of the network's own outputs relative to the largest of their values.
        depth: Relative difference of depth, plus one millimeter.
        normals: Difference of a component.
        levels: Difference of confidence.
        share: Fraction of pixels that must be within these and have the same label.
    """

    raw: float
    depth: float
    normals: float
    levels: int
    share: float


TOLERANCES = {
    "fp32": Tolerance(raw=1e-3, depth=1e-3, normals=1e-3, levels=1, share=0.999),
    "fp16": Tolerance(raw=1e-2, depth=1e-2, normals=1e-2, levels=3, share=0.99),
    # Generated images are unlike those that the table was made from: the network is less sure of them, and values are clamped.
    "int8": Tolerance(raw=0.15, depth=0.1, normals=0.2, levels=26, share=0.8),
}


class OnnxFile:
    """Run an exported file in ONNX Runtime on the CPU.

    Args:
        path: A file that `write_onnx` wrote.
        raw: The network's own outputs to return as well; see `ExportGraph.raw_outputs`.

    Raises:
        PerceptionError: onnx or onnxruntime is missing, or cannot load the file.
    """

    def __init__(self, path: Path, raw: Sequence[str] = ()) -> None:
        for package in ("onnx", "onnxruntime"):
            require(package, extra="export", purpose="checking an export")
        import onnx
        import onnxruntime

        model = onnx.load(str(path))
        self.outputs = [value.name for value in model.graph.output]
        for name in raw:
            model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
        options = onnxruntime.SessionOptions()
        # Errors only: its warnings do not concern the user of an export.
        options.log_severity_level = 3
        options.intra_op_num_threads = torch.get_num_threads()
        try:
            self._session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime has no common base of errors
            version = onnxruntime.__version__
            raise PerceptionError(f"{path}: ONNX Runtime {version} cannot load it: {one_line(error)}") from error
        self.inputs = [value.name for value in self._session.get_inputs()]
        self.metadata: dict[str, str] = self._session.get_modelmeta().custom_metadata_map

    def __call__(self, images: np.ndarray, focal_length: float) -> dict[str, np.ndarray]:
        """Compute all outputs of N x H x W x 3 uint8 images; `focal_length`, pixels, is ignored without such an input.

        Raises:
            PerceptionError: ONNX Runtime cannot compute it.
        """
        values: dict[str, Any] = {"image": images, "focal_length": np.float32(focal_length)}
        try:
            found = self._session.run(None, {name: np.asarray(values[name]) for name in self.inputs})
        except Exception as error:  # ONNX Runtime has no common base of errors
            size = f"{images.shape[2]}x{images.shape[1]}"
            raise PerceptionError(f"ONNX Runtime failed on {len(images)} images of {size}: {one_line(error)}") from error
        return dict(zip([value.name for value in self._session.get_outputs()], found, strict=True))


def network_outputs(network: MultiTaskRefineNet, image: np.ndarray) -> dict[str, np.ndarray]:
    """Return the float32 network's own outputs for one image, by the names of `ExportGraph.raw_outputs`.

    They are the reference, so the image is normalized by the definition and not as in the graph.
    """
    description = network.description
    pixels = torch.from_numpy(image).float() / 255
    pixels = (pixels - torch.tensor(description.mean)) / torch.tensor(description.std)
    with torch.inference_mode():
        raw = network(pixels.permute(2, 0, 1)[None])
    return {name: output[0].numpy() for name, output in zip(("logits", "raw_depth", "raw_normals"), raw, strict=False)}


def compare(found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray], tolerance: Tolerance) -> dict[str, str]:
    """Compare the outputs for one image.

    Args:
        found: The file's outputs, without N.
        expected: The network's and the pipeline's outputs of these names.
        tolerance: Accepted differences.

    Returns:
        One line for each output; it begins with "differs" where the tolerance is exceeded.
    """
    return {name: _verdict(name, values, expected[name], tolerance) for name, values in found.items()}


def _verdict(name: str, found: np.ndarray, expected: np.ndarray, tolerance: Tolerance) -> str:
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return f"differs: {found.dtype} {found.shape}, not {expected.dtype} {expected.shape}"
    if name.startswith("raw_") or name == "logits":
        error = float(np.abs(found - expected).max() / np.abs(expected).max())
        # Written so that NaN exceeds the tolerance.
        return f"{'' if error <= tolerance.raw else 'differs: '}off by {error:.1e} of the largest at most"
    with np.errstate(invalid="ignore"):
        difference = np.abs(found.astype(np.float32) - expected)
    if name == "labels":
        same, what = difference == 0, "the same"
    elif name == "confidence":
        same, what = difference <= tolerance.levels, f"within {tolerance.levels} of 255"
    elif name == "depth":
        with np.errstate(invalid="ignore"):
            near = difference <= tolerance.depth * expected + MILLIMETER
        same = np.where(np.isfinite(expected), near, (found == expected) | (np.isnan(found) & np.isnan(expected)))
        what = f"within {tolerance.depth:.1%} + 1 mm, or both NaN, or both +Inf"
    else:
        same, what = difference <= tolerance.normals, f"within {tolerance.normals:g}"
    share = float(np.mean(same))
    return f"{'' if share >= tolerance.share else 'differs: '}{share:.3%} {what}"


def synthetic_image(height: int, width: int) -> np.ndarray:
    """Return an image, H x W x 3 uint8 RGB, of waves of many lengths in every color, which excites all of a network."""
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    planes = []
    for color in range(3):
        plane = np.zeros((height, width), np.float32)
        for wave in range(1, 6):
            angle = 1.3 * color + 2.1 * wave
            plane += np.sin((np.cos(angle) * rows + np.sin(angle) * columns) * 2 / 1.9**wave + angle)
        planes.append(plane)
    return np.asarray(np.clip(127.5 + 40 * np.stack(planes, axis=-1), 0, 255).astype(np.uint8))
