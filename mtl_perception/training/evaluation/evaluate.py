"""Weights over data sets: what the pipeline that the node runs says of each picture, against the truth."""

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
from mtl_perception.labels import STREET, ClassSet, load_mapping, lookup
from mtl_perception.training.evaluation.depth import DepthMetrics, DepthScore
from mtl_perception.training.evaluation.segmentation import SegmentationMetrics, SegmentationScore

if TYPE_CHECKING:
    from mtl_perception.pipeline import Pipeline
    from mtl_perception.training.data.open import Dataset
    from mtl_perception.types import Sample

PIPELINE = {"min_depth": 0.0, "max_depth": by_name("max_depth").high, "min_confidence": 0.0, "output_scale": 1.0}
"""Parameters that an evaluated pipeline must have: full size, and nothing held back for being near, far or unsure."""

DEFINITIONS = {
    "mIoU": "pixels of all frames in one confusion matrix; mean of the classes' IoU; a class that neither truth nor prediction "
    "has is not counted; unknown truth (255) is ignored; no prediction is a wrong one",
    "kitti6": "the paper's six KITTI classes: the truth is mapped, what has no counterpart (terrain, small things) is ignored "
    "in it; the answer of a network with more classes is the best of its six counterparts, as a network of six would answer",
    "depth": "Eigen et al., NIPS 2014: each figure over the counted pixels of a frame, then the mean over the frames; counted: "
    "truth above 0.001 m and below the cap, inside the crop; predictions clipped to that range, no number counts as the cap",
    "latency": "median time of one pipeline call for labels and depth, picture in memory to arrays in memory, after a warm-up",
}


@dataclass(frozen=True)
class Scoring:
    """One set of classes in which truth and answer can be compared.

    Attributes:
        classes: The set.
        truth: 256 uint8: id of the data set -> id in `classes`, 255 = not counted.
        choices: The network's ids in the order of `classes`: the answer is the best of these.
    """

    classes: ClassSet
    truth: np.ndarray
    choices: tuple[int, ...]


def scorings(data: ClassSet, network: ClassSet) -> list[Scoring]:
    """How labels of one set can be scored for a network of another: in the data set's own classes, in KITTI-6, both or none.

    Args:
        data: The classes of the truth.
        network: The classes that the network chooses among.
    """
    network_forms = {classes.names: ids for classes, ids in _forms(network)}
    found = []
    for classes, ids in _forms(data):
        if classes.names in network_forms:
            network_id = {target: source for source, target in network_forms[classes.names].items()}
            found.append(Scoring(classes, lookup(ids), tuple(network_id[i] for i in range(len(classes)))))
    return found


def _forms(classes: ClassSet) -> Iterable[tuple[ClassSet, dict[int, int]]]:
    """The sets that labels of `classes` can be told in, with id -> id."""
    yield classes, {i: i for i in range(len(classes))}
    if classes.names == STREET.names:
        mapping = load_mapping("kitti6")
        yield mapping.classes, dict(mapping.ids)


@dataclass(frozen=True)
class Rules:
    """What counts in depth; see `DepthMetrics`."""

    crop: str = "garg"
    cap: float = 80.0
    median_scaling: bool = False

    def metrics(self) -> DepthMetrics:
        """Depth figures by these rules."""
        return DepthMetrics(self.crop, self.cap, self.median_scaling)


@dataclass(frozen=True)
class Record:
    """One frame's figures; None where the truth has nothing to compare with.

    Attributes:
        index: Its place in the data set.
        name: Its name there.
        latency_ms: Of this call.
        pixel_accuracy: In the first scoring's classes.
        miou: The same, over the classes of this frame.
        abs_rel: Depth.
        rmse: Depth, meters.
    """

    index: int
    name: str
    latency_ms: float
    pixel_accuracy: float | None = None
    miou: float | None = None
    abs_rel: float | None = None
    rmse: float | None = None


