"""Metrics of segmentation and depth against values computed by hand."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest

from mtl_perception.errors import ConfigError, PerceptionError, SourceError
from mtl_perception.labels import STREET, ClassSet
from mtl_perception.types import Box

pytest.importorskip("torchmetrics")
from mtl_perception.training.evaluation.boxes import BoxRecall
from mtl_perception.training.evaluation.calibration import CalibrationMetrics
from mtl_perception.training.evaluation.depth import DepthMetrics, DepthTable, crop_window
from mtl_perception.training.evaluation.segmentation import SegmentationMetrics

NAN, INF = math.nan, math.inf
FOUR = ClassSet("four", ("a", "b", "c", "d"), ((0, 0, 0),) * 4)


def ids(*rows: list[int]) -> np.ndarray:
    return np.array(rows, np.uint8)


def meters(*rows: list[float]) -> np.ndarray:
    return np.array(rows, np.float32)


class TestSegmentation:
    # a: 1 correct, 1 predicted as b; b: 1 correct; c: 1 predicted as unlabeled; 1 pixel without truth; d absent.
    TRUTH = ids([0, 0, 1], [2, 255, 255])
    LABELS = ids([0, 1, 1], [255, 3, 0])

    def test_iou_accuracy_and_confusion_match_a_small_example(self):
        score = SegmentationMetrics(FOUR).update(self.LABELS, self.TRUTH)
        np.testing.assert_allclose(score.iou, [1 / 2, 1 / 2, 0, NAN])
        assert score.miou == pytest.approx(1 / 3)
        assert score.pixel_accuracy == pytest.approx(2 / 4)
        assert score.pixels == 4
        assert score.confusion.tolist() == [[1, 1, 0, 0, 0], [0, 1, 0, 0, 0], [0, 0, 0, 0, 1], [0, 0, 0, 0, 0]]

    def test_a_class_that_is_only_predicted_has_an_iou_of_0(self):
        score = SegmentationMetrics(FOUR).update(ids([0, 3]), ids([0, 0]))
        np.testing.assert_allclose(score.iou, [1 / 2, NAN, NAN, 0])
        assert score.miou == pytest.approx(1 / 4)

    def test_pixels_are_pooled_over_images(self):
        """Class a: 1 of 1 in one image, 0 of 3 in the other. Pooled 1/4; the mean over images would be 1/2."""
        metrics = SegmentationMetrics(FOUR)
        assert metrics.update(ids([0]), ids([0])).miou == 1
        assert metrics.update(ids([1, 1, 1]), ids([0, 0, 0])).miou == 0
        score = metrics.compute()
        np.testing.assert_allclose(score.iou, [1 / 4, 0, NAN, NAN])
        assert score.pixel_accuracy == pytest.approx(1 / 4)

    def test_merged_metrics_equal_those_of_all_images(self):
        first, second, both = (SegmentationMetrics(FOUR) for _ in range(3))
        first.update(self.LABELS, self.TRUTH)
        first.compute()
        second.update(ids([2, 2]), ids([2, 0]))
        for metrics in (first, second):
            both.merge(metrics)
        first.update(ids([2, 2]), ids([2, 0]))
        np.testing.assert_array_equal(both.compute().confusion, first.compute().confusion)
        np.testing.assert_allclose(both.compute().iou, [1 / 3, 1 / 2, 1 / 3, NAN], rtol=1e-6)

    def test_scores_without_labeled_pixels_are_nan(self):
        score = SegmentationMetrics(FOUR).update(ids([0, 3]), ids([255, 255]))
        assert score.pixels == 0
        assert math.isnan(score.miou)
        assert math.isnan(score.pixel_accuracy)

    @pytest.mark.parametrize(
        ("labels", "truth", "problem"),
        [
            (ids([0, 1]), ids([0]), "labels are 2x1, the ground truth is 1x1"),
            (ids([0, 1]), ids([0, 4]), "the ground truth has id 4, 'four' has 4 classes"),
        ],
    )
    def test_mismatched_size_and_unknown_id_are_refused(self, labels, truth, problem):
        with pytest.raises(SourceError, match=problem):
            SegmentationMetrics(FOUR).update(labels, truth)


class TestDepth:
    def test_errors_match_a_small_example(self):
        """Errors of +1, -2 and 0 m at 2, 10 and 4 m; pixels without truth are not counted."""
        score = DepthMetrics("none").update(meters([3, 8, 4], [5, 5, 5]), meters([2, 10, 4], [NAN, INF, 0]))
        assert score.pixels == 3
        assert score.abs_rel == pytest.approx((1 / 2 + 2 / 10 + 0) / 3)
        assert score.sq_rel == pytest.approx((1 / 2 + 4 / 10 + 0) / 3)
        assert score.rmse == pytest.approx(math.sqrt((1 + 4 + 0) / 3))
        d = [math.log(3 / 2), math.log(8 / 10), 0]
        assert score.rmse_log == pytest.approx(math.sqrt(sum(x * x for x in d) / 3))
        assert score.silog == pytest.approx(100 * math.sqrt(sum(x * x for x in d) / 3 - (sum(d) / 3) ** 2))
        assert score.coverage == 1

    def test_deltas_count_ratios_below_powers_of_1_25(self):
        """Ratios of 1.2, 1.25 (not below), 1.5, 1.9 and 3, in both directions."""
        truth = meters([10, 10, 15, 10, 30])
        score = DepthMetrics("none").update(meters([12, 12.5, 10, 19, 10]), truth)
        assert (score.delta1, score.delta2, score.delta3) == pytest.approx((1 / 5, 3 / 5, 4 / 5))

    def test_silog_does_not_depend_on_the_scale(self):
        score = DepthMetrics("none").update(meters([2, 20, 40]), meters([1, 10, 20]))
        assert score.silog == pytest.approx(0, abs=1e-4)
        assert score.rmse_log == pytest.approx(math.log(2))

    def test_metrics_are_means_over_images_not_pixels(self):
        metrics = DepthMetrics("none")
        metrics.update(meters([20]), meters([10]))
        metrics.update(meters([10, 10, 10]), meters([10, 10, 10]))
        assert metrics.update(meters([5]), meters([NAN])) is None
        score = metrics.compute()
        assert (score.abs_rel, score.rmse, score.pixels) == (0.5, 5, 4)
        assert metrics.images == 2
        twice = DepthMetrics("none")
        twice.merge(metrics)
        twice.merge(metrics)
        assert twice.compute().abs_rel == 0.5
        assert twice.images == 4

    def test_truth_beyond_the_cap_is_ignored_and_predictions_are_clipped(self):
        """Predictions beyond the cap, including +Inf, become the cap, and 0 becomes 1 mm."""
        truth = meters([80, 100, 40, 40, 40])
        score = DepthMetrics("none", cap=80).update(meters([1, 1, 200, INF, 0]), truth)
        assert score.pixels == 3
        assert score.abs_rel == pytest.approx((1 + 1 + (40 - 1e-3) / 40) / 3)
        assert score.coverage == 1
        assert DepthMetrics("none", cap=50).update(meters([90]), meters([40])).rmse == pytest.approx(10)

    def test_nan_predictions_count_as_the_cap_and_lower_the_coverage(self):
        score = DepthMetrics("none", cap=50).update(meters([NAN, 40, 40, 40]), meters([40, 40, 40, 40]))
        assert score.abs_rel == pytest.approx(10 / 40 / 4)
        assert score.coverage == 3 / 4
        empty = DepthMetrics("none", cap=50, median_scaling=True).update(meters([NAN, NAN]), meters([40, 40]))
        assert (empty.rmse, empty.coverage) == (10, 0)

    def test_median_scaling_ignores_nan_predictions(self):
        """The medians are 20 and 4: a factor of 5. The NaN prediction has no part in it and becomes the cap."""
        score = DepthMetrics("none", median_scaling=True).update(meters([2, 4, 10, NAN]), meters([10, 20, 50, 20]))
        assert score.pixels == 4
        assert score.abs_rel == pytest.approx((80 - 20) / 20 / 4)

    @pytest.mark.parametrize(
        ("crop", "rows", "columns"),
        # 0.40810811 x 375 = 153.04, 0.99189189 x 375 = 371.96, 0.3324324 x 375 = 124.66, 0.91351351 x 375 = 342.57,
        # 0.03594771 x 1242 = 44.65, 0.96405229 x 1242 = 1197.35
        [("garg", (153, 371), (44, 1197)), ("eigen", (124, 342), (44, 1197)), ("none", (0, 375), (0, 1242))],
    )
    def test_crops_select_the_published_windows(self, crop, rows, columns):
        assert crop_window(crop, 375, 1242) == (slice(*rows), slice(*columns))
        metrics = DepthMetrics(crop)
        truth = np.full((375, 1242), 10, np.float32)
        counted = metrics.evaluated(truth)
        assert counted.sum() == (rows[1] - rows[0]) * (columns[1] - columns[0])
        # Correct inside and wrong outside: pixels outside must not be counted.
        assert metrics.update(np.where(counted, truth, 70).astype(np.float32), truth).abs_rel == 0

    def test_mismatched_size_unknown_crop_and_invalid_cap_are_refused(self):
        with pytest.raises(SourceError, match="depth is 2x1, the ground truth is 1x1"):
            DepthMetrics().update(meters([1, 2]), meters([1]))
        with pytest.raises(ConfigError, match="crop 'gark': not one of none, garg, eigen"):
            DepthMetrics("gark")
        for cap in (0, -1, INF, NAN):
            with pytest.raises(ConfigError, match="cap"):
                DepthMetrics(cap=cap)


class TestCalibration:
    def test_ece_matches_a_small_example(self):
        """Two bins: 0.9 with 1 of 2 correct, 0.5 with 2 of 2 correct."""
        metrics = CalibrationMetrics()
        assert metrics.compute() is None
        metrics.update(np.array([0.9, 0.9, 0.5, 0.5]), np.array([True, False, True, True]))
        score = metrics.compute()
        assert score.ece == pytest.approx((2 * 0.4 + 2 * 0.5) / 4)
        assert score.mean_confidence == pytest.approx(0.7)
        assert (score.accuracy[13], score.accuracy[7]) == (0.5, 1)
        assert score.pixels.sum() == 4

    def test_ece_is_that_of_torchmetrics(self):
        import torch
        from torchmetrics.functional.classification import multiclass_calibration_error

        generator = torch.Generator().manual_seed(0)
        scores = torch.randn((5000, 4), generator=generator).mul(2).softmax(1)
        truth = torch.randint(0, 4, (5000,), generator=generator)
        expected = multiclass_calibration_error(scores, truth, num_classes=4, n_bins=15)
        confidence, labels = (values.numpy() for values in scores.max(1))
        halves = CalibrationMetrics(), CalibrationMetrics()
        for metrics, part in zip(halves, (slice(0, 2000), slice(2000, None)), strict=True):
            metrics.update(confidence[part], (labels == truth.numpy())[part])
        halves[0].merge(halves[1])
        assert halves[0].compute().ece == pytest.approx(float(expected), abs=1e-6)

    def test_a_confidence_at_the_edge_of_bins_belongs_to_the_lower_one(self):
        """All 256 published levels: 17 per bin, and 0 in the first."""
        metrics = CalibrationMetrics()
        metrics.update(np.arange(256) / 255, np.ones(256, bool))
        assert metrics.compute().pixels.tolist() == [18] + 14 * [17]


def test_depth_table_has_error_and_bias_of_each_class_and_distance():
    """Class a: +10 % at 5 m, -20 % and +40 % at 40 m; one pixel without class: exact at 60 m; b, c and d have none."""
    table = DepthTable(FOUR)
    assert table.report() is None
    table.update(np.array([5.5, 32, 56, 60]), np.array([5, 40, 40, 60]), np.array([0, 0, 0, 255], np.uint8))
    report = table.report()
    assert report["bins_m"] == ["<10", "10-20", "20-30", "30-50", ">=50", "all"]
    assert report["abs_rel"]["a"] == pytest.approx([0.1, None, None, 0.3, None, 0.7 / 3], nan_ok=True)
    assert report["bias"]["a"] == pytest.approx([0.1, None, None, 0.1, None, 0.1], nan_ok=True)
    assert report["pixels"] == {"a": [1, 0, 0, 2, 0, 3], "all": [1, 0, 0, 2, 1, 4]}
    assert report["abs_rel"]["all"][-1] == pytest.approx(0.7 / 4)
    table.merge(table)
    assert table.report()["pixels"]["a"][-1] == 6


def test_a_box_is_found_if_a_fifth_of_its_pixels_is_person_or_cyclist():
    """Columns of 10 pixels: 2 of 10 rows are enough, 1 is not; a rider labeled as a person is found; cars are ignored."""
    labels = np.zeros((200, 100), np.uint8)
    person = STREET.names.index("person")
    labels[0:2, 0:10] = labels[0:1, 20:30] = person
    labels[0:60, 40:60] = person
    recall = BoxRecall()
    assert recall.report() is None
    boxes = [Box("person", 0, 0, 9, 9), Box("person", 20, 0, 29, 9), Box("cyclist", 40, 0, 59, 199), Box("car", 0, 0, 9, 9)]
    recall.update(labels, boxes, STREET.names)
    # A box outside the image has no pixels and is not found.
    recall.update(labels, [Box("cyclist", 300, 0, 310, 30), Box("cyclist", -60, 0, -50, 30)], STREET.names)
    report = recall.report()
    assert report["bins_px"] == ["<25", "25-40", "40-80", "80-160", ">=160", "all"]
    assert report["boxes"] == {"person": [2, 0, 0, 0, 0, 2], "cyclist": [0, 2, 0, 0, 1, 3]}
    assert report["found"] == {"person": [1, 0, 0, 0, 0, 1], "cyclist": [0, 0, 0, 0, 1, 1]}


def test_missing_torchmetrics_is_reported_with_the_extra_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchmetrics.functional.classification", None)
    monkeypatch.delitem(sys.modules, "mtl_perception.training.evaluation.segmentation")
    with pytest.raises(PerceptionError, match=r"needs torchmetrics.*pip install 'mtl_perception\[train\]'"):
        import mtl_perception.training.evaluation.segmentation  # noqa: F401
