"""Metrics against the outputs of the pipeline, and comparable classes."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field

import cv2
import numpy as np
import pytest
from support.data import HEIGHT, WIDTH
from support.images import noise_image

from mtl_perception import CameraModel, Frame, Pipeline
from mtl_perception.errors import ConfigError, SourceError
from mtl_perception.labels import KITTI6, NYUD40, STREET, ClassSet
from mtl_perception.types import Sample

pytest.importorskip("torchmetrics")
from mtl_perception.training.data.select import spread_evenly
from mtl_perception.training.evaluation import evaluate
from mtl_perception.training.evaluation.classes import comparisons
from mtl_perception.training.evaluation.evaluate import PIPELINE, DepthProtocol, Evaluation, FrameScore, overall
from mtl_perception.training.evaluation.tables import markdown

STREET_OF_KITTI6 = [8, 3, 0, 1, 7, 11]
ALL = DepthProtocol(crop="none")


@dataclass
class MemoryDataset:
    """A data set in memory."""

    samples: list[Sample]
    classes: ClassSet = STREET
    name: str = "fake"
    license: str = "none"
    keys: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self.keys = [sample.name for sample in self.samples]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        return self.samples[index]

    def has_labels(self, index: int) -> bool:
        return self.samples[index].labels is not None

    def has_depth(self, index: int) -> bool:
        return self.samples[index].depth is not None


@pytest.fixture(scope="module")
def pipe(weights_file) -> Pipeline:
    return Pipeline(weights=str(weights_file), device="cpu", cpu_threads=1, warm_up=False, **PIPELINE)


def predict(pipe: Pipeline, seed: int) -> tuple[Frame, np.ndarray, np.ndarray]:
    """Return a frame with the labels and depth that the pipeline predicts for it."""
    frame = Frame(noise_image(HEIGHT, WIDTH, seed), CameraModel(WIDTH, HEIGHT, 60, 60, 48, 24))
    result = pipe(frame, ("labels", "depth"))
    return frame, result.labels, result.depth


def sample(pipe: Pipeline, seed: int, factor: float = 1.0, wrong: int = 0, name: str = "") -> Sample:
    """Return a sample with the prediction as truth: depth divided by `factor`, labels of the first `wrong` rows changed."""
    frame, labels, depth = predict(pipe, seed)
    labels = labels.copy()
    labels[:wrong] = (labels[:wrong] + 1) % 12
    return Sample(frame, labels, (np.clip(depth, 2, 60) / factor).astype(np.float32), name or f"s{seed}")


class TestMetrics:
    def test_predictions_as_truth_are_correct_except_for_changed_rows(self, pipe):
        """12 of 48 rows are changed, so that a quarter of the pixels is wrong."""
        dataset = MemoryDataset([sample(pipe, 0), sample(pipe, 1, wrong=12), Sample(predict(pipe, 2)[0], name="unlabeled")])
        evaluation = Evaluation(pipe, dataset, DepthProtocol(crop="none", cap=70))
        correct, wrong, unlabeled = (evaluation.add(i) for i in range(3))
        assert (correct.pixel_accuracy, correct.miou) == (1, 1)
        assert wrong.pixel_accuracy == pytest.approx(0.75)
        assert (unlabeled.pixel_accuracy, unlabeled.abs_rel) == (None, None)
        report = evaluation.report()
        assert (report["frames"], report["labeled_frames"], report["depth_frames"]) == (3, 2, 2)
        assert report["segmentation"]["street"]["pixel_accuracy"] == pytest.approx(0.875)
        assert report["segmentation"]["street"]["pixels"] == 2 * HEIGHT * WIDTH
        assert report["latency_ms"] > 0

    def test_depth_that_is_10_percent_too_far_has_an_abs_rel_of_0_1(self, pipe):
        frame, _, depth = predict(pipe, 0)
        truth = np.where((depth > 2) & (depth < 60), depth / 1.1, np.nan).astype(np.float32)
        record = Evaluation(pipe, MemoryDataset([Sample(frame, None, truth, "a")]), ALL).add(0)
        assert record.abs_rel == pytest.approx(0.1, abs=1e-5)
        assert record.pixel_accuracy is None

    def test_ece_is_that_of_the_published_confidence(self, pipe):
        """All labels are correct, so that the error is what the confidence lacks to 1; a quarter of wrong rows changes it."""
        frame, labels, _ = predict(pipe, 0)
        confidence = pipe(frame, ("confidence",)).confidence / 255
        truth = labels.copy()
        truth[:, :9] = 255
        evaluation = Evaluation(pipe, MemoryDataset([Sample(frame, truth, None, "a")]), ALL)
        evaluation.run()
        calibration = evaluation.report()["calibration"]
        assert calibration["ECE"] == pytest.approx(1 - confidence[:, 9:].mean(), abs=1e-4)
        assert calibration["mean_confidence"] == pytest.approx(confidence[:, 9:].mean(), abs=1e-4)
        assert sum(calibration["bin_pixels"]) == HEIGHT * (WIDTH - 9)

    def test_depth_of_a_class_that_is_too_far_shows_in_its_row_only(self, pipe):
        frame, _, depth = predict(pipe, 0)
        labels = np.zeros((HEIGHT, WIDTH), np.uint8)
        labels[:, WIDTH // 2 :] = STREET.names.index("vegetation")
        labels[0] = 255
        truth = np.where((depth > 2) & (depth < 60), np.where(labels == 0, depth, depth / 1.25), np.nan).astype(np.float32)
        evaluation = Evaluation(pipe, MemoryDataset([Sample(frame, labels, truth, "a"), Sample(frame, None, truth, "b")]), ALL)
        evaluation.add(0)
        [table] = evaluation.report()["depth_by_class"]
        assert list(table["abs_rel"]) == ["road", "vegetation", "all"]
        assert table["abs_rel"]["road"][-1] == table["bias"]["road"][-1] == pytest.approx(0, abs=1e-6)
        assert table["abs_rel"]["vegetation"][-1] == table["bias"]["vegetation"][-1] == pytest.approx(0.25, abs=1e-4)
        assert table["pixels"]["all"][-1] == np.isfinite(truth).sum()
        # Without ground truth of labels, the predicted class counts.
        evaluation.add(1)
        [table] = evaluation.report()["depth_by_class"]
        assert set(table["pixels"]) - {"all"} >= {STREET.names[i] for i in np.unique(predict(pipe, 0)[1][np.isfinite(truth)])}

    def test_labels_of_six_classes_are_the_best_of_their_six_scores(self, pipe):
        """The result differs from mapping the best of all twelve scores to the six classes."""
        frame = predict(pipe, 0)[0]
        truth = np.full((HEIGHT, WIDTH), STREET.names.index("terrain"), np.uint8)
        truth[:, WIDTH // 2 :] = STREET.names.index("road")
        evaluation = Evaluation(pipe, MemoryDataset([Sample(frame, truth, None, "a")]), ALL)
        evaluation.add(0)
        logits = pipe._backend.engine.forward(frame.image)[0].numpy()
        scores = np.stack([cv2.resize(plane, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC) for plane in logits])
        six = scores[STREET_OF_KITTI6].argmax(0)[:, WIDTH // 2 :]
        twelve = scores.argmax(0)[:, WIDTH // 2 :]
        report = evaluation.report()["segmentation"]
        # Terrain is not counted: half of the pixels are left.
        assert report["kitti6"]["pixels"] == HEIGHT * WIDTH // 2
        assert report["kitti6"]["pixel_accuracy"] == pytest.approx((six == 2).mean())
        assert 0 < (twelve == 0).mean() < (six == 2).mean()
        assert report["street"]["confusion"][0][:12] == np.bincount(twelve.ravel(), minlength=12).tolist()

    def test_overall_metrics_pool_pixels_of_labels_and_average_depth_over_frames(self, pipe):
        first = Evaluation(pipe, MemoryDataset([sample(pipe, 0)]), ALL)
        second = Evaluation(pipe, MemoryDataset([sample(pipe, 1, 1.5, 24), sample(pipe, 2, 1.5, 24)]), ALL)
        for evaluation in (first, second):
            evaluation.run()
        together = overall([first, second])
        assert together["frames"] == 3
        assert together["segmentation"]["street"]["pixel_accuracy"] == pytest.approx((1 + 0.5 + 0.5) / 3)
        records = first.scores + second.scores
        assert together["depth"]["abs_rel"] == pytest.approx(np.mean([record.abs_rel for record in records]))

    def test_worst_frames_alternate_between_labels_and_depth(self, pipe):
        evaluation = Evaluation(pipe, MemoryDataset([]))
        evaluation.scores = [
            FrameScore(0, "a", 1, 0.9, 0.5, 0.1, 1),
            FrameScore(1, "b", 1, 0.2, 0.5, 0.5, 1),
            FrameScore(2, "c", 1, 0.8, 0.5, 0.4, 1),
            FrameScore(3, "d", 1, None, None, 0.6, 1),
            FrameScore(4, "e", 1, None, None, None, None),
        ]
        # The order by labels is b, c, a and that by depth d, b, c, a; each frame is listed once.
        assert [record.name for record in evaluation.worst(9)] == ["b", "d", "c", "a"]
        assert [record.name for record in evaluation.worst(2)] == ["b", "d"]

    def test_limited_frames_are_spread_evenly(self):
        assert spread_evenly(10, 0) == spread_evenly(10, 10) == spread_evenly(10, 99) == list(range(10))
        assert spread_evenly(10, 3) == [0, 3, 6]

    def test_ground_truth_of_another_size_or_with_an_unknown_id_is_refused(self, pipe):
        frame = predict(pipe, 0)[0]
        dataset = MemoryDataset([Sample(frame, np.zeros((2, 3), np.uint8), None, "scene/one")])
        with pytest.raises(
            SourceError, match=f"data set fake, scene/one: labels are {WIDTH}x{HEIGHT}, the ground truth is 3x2"
        ):
            Evaluation(pipe, dataset).add(0)
        dataset = MemoryDataset([Sample(frame, np.full((HEIGHT, WIDTH), 12, np.uint8), None, "a")])
        with pytest.raises(SourceError, match="the ground truth has id 12, of 12 classes"):
            Evaluation(pipe, dataset).add(0)

    def test_a_pipeline_with_a_minimum_depth_is_refused(self, weights_file):
        near = Pipeline(config=None, weights=str(weights_file), device="cpu", warm_up=False, **{**PIPELINE, "min_depth": 2.0})
        with pytest.raises(ConfigError, match="evaluation needs parameter min_depth = 0, not 2"):
            Evaluation(near, MemoryDataset([]))


class TestClasses:
    def test_class_sets_are_compared_where_a_mapping_exists(self):
        assert [s.classes.name for s in comparisons(STREET, STREET)] == ["street", "kitti6"]
        assert comparisons(STREET, STREET)[0].choices == tuple(range(12))
        assert comparisons(STREET, STREET)[1].choices == tuple(STREET_OF_KITTI6)
        (six,) = comparisons(STREET, KITTI6)
        assert (six.classes.name, six.choices) == ("kitti6", tuple(range(6)))
        assert six.truth[[0, 2, 8, 255]].tolist() == [2, 255, 0, 255]
        assert [s.choices for s in comparisons(KITTI6, STREET)] == [tuple(STREET_OF_KITTI6)]
        assert comparisons(NYUD40, STREET) == []

    def test_labels_without_a_known_mapping_are_refused(self, pipe):
        frame, labels, depth = predict(pipe, 0)
        with pytest.raises(ConfigError, match=r"nyud40 \(40: wall, .*'random' have random \(12: road, .*no mapping"):
            Evaluation(pipe, MemoryDataset([Sample(frame, labels, None, "a")], NYUD40))
        # Without labels no mapping is needed.
        assert Evaluation(pipe, MemoryDataset([Sample(frame, None, depth, "a")], NYUD40)).add(0).abs_rel is not None


def test_columns_of_tables_are_aligned():
    assert markdown(["data", "weights", "ms"], [["a", "street", "1.5"]]) == (
        "| data | weights |  ms |\n| ---- | ------- | --: |\n| a    | street  | 1.5 |\n"
    )


def test_missing_metrics_are_null_in_json(pipe):
    """NaN is not valid JSON."""
    evaluation = Evaluation(
        pipe, MemoryDataset([Sample(predict(pipe, 0)[0], np.full((HEIGHT, WIDTH), 255, np.uint8), None, "a")])
    )
    evaluation.run()
    json.dumps(evaluation.report(), allow_nan=False)
    assert evaluation.scores[0].pixel_accuracy is None
    assert math.isfinite(evaluation.scores[0].latency_ms)


def test_frames_beyond_those_that_are_timed_are_computed_once(pipe, monkeypatch):
    monkeypatch.setattr(evaluate, "TIMED_FRAMES", 1)
    dataset = MemoryDataset([sample(pipe, seed) for seed in (0, 1)])
    calls, call = [], Pipeline.__call__

    def count(self, frame, outputs):
        calls.append(frame)
        return call(self, frame, outputs)

    monkeypatch.setattr(Pipeline, "__call__", count)
    evaluation = Evaluation(pipe, dataset)
    evaluation.run()
    assert [sum(frame is one.frame for frame in calls) for one in dataset.samples] == [3, 1], "warm-up, latency, metrics"
    timed, other = (score.latency_ms for score in evaluation.scores)
    assert other is None and evaluation.report()["latency_ms"] == timed > 0
