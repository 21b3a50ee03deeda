"""Evaluation of weights on data sets, through the pipeline that the node runs."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mtl_perception.config import by_name
from mtl_perception.errors import ConfigError, PerceptionError, SourceError
from mtl_perception.inference.outputs import labels_from_scores
from mtl_perception.labels import ClassSet
from mtl_perception.training.evaluation.classes import comparisons
from mtl_perception.training.evaluation.depth import DepthMetrics, DepthScore
from mtl_perception.training.evaluation.segmentation import SegmentationMetrics, SegmentationScore

if TYPE_CHECKING:
    from mtl_perception.pipeline import Pipeline
    from mtl_perception.training.data.open import Dataset
    from mtl_perception.types import Sample

PIPELINE = {"min_depth": 0.0, "max_depth": by_name("max_depth").high, "min_confidence": 0.0, "output_scale": 1.0}
"""Required parameters of an evaluated pipeline: full size, and no output removed by distance or confidence."""

DEFINITIONS = {
    "mIoU": "the pixels of all frames form one confusion matrix; mean of the IoU of the classes; classes that neither "
    "ground truth nor prediction contain are left out; unlabeled pixels (255) are ignored; a missing prediction is wrong",
    "kitti6": "the six KITTI classes of the paper: ground truth is mapped to them, classes without a counterpart "
    "(terrain, small objects) are ignored; a network with more classes predicts the best of the six counterparts",
    "depth": "Eigen et al., NIPS 2014: each metric over the evaluated pixels of a frame, then the mean over the frames; "
    "evaluated: true depth above 0.001 m and below the cap, inside the crop; predictions are clipped to that range, "
    "NaN counts as the cap",
    "latency": "median time of a pipeline call for labels and depth, from image to arrays in memory, after a warm-up",
}


@dataclass(frozen=True)
class DepthProtocol:
    """Options of the depth metrics; see `DepthMetrics`."""

    crop: str = "garg"
    cap: float = 80.0
    median_scaling: bool = False

    def metrics(self) -> DepthMetrics:
        """Return depth metrics with these options."""
        return DepthMetrics(self.crop, self.cap, self.median_scaling)


@dataclass(frozen=True)
class FrameScore:
    """Metrics of one frame; None without ground truth.

    Attributes:
        index: Index in the data set.
        name: Name in the data set.
        latency_ms: Latency of the pipeline call, ms.
        pixel_accuracy: Pixel accuracy in the classes of the first comparison.
        miou: mIoU over the classes of this frame.
        abs_rel: Mean relative depth error.
        rmse: Root mean square depth error, m.
    """

    index: int
    name: str
    latency_ms: float
    pixel_accuracy: float | None = None
    miou: float | None = None
    abs_rel: float | None = None
    rmse: float | None = None


class Evaluation:
    """Evaluation of one network on one data set. Intermediate results can be read at any time.

    Args:
        pipeline: Pipeline with the parameters of `PIPELINE`.
        dataset: Images and ground truth.
        protocol: Options of the depth metrics.

    Raises:
        ConfigError: A parameter of the pipeline differs from `PIPELINE`, or the classes of the data set and of the network
            cannot be compared.
    """

    def __init__(self, pipeline: Pipeline, dataset: Dataset, protocol: DepthProtocol | None = None) -> None:
        for name, value in PIPELINE.items():
            if getattr(pipeline.config, name) != value:
                raise ConfigError(f"evaluation needs parameter {name} = {value:g}, not {getattr(pipeline.config, name):g}")
        self.pipeline = pipeline
        self.dataset = dataset
        self.protocol = protocol or DepthProtocol()
        self.comparisons = comparisons(dataset.classes, pipeline.class_set)
        if not self.comparisons and any(dataset.has_labels(i) for i in range(len(dataset))):
            own, theirs = pipeline.class_set, dataset.classes
            raise ConfigError(
                f"data set {dataset.name} has the classes {_abbreviate(theirs)}, weights {pipeline.description.name!r} have "
                f"{_abbreviate(own)}, and no mapping between them is known; evaluate weights of the same classes"
            )
        self.segmentation = {each.classes.name: SegmentationMetrics(each.classes) for each in self.comparisons}
        self.depth = self.protocol.metrics()
        self.scores: list[FrameScore] = []
        self._warm: set[tuple[int, ...]] = set()

    def run(self, limit: int = 0, progress: Callable[[Iterable[int]], Iterable[int]] = iter) -> None:
        """Evaluate the frames.

        Args:
            limit: Number of frames, spread evenly over the data set; 0: all.
            progress: Wraps the loop, such as a progress bar.

        Raises:
            PerceptionError: A frame cannot be read, or its ground truth does not match; the message names data set and frame.
        """
        for index in progress(spread_evenly(len(self.dataset), limit)):
            self.add(index)

    def add(self, index: int) -> FrameScore:
        """Evaluate a frame of the data set."""
        name = self.dataset.keys[index]
        try:
            sample = self.dataset[index]
            predictions, depth, milliseconds = self.predict(sample)
            label_score, depth_score = self._score_labels(sample, predictions), self._score_depth(sample, depth)
        except PerceptionError as error:
            raise type(error)(f"data set {self.dataset.name}, {name}: {error}") from error
        score = FrameScore(
            index,
            name,
            milliseconds,
            _finite(label_score.pixel_accuracy) if label_score else None,
            _finite(label_score.miou) if label_score else None,
            depth_score.abs_rel if depth_score else None,
            depth_score.rmse if depth_score else None,
        )
        self.scores.append(score)
        return score

    def predict(self, sample: Sample) -> tuple[list[np.ndarray], np.ndarray, float]:
        """Return labels in the classes of each comparison, depth, and the latency of the pipeline call in ms.

        If the pipeline reuses its outputs, the arrays are valid until the next call.
        """
        if sample.frame.image.shape not in self._warm:
            # The first image of a size creates kernels and buffers.
            self._warm.add(sample.frame.image.shape)
            self.pipeline(sample.frame, ("labels", "depth"))
        # Computed first, because results are only valid until the next call.
        restricted = self._restricted_labels(sample)
        started = time.perf_counter()
        result = self.pipeline(sample.frame, ("labels", "depth"))
        milliseconds = 1000 * (time.perf_counter() - started)
        assert result.labels is not None
        assert result.depth is not None
        predictions = [restricted.get(comparison.choices, result.labels) for comparison in self.comparisons]
        return predictions, result.depth, milliseconds

    def _restricted_labels(self, sample: Sample) -> dict[tuple[int, ...], np.ndarray]:
        """Return the best labels among the choices of each comparison that has fewer classes than the network."""
        every = tuple(range(len(self.pipeline.class_set)))
        restricted = {comparison.choices for comparison in self.comparisons} - {every}
        if not restricted:
            return {}
        scores = self.pipeline(sample.frame, ("scores",)).scores
        assert scores is not None
        labels = {choices: labels_from_scores(torch.from_numpy(scores[None, list(choices)]), 0.0) for choices in restricted}
        return {choices: found[0][0].numpy() for choices, found in labels.items()}

    def worst(self, count: int) -> list[FrameScore]:
        """Return the worst frames: alternately the one of lowest pixel accuracy and the one of highest AbsRel."""
        by_labels = sorted((r for r in self.scores if r.pixel_accuracy is not None), key=lambda r: r.pixel_accuracy or 0.0)
        by_depth = sorted((r for r in self.scores if r.abs_rel is not None), key=lambda r: -(r.abs_rel or 0.0))
        found: list[FrameScore] = []
        for place in range(len(self.scores)):
            found += [ranked[place] for ranked in (by_labels, by_depth) if place < len(ranked)]
        return list(dict.fromkeys(found))[:count]

    def report(self) -> dict[str, Any]:
        """Return everything as plain values for JSON; missing metrics are None."""
        return {
            "name": self.dataset.name,
            "license": self.dataset.license,
            "frames_of_set": len(self.dataset),
            **_summarize(self.segmentation, self.depth, self.scores),
            "records": [asdict(score) for score in self.scores],
        }

    def _score_labels(self, sample: Sample, predictions: Sequence[np.ndarray]) -> SegmentationScore | None:
        if sample.labels is None:
            return None
        unknown = ~np.isin(sample.labels, (*range(len(self.dataset.classes)), 255))
        if unknown.any():
            raise SourceError(f"the ground truth has id {sample.labels[unknown][0]}, of {len(self.dataset.classes)} classes")
        scores = [
            self.segmentation[comparison.classes.name].update(labels, comparison.truth[sample.labels])
            for comparison, labels in zip(self.comparisons, predictions, strict=True)
        ]
        return scores[0]

    def _score_depth(self, sample: Sample, depth: np.ndarray) -> DepthScore | None:
        return None if sample.depth is None else self.depth.update(depth, sample.depth)


def overall(evaluations: Sequence[Evaluation]) -> dict[str, Any]:
    """Return the metrics of one network over several data sets: pooled pixels for labels, the mean over all frames for depth.

    Args:
        evaluations: At least one, all with the same options.
    """
    depth = evaluations[0].protocol.metrics()
    segmentation: dict[str, SegmentationMetrics] = {}
    for evaluation in evaluations:
        depth.merge(evaluation.depth)
        for name, metrics in evaluation.segmentation.items():
            segmentation.setdefault(name, SegmentationMetrics(metrics.classes)).merge(metrics)
    return _summarize(segmentation, depth, [score for evaluation in evaluations for score in evaluation.scores])


def spread_evenly(count: int, limit: int) -> list[int]:
    """Return the indices of at most `limit` (0: all) of `count` frames, evenly spread."""
    if not limit or limit >= count:
        return list(range(count))
    return [i * count // limit for i in range(limit)]


def _summarize(
    segmentation: dict[str, SegmentationMetrics], depth: DepthMetrics, scores: Sequence[FrameScore]
) -> dict[str, Any]:
    labeled = {name: score for name, metrics in segmentation.items() if (score := metrics.compute()).pixels}
    depth_score = depth.compute()
    return {
        "frames": len(scores),
        "labeled_frames": sum(score.pixel_accuracy is not None for score in scores),
        "depth_frames": depth.images,
        "segmentation": {name: _segmentation_report(score) for name, score in labeled.items()},
        "depth": None if depth_score is None else {name: _finite(value) for name, value in asdict(depth_score).items()},
        "latency_ms": statistics.median(score.latency_ms for score in scores) if scores else None,
    }


def _segmentation_report(score: SegmentationScore) -> dict[str, Any]:
    return {
        "mIoU": _finite(score.miou),
        "pixel_accuracy": _finite(score.pixel_accuracy),
        "pixels": score.pixels,
        "IoU": {name: _finite(float(value)) for name, value in zip(score.classes, score.iou, strict=True)},
        "confusion": score.confusion.tolist(),
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _abbreviate(classes: ClassSet) -> str:
    shown = ", ".join(classes.names[:3])
    return f"{classes.name} ({len(classes)}: {shown}, …)"