class Evaluation:
    """One network over one data set. What was done so far can be read at any time.

    Args:
        pipeline: With the parameters of `PIPELINE`.
        dataset: The pictures and their truth.
        rules: What counts in depth.

    Raises:
        ConfigError: A parameter of the pipeline is another than `PIPELINE` says, or the data set has labels in classes that
            the network's cannot be compared with.
    """

    def __init__(self, pipeline: Pipeline, dataset: Dataset, rules: Rules | None = None) -> None:
        for name, value in PIPELINE.items():
            if getattr(pipeline.config, name) != value:
                raise ConfigError(f"evaluation needs parameter {name} at {value:g}, not {getattr(pipeline.config, name):g}")
        self.pipeline = pipeline
        self.dataset = dataset
        self.rules = rules or Rules()
        self.scorings = scorings(dataset.classes, pipeline.class_set)
        if not self.scorings and any(dataset.has_labels(i) for i in range(len(dataset))):
            own, theirs = pipeline.class_set, dataset.classes
            raise ConfigError(
                f"data set {dataset.name} has the classes {_some(theirs)}, weights {pipeline.description.name!r} have "
                f"{_some(own)}, and no mapping between them is known: evaluate weights of the same classes"
            )
        self.segmentation = {scoring.classes.name: SegmentationMetrics(scoring.classes) for scoring in self.scorings}
        self.depth = self.rules.metrics()
        self.records: list[Record] = []
        self._warm: set[tuple[int, ...]] = set()

    def run(self, limit: int = 0, progress: Callable[[Iterable[int]], Iterable[int]] = iter) -> None:
        """Evaluate the frames.

        Args:
            limit: Only this many, spread evenly over the data set; 0: all.
            progress: What wraps the loop, such as a progress bar.

        Raises:
            PerceptionError: A frame cannot be read or its truth does not fit; the message names data set and frame.
        """
        for index in progress(chosen(len(self.dataset), limit)):
            self.add(index)

    def add(self, index: int) -> Record:
        """Evaluate one frame of the data set."""
        name = self.dataset.keys[index]
        try:
            sample = self.dataset[index]
            answers, depth, milliseconds = self.predict(sample)
            label_score, depth_score = self._score_labels(sample, answers), self._score_depth(sample, depth)
        except PerceptionError as error:
            raise type(error)(f"data set {self.dataset.name}, {name}: {error}") from error
        record = Record(
            index,
            name,
            milliseconds,
            _finite(label_score.pixel_accuracy) if label_score else None,
            _finite(label_score.miou) if label_score else None,
            depth_score.abs_rel if depth_score else None,
            depth_score.rmse if depth_score else None,
        )
        self.records.append(record)
        return record

    def predict(self, sample: Sample) -> tuple[list[np.ndarray], np.ndarray, float]:
        """One forward pass: labels in each scoring's classes, depth, and the milliseconds of the pipeline's call.

        The arrays are valid until the next call when the pipeline reuses its outputs.
        """
        if sample.frame.image.shape not in self._warm:
            # The first picture of a size pays for kernels and buffers.
            self._warm.add(sample.frame.image.shape)
            self.pipeline(sample.frame, ("labels", "depth"))
        # Before the timed call, as its own results are valid until the next call only.
        chosen_labels = self._labels_of_choices(sample)
        started = time.perf_counter()
        result = self.pipeline(sample.frame, ("labels", "depth"))
        milliseconds = 1000 * (time.perf_counter() - started)
        assert result.labels is not None
        assert result.depth is not None
        answers = [chosen_labels.get(scoring.choices, result.labels) for scoring in self.scorings]
        return answers, result.depth, milliseconds

    def _labels_of_choices(self, sample: Sample) -> dict[tuple[int, ...], np.ndarray]:
        """Return the labels that a network of fewer classes would give, for each scoring that has fewer: their best score."""
        everything = tuple(range(len(self.pipeline.class_set)))
        restricted = {scoring.choices for scoring in self.scorings} - {everything}
        if not restricted:
            return {}
        scores = self.pipeline(sample.frame, ("scores",)).scores
        assert scores is not None
        labels = {choices: labels_from_scores(torch.from_numpy(scores[None, list(choices)]), 0.0) for choices in restricted}
        return {choices: found[0][0].numpy() for choices, found in labels.items()}

    def worst(self, count: int) -> list[Record]:
        """The frames to look at: in turn the lowest pixel accuracy and the highest AbsRel that is not yet among them."""
        by_labels = sorted((r for r in self.records if r.pixel_accuracy is not None), key=lambda r: r.pixel_accuracy or 0.0)
        by_depth = sorted((r for r in self.records if r.abs_rel is not None), key=lambda r: -(r.abs_rel or 0.0))
        found: list[Record] = []
        for place in range(len(self.records)):
            found += [ranked[place] for ranked in (by_labels, by_depth) if place < len(ranked)]
        return list(dict.fromkeys(found))[:count]

    def report(self) -> dict[str, Any]:
        """Everything as plain values for JSON; figures that there are not are None."""
        return {
            "name": self.dataset.name,
            "license": self.dataset.license,
            "frames_of_set": len(self.dataset),
            **_figures(self.segmentation, self.depth, self.records),
            "records": [asdict(record) for record in self.records],
        }

    def _score_labels(self, sample: Sample, answers: Sequence[np.ndarray]) -> SegmentationScore | None:
        if sample.labels is None:
            return None
        unknown = ~np.isin(sample.labels, (*range(len(self.dataset.classes)), 255))
        if unknown.any():
            raise SourceError(f"the truth has id {sample.labels[unknown][0]}, of {len(self.dataset.classes)} classes")
        scores = [
            self.segmentation[scoring.classes.name].update(answer, scoring.truth[sample.labels])
            for scoring, answer in zip(self.scorings, answers, strict=True)
        ]
        return scores[0]

    def _score_depth(self, sample: Sample, depth: np.ndarray) -> DepthScore | None:
        return None if sample.depth is None else self.depth.update(depth, sample.depth)


