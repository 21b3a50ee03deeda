"""Steadiness of labels and depth in video, and what `temporal_smoothing` changes about it.

    DATA=<data folder> python -m tools.benchmarks.flicker config/data/street-drive.yaml --values 0 0.5
    python -m tools.benchmarks.flicker --synthetic 2 3 --frames 30

Consecutive images are matched by dense optical flow, at the pixels where forward and backward flow agree within 1 pixel.

- changed: matched pixels whose label changes; inside: of those more than 3 pixels from a border between labels.
- depth: median of |ln d - ln d'| of matched pixels below 40 m, after the median motion along the optical axis was removed.
- mIoU, AbsRel: where there is ground truth, up to 80 m; border: the pixels within 3 pixels of a border between true classes;
  road users: the classes person, cyclist and vehicle.
- time: median time of a call relative to the first value, interleaved.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mtl_perception.errors import PerceptionError
from mtl_perception.labels import ClassSet
from mtl_perception.pipeline import Pipeline
from mtl_perception.progress import progress_bar
from mtl_perception.synthetic.drive import SyntheticDrive
from mtl_perception.training.data.open import open_datasets
from mtl_perception.training.evaluation.depth import DepthMetrics
from mtl_perception.training.evaluation.segmentation import SegmentationMetrics
from mtl_perception.types import UNLABELED, History, Sample

BORDER = np.ones((7, 7), np.uint8)
"""Pixels around one that must have its label, for it to be more than 3 pixels from a border."""
AGREEMENT = 1.0
"""Largest difference of forward and backward flow of matched pixels, pixels."""
NEAR = 40.0
"""Depth below which the change of depth is measured, m."""
ROAD_USERS = ("person", "cyclist", "vehicle")
INTERVAL_NS = 100_000_000


@dataclass(frozen=True)
class Match:
    """Where the content of an image is in the one before.

    Attributes:
        x: H x W float32 columns in the image before.
        y: H x W float32 rows in the image before.
        valid: H x W bool: the pixels where forward and backward flow agree.
    """

    x: np.ndarray
    y: np.ndarray
    valid: np.ndarray


def match(before: np.ndarray, image: np.ndarray) -> Match:
    """Match an image with the one before, both H x W x 3 uint8 RGB."""
    old, new = (cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY) for rgb in (before, image))
    method = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)  # type: ignore[attr-defined]
    backward, forward = method.calc(new, old, None), method.calc(old, new, None)
    rows, columns = np.mgrid[: new.shape[0], : new.shape[1]].astype(np.float32)
    x, y = columns + backward[..., 0], rows + backward[..., 1]
    difference = backward + cv2.remap(forward, x, y, cv2.INTER_LINEAR)
    inside = (x >= 0) & (y >= 0) & (x <= new.shape[1] - 1) & (y <= new.shape[0] - 1)
    return Match(x, y, inside & (np.hypot(difference[..., 0], difference[..., 1]) < AGREEMENT))


def inside_regions(labels: np.ndarray) -> np.ndarray:
    """Return H x W bool: the pixels more than 3 pixels from a border between labels."""
    border = cv2.BORDER_REPLICATE
    return np.asarray(cv2.erode(labels, BORDER, borderType=border) == cv2.dilate(labels, BORDER, borderType=border))


@dataclass
class Steadiness:
    """Changes from image to image and errors, summed over a drive.

    Attributes:
        classes: Classes of the labels.
    """

    classes: ClassSet
    _changes: np.ndarray = field(init=False)
    _inside: np.ndarray = field(default_factory=lambda: np.zeros(2, np.int64))
    _depth: list[float] = field(default_factory=list)
    _last: tuple[np.ndarray, np.ndarray] | None = None

    def __post_init__(self) -> None:
        self._changes = np.zeros((len(self.classes), 2), np.int64)
        self._labels, self._border = SegmentationMetrics(self.classes), SegmentationMetrics(self.classes)
        self._errors, self._user_errors = DepthMetrics("none"), DepthMetrics("none")
        self._users = [self.classes.names.index(name) for name in ROAD_USERS if name in self.classes.names]

    def update(self, labels: np.ndarray, depth: np.ndarray, found: Match | None, truth: Sample) -> None:
        """Add the result of an image.

        Args:
            labels: H x W uint8.
            depth: H x W float32, m.
            found: Where its content is in the image of the last call; None for the first one.
            truth: Its ground truth.
        """
        if found is not None and self._last is not None:
            self._compare(labels, depth, found, *self._last)
        self._last = labels, depth
        users = None
        if truth.labels is not None:
            self._labels.update(labels, truth.labels)
            at_border = np.where(inside_regions(truth.labels), np.uint8(UNLABELED), truth.labels)
            self._border.update(labels, at_border)
            users = np.isin(truth.labels, self._users)
        if truth.depth is not None:
            self._errors.update(depth, truth.depth)
            where = np.isin(labels, self._users) if users is None else users
            self._user_errors.update(depth, np.where(where, truth.depth, np.float32(np.nan)))

    def report(self) -> dict[str, Any]:
        """Return all figures, as shares of 1 but the depth change; without ground truth, the errors are missing."""
        changed, matched = self._changes.sum(axis=0)
        found: dict[str, Any] = {
            "changed": float(changed / max(matched, 1)),
            "inside": float(self._inside[0] / max(self._inside[1], 1)),
            "depth": float(np.mean(self._depth)) if self._depth else None,
        }
        if self._labels.compute().pixels:
            iou = self._labels.compute().iou
            found |= {"mIoU": self._labels.compute().miou, "mIoU border": self._border.compute().miou}
            found["IoU road users"] = float(np.nanmean(iou[self._users])) if self._users else None
        for name, errors in (("AbsRel", self._errors), ("AbsRel road users", self._user_errors)):
            if errors.images:
                found[name] = errors.compute().abs_rel
        counted = [(name, row) for name, row in zip(self.classes.names, self._changes, strict=True) if row[1]]
        return found | {"classes": {name: float(row[0] / row[1]) for name, row in counted}}

    def _compare(
        self, labels: np.ndarray, depth: np.ndarray, found: Match, old_labels: np.ndarray, old_depth: np.ndarray
    ) -> None:
        moved = cv2.remap(old_labels, found.x, found.y, cv2.INTER_NEAREST)
        changed = (moved != labels) & found.valid
        inside = inside_regions(labels) & found.valid
        self._inside += np.sum(changed & inside), np.sum(inside)
        for number in range(len(self.classes)):
            where = found.valid & (labels == number)
            self._changes[number] += np.sum(changed & where), np.sum(where)
        before = cv2.remap(old_depth, found.x, found.y, cv2.INTER_LINEAR)
        with np.errstate(invalid="ignore"):
            near = found.valid & (depth > 0) & (depth < NEAR) & (before > 0) & (before < NEAR)
        if near.any():
            now, before = depth[near], before[near]
            still = np.maximum(before - np.median(before - now), before / 2)
            self._depth.append(float(np.median(np.abs(np.log(still / now)))))


def measure(samples: Iterable[Sample], pipelines: Sequence[Pipeline]) -> tuple[list[dict[str, Any]], list[list[float]]]:
    """Process consecutive images with each pipeline.

    Returns:
        The report and the seconds of each call, for each pipeline.
    """
    totals = [Steadiness(pipeline.class_set) for pipeline in pipelines]
    histories = [History() for _ in pipelines]
    seconds: list[list[float]] = [[] for _ in pipelines]
    before: np.ndarray | None = None
    for index, sample in enumerate(samples):
        frame = replace(sample.frame, stamp_ns=(index + 1) * INTERVAL_NS)
        found = None if before is None else match(before, frame.image)
        before = frame.image
        for number, pipeline in enumerate(pipelines):
            start = time.perf_counter()
            result = pipeline(replace(frame, history=histories[number]), ("labels", "confidence", "depth"))
            seconds[number].append(time.perf_counter() - start)
            assert result.labels is not None
            assert result.depth is not None
            totals[number].update(result.labels, result.depth, found, sample)
    return [total.report() for total in totals], seconds


def as_markdown(rows: dict[str, dict[str, Any]]) -> str:
    """Return a table of the reports by name; shares in percent."""
    names = list(dict.fromkeys(name for row in rows.values() for name in row if name != "classes"))
    lines = [f"| | {' | '.join(names)} |", f"|{'---|' * (len(names) + 1)}"]
    for title, row in rows.items():
        cells = [_text(name, row.get(name)) for name in names]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _text(name: str, value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if name in ("depth", "AbsRel", "AbsRel road users", "time") else f"{100 * value:.2f}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="*", type=Path, metavar="D", help="data sets of consecutive frames")
    parser.add_argument("--synthetic", nargs="+", type=int, default=[], metavar="SEED", help="synthetic drives")
    parser.add_argument("--first", type=int, default=0, metavar="N", help="number of frames to skip")
    parser.add_argument("--frames", type=int, default=30, metavar="N", help="number of frames (default: 30)")
    parser.add_argument("--values", nargs="+", type=float, default=[0.0, 0.5], metavar="X", help="values of temporal_smoothing")
    parser.add_argument("--weights", default="street")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--out", type=Path, metavar="FILE", help="JSON file with all figures")
    args = parser.parse_args()
    last = args.first + args.frames
    try:
        samples = {}
        for seed in args.synthetic:
            samples[f"synthetic {seed}"] = map(SyntheticDrive(last, seed=seed).sample, range(args.first, last))
        for path in args.data:
            for data in open_datasets(path):
                samples[data.name] = map(data.__getitem__, range(args.first, min(last, len(data))))
        options = {"weights": args.weights, "device": "cpu", "precision": args.precision, "warm_up": False}
        pipelines = [Pipeline(**options, temporal_smoothing=value) for value in args.values]
        rows: dict[str, dict[str, Any]] = {}
        for name, frames in samples.items():
            reports, seconds = measure(progress_bar(frames, desc=name, unit="frame", total=args.frames), pipelines)
            # The first call of each compiles the network.
            times = [float(np.median(calls[1:])) for calls in seconds]
            for value, report, elapsed in zip(args.values, reports, times, strict=True):
                rows[f"{name}, {value:g}"] = {**report, "time": elapsed / times[0]}
    except PerceptionError as error:
        print(f"flicker: {error}", file=sys.stderr)
        return 1
    print(as_markdown(rows), end="")
    if args.out:
        args.out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
