"""Evaluation of weights on data sets, through the pipeline that the node runs."""

from __future__ import annotations

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
from mtl_perception.training.data.select import spread_evenly
from mtl_perception.training.evaluation.agreement import LabelAgreement
from mtl_perception.training.evaluation.boxes import FOUND, PEOPLE
from mtl_perception.training.evaluation.classes import comparisons
from mtl_perception.training.evaluation.depth import DepthMetrics, DepthScore, DepthTable
from mtl_perception.training.evaluation.metrics import Metrics, finite
from mtl_perception.training.evaluation.segmentation import SegmentationMetrics, SegmentationScore
from mtl_perception.types import UNLABELED

if TYPE_CHECKING:
    from mtl_perception.pipeline import Pipeline
    from mtl_perception.training.data.dataset import Dataset
    from mtl_perception.types import Sample

PIPELINE = {"min_depth": 0.0, "max_depth": by_name("max_depth").high, "min_confidence": 0.0, "output_scale": 1.0}
"""Required parameters of an evaluated pipeline: full size, and no output removed by distance or confidence."""
TIMED_FRAMES = 10
"""Frames of a data set whose latency is measured, by a call of its own for labels and depth only."""

DEFINITIONS = {
    "mIoU": "the pixels of all frames form one confusion matrix; mean of the IoU of the classes; classes that neither "
    "ground truth nor prediction contain are left out; unlabeled pixels (255) are ignored; a missing prediction is wrong",
    "kitti6": "the six KITTI classes of the paper: ground truth is mapped to them, classes without a counterpart "
    "(terrain, small objects) are ignored; a network with more classes predicts the best of the six counterparts",
    "depth": "Eigen et al., NIPS 2014: each metric over the evaluated pixels of a frame, then the mean over the frames; "
    "evaluated: true depth above 0.001 m and below the cap, inside the crop; predictions are clipped to that range, "
    "NaN counts as the cap",
    "ECE": "expected calibration error, Guo et al., ICML 2017: 15 bins of the published confidence, over the labeled pixels of "
    "all frames; only where ground truth and network have the same classes",
    "depth by class": "mean of |p - t| / t and, as bias, of (p - t) / t (positive: too far) over the evaluated pixels of all "
    "frames, by true depth; the class is that of the ground truth, or the predicted one in frames without labels",
    "boxes": f"a box of a person or cyclist is found if at least {100 * FOUND:.0f} % of its pixels have the label person or "
    "cyclist; boxes truncated by more than half or of an occlusion above 2 (KITTI's level hard) are left out",
    "latency": "median time of a pipeline call for labels and depth, from image to arrays in memory, after a warm-up, over the "
    f"first {TIMED_FRAMES} frames of a data set",
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
class Prediction:
    """What a network returns for a frame.

    Attributes:
        labels: For each comparison, H x W uint8 labels in its classes.
        depth: H x W float32 depth, m.
        confidence: H x W uint8, the softmax maximum scaled to 0..255; None for a frame without ground truth of labels.
        latency_ms: Latency of a pipeline call for labels and depth, ms; None where it was not measured.
    """

    labels: list[np.ndarray]
    depth: np.ndarray
    confidence: np.ndarray | None
    latency_ms: float | None


@dataclass(frozen=True)
class FrameScore:
    """Metrics of one frame; None without ground truth.

    Attributes:
        index: Index in the data set.
        name: Name in the data set.
        latency_ms: Latency of the pipeline call, ms; None after the first `TIMED_FRAMES` frames.
        pixel_accuracy: Pixel accuracy in the classes of the first comparison.
        miou: mIoU over the classes of this frame.
        abs_rel: Mean relative depth error.
        rmse: Root mean square depth error, m.
    """

    index: int
    name: str
    latency_ms: float | None
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
        agreement: Compares the labels with those of another pipeline.

    Raises:
        ConfigError: A parameter of the pipeline differs from `PIPELINE`, or the classes of the data set and of the network
            cannot be compared.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        dataset: Dataset,
        protocol: DepthProtocol | None = None,
        agreement: LabelAgreement | None = None,
    ) -> None:
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
        self._table_classes = self.comparisons[0].classes if self.comparisons else pipeline.class_set
        self.metrics = Metrics(
            self.protocol.metrics(),
            {each.classes.name: SegmentationMetrics(each.classes) for each in self.comparisons},
            {self._table_classes.name: DepthTable(self._table_classes)},
        )
        self.scores: list[FrameScore] = []
        self.agreement = agreement or LabelAgreement()
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
            prediction = self.predict(sample)
            self.agreement.update(index, prediction.labels[0])
            self._score_boxes(sample, prediction)
            label_score, depth_score = self._score_labels(sample, prediction), self._score_depth(sample, prediction)
        except PerceptionError as error:
            raise type(error)(f"data set {self.dataset.name}, {name}: {error}") from error
        score = FrameScore(
            index,
            name,
            prediction.latency_ms,
            finite(label_score.pixel_accuracy) if label_score else None,
            finite(label_score.miou) if label_score else None,
            depth_score.abs_rel if depth_score else None,
            depth_score.rmse if depth_score else None,
        )
        self.scores.append(score)
        return score

    def predict(self, sample: Sample) -> Prediction:
        """Return the prediction for a sample.

        If the pipeline reuses its outputs, the arrays are valid until the next call.
        """
        latency = self._latency(sample) if len(self.scores) < TIMED_FRAMES else None
        restricted = any(comparison.choices != self._every_class for comparison in self.comparisons)
        optional = {"scores": restricted, "confidence": sample.labels is not None}
        result = self.pipeline(sample.frame, {"labels", "depth", *(name for name, needed in optional.items() if needed)})
        assert result.labels is not None
        assert result.depth is not None
        labels = []
        for comparison in self.comparisons:
            if comparison.choices == self._every_class:
                labels.append(result.labels)
            else:
                assert result.scores is not None
                chosen = torch.from_numpy(result.scores[None, list(comparison.choices)])
                labels.append(labels_from_scores(chosen, 0.0)[0][0].numpy())
        # Without a comparison, the labels are only used for the depth table.
        return Prediction(labels or [result.labels], result.depth, result.confidence, latency)

    @property
    def _every_class(self) -> tuple[int, ...]:
        return tuple(range(len(self.pipeline.class_set)))

    def _latency(self, sample: Sample) -> float:
        """Return the time of a pipeline call for labels and depth, ms."""
        if sample.frame.image.shape not in self._warm:
            # The first image of a size creates kernels and buffers.
            self._warm.add(sample.frame.image.shape)
            self.pipeline(sample.frame, ("labels", "depth"))
        started = time.perf_counter()
        self.pipeline(sample.frame, ("labels", "depth"))
        return 1000 * (time.perf_counter() - started)

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
            **_summarize(self.metrics, self.scores),
            "agreement": self.agreement.share,
            "records": [asdict(score) for score in self.scores],
        }

    def _score_labels(self, sample: Sample, prediction: Prediction) -> SegmentationScore | None:
        if sample.labels is None:
            return None
        unknown = ~np.isin(sample.labels, (*range(len(self.dataset.classes)), UNLABELED))
        if unknown.any():
            raise SourceError(f"the ground truth has id {sample.labels[unknown][0]}, of {len(self.dataset.classes)} classes")
        scores = []
        for comparison, labels in zip(self.comparisons, prediction.labels, strict=True):
            truth = comparison.truth[sample.labels]
            scores.append(self.metrics.segmentation[comparison.classes.name].update(labels, truth))
            if comparison.choices == self._every_class and prediction.confidence is not None:
                known = truth != UNLABELED
                self.metrics.calibration.update(prediction.confidence[known] / 255, labels[known] == truth[known])
        return scores[0]

    def _score_boxes(self, sample: Sample, prediction: Prediction) -> None:
        classes = self._table_classes
        if sample.boxes and set(PEOPLE) & set(classes.names):
            self.metrics.boxes.update(prediction.labels[0], sample.boxes, classes.names)

    def _score_depth(self, sample: Sample, prediction: Prediction) -> DepthScore | None:
        if sample.depth is None:
            return None
        score = self.metrics.depth.update(prediction.depth, sample.depth)
        if score is not None:
            where = self.metrics.depth.evaluated(sample.depth)
            p, t, _ = self.metrics.depth.pairs(prediction.depth, sample.depth, where)
            labels = prediction.labels[0] if sample.labels is None else self.comparisons[0].truth[sample.labels]
            self.metrics.depth_tables[self._table_classes.name].update(p, t, labels[where])
        return score


def overall(evaluations: Sequence[Evaluation]) -> dict[str, Any]:
    """Return the metrics of one network over several data sets: pooled pixels for labels, the mean over all frames for depth.

    Args:
        evaluations: At least one, all with the same options.
    """
    metrics = Metrics(evaluations[0].protocol.metrics())
    for evaluation in evaluations:
        metrics.merge(evaluation.metrics)
    return _summarize(metrics, [score for evaluation in evaluations for score in evaluation.scores])


def _summarize(metrics: Metrics, scores: Sequence[FrameScore]) -> dict[str, Any]:
    timed = [score.latency_ms for score in scores if score.latency_ms is not None]
    return {
        "frames": len(scores),
        "labeled_frames": sum(score.pixel_accuracy is not None for score in scores),
        "depth_frames": metrics.depth.images,
        **metrics.report(),
        "latency_ms": statistics.median(timed) if timed else None,
    }


def _abbreviate(classes: ClassSet) -> str:
    shown = ", ".join(classes.names[:3])
    return f"{classes.name} ({len(classes)}: {shown}, …)"
