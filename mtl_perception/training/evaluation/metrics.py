"""All metrics of a network over images, and their report."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from mtl_perception.training.evaluation.boxes import BoxRecall
from mtl_perception.training.evaluation.calibration import CalibrationMetrics, CalibrationScore
from mtl_perception.training.evaluation.depth import DepthMetrics, DepthTable
from mtl_perception.training.evaluation.segmentation import SegmentationMetrics, SegmentationScore


@dataclass
class Metrics:
    """Metrics of one network over images.

    Attributes:
        depth: Depth metrics.
        segmentation: Segmentation metrics by the name of their class set.
        depth_tables: Depth errors by class and distance, by the name of the class set.
        calibration: Calibration of the confidence.
        boxes: Recall of boxes.
    """

    depth: DepthMetrics
    segmentation: dict[str, SegmentationMetrics] = field(default_factory=dict)
    depth_tables: dict[str, DepthTable] = field(default_factory=dict)
    calibration: CalibrationMetrics = field(default_factory=CalibrationMetrics)
    boxes: BoxRecall = field(default_factory=BoxRecall)

    def merge(self, other: Metrics) -> None:
        """Add the images of another instance with the same options."""
        self.depth.merge(other.depth)
        self.calibration.merge(other.calibration)
        self.boxes.merge(other.boxes)
        for name, metrics in other.segmentation.items():
            self.segmentation.setdefault(name, SegmentationMetrics(metrics.classes)).merge(metrics)
        for name, table in other.depth_tables.items():
            self.depth_tables.setdefault(name, DepthTable(table.classes)).merge(table)

    def report(self) -> dict[str, Any]:
        """Return the metrics as plain values for JSON; missing ones are None."""
        labeled = {name: score for name, metrics in self.segmentation.items() if (score := metrics.compute()).pixels}
        depth, calibration = self.depth.compute(), self.calibration.compute()
        return {
            "segmentation": {name: _segmentation_report(score) for name, score in labeled.items()},
            "calibration": None if calibration is None else _calibration_report(calibration),
            "depth": None if depth is None else {name: finite(value) for name, value in asdict(depth).items()},
            "depth_by_class": [report for table in self.depth_tables.values() if (report := table.report())],
            "boxes": self.boxes.report(),
        }


def finite(value: float) -> float | None:
    """Return a value that JSON can hold: None for NaN and Inf."""
    return value if math.isfinite(value) else None


def _segmentation_report(score: SegmentationScore) -> dict[str, Any]:
    return {
        "mIoU": finite(score.miou),
        "pixel_accuracy": finite(score.pixel_accuracy),
        "pixels": score.pixels,
        "IoU": {name: finite(float(value)) for name, value in zip(score.classes, score.iou, strict=True)},
        "confusion": score.confusion.tolist(),
    }


def _calibration_report(score: CalibrationScore) -> dict[str, Any]:
    return {
        "ECE": score.ece,
        "mean_confidence": score.mean_confidence,
        "bin_confidence": [finite(float(value)) for value in score.confidence],
        "bin_accuracy": [finite(float(value)) for value in score.accuracy],
        "bin_pixels": score.pixels.tolist(),
    }
