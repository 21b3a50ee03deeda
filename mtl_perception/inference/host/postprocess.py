"""From the network's outputs at stride 4 to labels, confidence, meters and normals at the output size."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from mtl_perception.inference.host.row_tiles import StripReader, readable
from mtl_perception.inference.host.workspace import Workspace
from mtl_perception.inference.outputs import depth_from_raw, labels_from_scores, normals_from_raw
from mtl_perception.network.grid import ResizeSpec, resize
from mtl_perception.types import UNLABELED


@dataclass(frozen=True)
class _Last:
    """What the last segmentation was made from: C x h x w scores of the classes, and how they grew."""

    logits: Tensor
    growth: ResizeSpec


class Postprocessor:
    """Grows the outputs and reads them, into buffers that are kept: what it returns is valid until the next call.

    Args:
        device: Where the outputs lie.
        depth_transform: The description's: "abs" or "exp" makes meters of the raw depth.
        classes: First class and number of classes to choose among.
        threads: Strips that are read at a time on a CPU; 0: as many as PyTorch has threads.
    """

    def __init__(self, device: torch.device, depth_transform: str, classes: tuple[int, int], threads: int = 0) -> None:
        self._work = Workspace(device)
        self._strips = StripReader(threads or torch.get_num_threads()) if device.type == "cpu" else None
        self._last: _Last | None = None
        self._depth_transform = depth_transform
        self._classes = slice(classes[0], classes[0] + classes[1])
        self._scores: Tensor | None = None

    def segmentation(
        self, logits: Tensor, growth: ResizeSpec, min_confidence: float, with_confidence: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Labels, and how sure they are. Logits grow first and are compared then: labels are never interpolated.

        Args:
            logits: C x h x w float32.
            growth: How they become H x W pixels.
            min_confidence: Less sure labels become 255.
            with_confidence: Whether to give confidence, too.

        Returns:
            H x W uint8 labels, 255 also where the network gave no number; H x W uint8 confidence (softmax maximum x 255,
            rounded), or None.
        """
        logits = logits[self._classes]
        if self._strips is not None and readable(logits.numpy()):
            self._last, self._scores = _Last(logits, growth), None
            return self._read(self._last, min_confidence, with_confidence)
        self._last = None
        size = growth.size
        scores = self._grow("logits", logits, growth)
        self._scores = scores
        with_probability = with_confidence or min_confidence > 0
        if with_probability:
            self._scores = None
        found, levels = labels_from_scores(scores[None], min_confidence, with_confidence=with_probability)
        labels = self._work.get("labels", size, torch.uint8).copy_(found[0])
        if levels is None or not with_confidence:
            return labels, None
        return labels, self._work.get("confidence", size, torch.uint8).copy_(levels[0])

    def forget(self) -> None:
        """A new picture begins: `labels_among` has nothing to say until its scores are there."""
        self._last = self._scores = None

    def labels_among(self, ids: Sequence[int]) -> Tensor:
        """What a network that knows fewer classes would have said of the picture of the last `segmentation`.

        Args:
            ids: The classes to choose among, ids of the labels that `segmentation` gives.

        Returns:
            H x W uint8 positions in `ids`, 255 where the network gave no number.

        Raises:
            RuntimeError: The last `segmentation` computed confidence, which uses the scores up, or there was none.
        """
        if self._last is not None and self._strips is not None:
            chosen = torch.empty(self._last.growth.size, dtype=torch.uint8)
            scores = self._last.logits[list(ids)].numpy()
            self._strips.read(scores, self._last.growth, chosen.numpy(), None)
            return chosen
        if self._scores is None:
            raise RuntimeError("labels_among needs a segmentation without confidence before it")
        best, index = self._scores[list(ids)].max(dim=0)
        labels = index.to(torch.uint8)
        labels[~torch.isfinite(best)] = UNLABELED
        return labels

    def depth(self, raw: Tensor, growth: ResizeSpec, min_depth: float, max_depth: float, factor: float = 1.0) -> Tensor:
        """Meters.

        Args:
            raw: 1 x h x w float32, the depth head's output.
            growth: How they become H x W pixels.
            min_depth: Nearer is invalid.
            max_depth: Farther is beyond.
            factor: Makes meters of the transformed depth: the camera's focal length over that of `depth_focal_length`.

        Returns:
            H x W float32; NaN = invalid, +Inf = beyond `max_depth` (REP 117).
        """
        meters = self._grow("depth", raw, growth)[0]
        return depth_from_raw(meters, self._depth_transform, factor, min_depth, max_depth)

    def normals(self, raw: Tensor, growth: ResizeSpec) -> Tensor:
        """H x W x 3 float32 unit vectors from 3 x h x w outputs."""
        return normals_from_raw(self._grow("normals", raw, growth)[None])[0].contiguous()

    def _read(self, last: _Last, min_confidence: float, with_confidence: bool) -> tuple[Tensor, Tensor | None]:
        """`segmentation` without planes of all scores: strip by strip."""
        assert self._strips is not None
        size = last.growth.size
        labels = self._work.get("labels", size, torch.uint8)
        probability = None
        if with_confidence or min_confidence > 0:
            self._last = None
            probability = self._work.get("probability", size, torch.float32)
        confidence = None if probability is None else probability.numpy()
        self._strips.read(last.logits.numpy(), last.growth, labels.numpy(), confidence)
        if probability is None:
            return labels, None
        if min_confidence > 0:
            labels[probability < min_confidence] = UNLABELED
        if not with_confidence:
            return labels, None
        return labels, self._work.get("confidence", size, torch.uint8).copy_(probability.mul_(255).round_())

    def _grow(self, name: str, planes: Tensor, growth: ResizeSpec) -> Tensor:
        """C x h x w to C x H x W in a kept buffer, as OpenCV's resize does (and so the published code)."""
        kept = self._work.get(name, (planes.shape[0], *growth.size), torch.float32)
        if planes.device.type == "cpu":
            # The same function as below, and several times as fast as PyTorch's on a CPU.
            interpolation = cv2.INTER_CUBIC if growth.mode == "bicubic" else cv2.INTER_LINEAR
            is_whole = growth.uncropped == growth.size
            for source, target in zip(planes.contiguous().numpy(), kept.numpy(), strict=True):
                place = target if is_whole else self._work.get("grown", growth.uncropped, torch.float32).numpy()
                resized = cv2.resize(source, growth.uncropped[::-1], dst=place, interpolation=interpolation)
                if resized is not target:
                    np.copyto(target, resized[: growth.size[0], : growth.size[1]])
            return kept
        return kept.copy_(resize(planes[None], growth)[0])


def needed_tasks(outputs: Collection[str]) -> frozenset[str]:
    """Which predictions the wanted outputs rest on: a cloud needs labels and depth."""
    needed = set(outputs)
    if "cloud" in needed:
        needed |= {"labels", "depth"}
    return frozenset(needed - {"cloud", "image"})
