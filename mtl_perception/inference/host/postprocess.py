"""Postprocessing on the CPU: network outputs at stride 4 to labels, confidence, depth and normals at the output size."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor

from mtl_perception.inference.host.row_tiles import TileReader, is_readable
from mtl_perception.inference.host.workspace import Workspace
from mtl_perception.inference.outputs import apply_min_confidence, convert_to_depth, labels_from_scores, normals_from_raw
from mtl_perception.network.grid import ResizeSpec

PART_PIXELS = 2**15
"""Pixels of depth that are converted at a time: intermediate results stay in the cache."""


class Postprocessor:
    """Upsample the network's outputs and read them into reused buffers: returned arrays are valid until the next call.

    Args:
        depth_transform: The description's: "abs" or "exp".
        classes: First class and number of classes to choose among.
    """

    def __init__(self, depth_transform: str, classes: tuple[int, int]) -> None:
        self._work = Workspace()
        self._tiles = TileReader(torch.get_num_threads())
        self._depth_transform = depth_transform
        self._classes = slice(classes[0], classes[0] + classes[1])

    def segmentation(
        self, logits: Tensor, spec: ResizeSpec, min_confidence: float, with_confidence: bool
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Return labels and confidence; logits are upsampled before they are compared.

        Args:
            logits: C x h x w float32.
            spec: How they are resized to H x W.
            min_confidence: Labels with a lower softmax maximum (0 to 1) become 255.
            with_confidence: Whether to return confidence, too.

        Returns:
            H x W uint8 labels, and H x W uint8 confidence or None; see `labels_from_scores`.
        """
        logits = logits[self._classes]
        with_probability = with_confidence or min_confidence > 0
        labels = self._work.get("labels", spec.size, np.uint8)
        levels: np.ndarray | None = None
        if is_readable(logits.numpy()):
            # Tile by tile, without planes of all scores at the output size.
            if with_probability:
                levels = self._work.get("probability", spec.size, np.float32)
            self._tiles.read(logits.numpy(), spec, labels, levels)
            if levels is not None:
                apply_min_confidence(labels, levels, min_confidence)
        else:
            scores = torch.from_numpy(self._resize("logits", logits, spec))
            found, planes = labels_from_scores(scores[None], min_confidence, with_confidence=with_probability)
            np.copyto(labels, found[0].numpy())
            levels = None if planes is None else planes[0].numpy()
        if levels is None or not with_confidence:
            return labels, None
        confidence = self._work.get("confidence", spec.size, np.uint8)
        np.copyto(confidence, levels, casting="unsafe")
        return labels, confidence

    def scores(self, logits: Tensor, spec: ResizeSpec) -> np.ndarray:
        """Return C x H x W float32 logits of the classes from C x h x w."""
        return self._resize("scores", logits[self._classes], spec)

    def depth(self, raw: Tensor, spec: ResizeSpec, min_depth: float, max_depth: float, factor: float = 1.0) -> np.ndarray:
        """Return depth, H x W float32 meters; see `convert_to_depth`.

        Args:
            raw: 1 x h x w float32, the depth head's output.
            spec: How they are resized to H x W.
            min_depth: Meters; nearer is invalid.
            max_depth: Meters; farther is +Inf.
            factor: Meters per unit of transformed depth.
        """
        depth: np.ndarray = self._resize("depth", raw, spec)[0]
        rows = max(PART_PIXELS // depth.shape[1], 1)
        for first in range(0, len(depth), rows):
            convert_to_depth(depth[first : first + rows], self._depth_transform, factor, min_depth, max_depth)
        return depth

    def normals(self, raw: Tensor, spec: ResizeSpec) -> np.ndarray:
        """Return H x W x 3 float32 unit vectors from 3 x h x w outputs."""
        return normals_from_raw(torch.from_numpy(self._resize("normals", raw, spec))[None])[0].contiguous().numpy()

    def _resize(self, name: str, planes: Tensor, spec: ResizeSpec) -> np.ndarray:
        """C x h x w to C x H x W in a reused buffer by OpenCV's resize, several times as fast as PyTorch's on a CPU."""
        kept = self._work.get(name, (planes.shape[0], *spec.size), np.float32)
        interpolation = cv2.INTER_CUBIC if spec.mode == "bicubic" else cv2.INTER_LINEAR
        is_whole = spec.uncropped == spec.size
        for source, target in zip(planes.contiguous().numpy(), kept, strict=True):
            place = target if is_whole else self._work.get("uncropped", spec.uncropped, np.float32)
            resized = cv2.resize(source, spec.uncropped[::-1], dst=place, interpolation=interpolation)
            if resized is not target:
                np.copyto(target, resized[: spec.size[0], : spec.size[1]])
        return kept