def overall(evaluations: Sequence[Evaluation]) -> dict[str, Any]:
    """One network's figures over several data sets: pixels pooled for labels, the mean over all frames for depth.

    Args:
        evaluations: At least one, all by the same rules.
    """
    depth = evaluations[0].rules.metrics()
    segmentation: dict[str, SegmentationMetrics] = {}
    for evaluation in evaluations:
        depth.merge(evaluation.depth)
        for name, metrics in evaluation.segmentation.items():
            segmentation.setdefault(name, SegmentationMetrics(metrics.classes)).merge(metrics)
    return _figures(segmentation, depth, [record for evaluation in evaluations for record in evaluation.records])


def chosen(count: int, limit: int) -> list[int]:
    """Indices of at most `limit` (0: all) of `count` frames, evenly spread."""
    if not limit or limit >= count:
        return list(range(count))
    return [i * count // limit for i in range(limit)]


def _figures(segmentation: dict[str, SegmentationMetrics], depth: DepthMetrics, records: Sequence[Record]) -> dict[str, Any]:
    labeled = {name: score for name, metrics in segmentation.items() if (score := metrics.compute()).pixels}
    depth_score = depth.compute()
    return {
        "frames": len(records),
        "labeled_frames": sum(record.pixel_accuracy is not None for record in records),
        "depth_frames": depth.pictures,
        "segmentation": {name: _segmentation_report(score) for name, score in labeled.items()},
        "depth": None if depth_score is None else {name: _finite(value) for name, value in asdict(depth_score).items()},
        "latency_ms": statistics.median(record.latency_ms for record in records) if records else None,
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


def _some(classes: ClassSet) -> str:
    shown = ", ".join(classes.names[:3])
    return f"{classes.name} ({len(classes)}: {shown}, …)"
