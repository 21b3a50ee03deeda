"""Pseudo-labels: trained networks fill in missing labels and depth (hard distillation, Nekrasov et al., ICRA 2019)."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from mtl_perception.errors import ConfigError, SourceError, WeightsError, one_line
from mtl_perception.inference.device import plain_precision
from mtl_perception.labels import ClassSet
from mtl_perception.pipeline import Pipeline
from mtl_perception.progress import progress_bar
from mtl_perception.training.config import Teacher
from mtl_perception.training.data.training_set import PseudoLabels, TrainingSet
from mtl_perception.training.data.writer import encode_depth
from mtl_perception.training.onnx_teacher import OnnxNetwork
from mtl_perception.types import UNLABELED, Frame
from mtl_perception.visualization.files import replacing
from mtl_perception.visualization.image_files import write_image
from mtl_perception.weights.registry import resolve, sha256

RECORD = "teacher.json"
"""File beside the pseudo-labels that states how they were made."""


class TeacherNetworks:
    """The networks of a teacher.

    Args:
        teacher: The teacher.
        base: Folder that relative paths start from.
        device: Device of `teacher.weights`.
        classes: Classes of the labels.

    Raises:
        PerceptionError: A network cannot be loaded, or its labels have other classes.
    """

    def __init__(self, teacher: Teacher, base: Path, device: str, classes: ClassSet) -> None:
        self._teacher = teacher
        self._pipeline: Pipeline | None = None
        if teacher.weights:
            self._pipeline = Pipeline(
                teacher.weights, device, precision=plain_precision(device), min_confidence=teacher.confidence, warm_up=False
            )
            uses_labels = "segmentation" in teacher.tasks and not teacher.onnx.labels
            if uses_labels and self._pipeline.class_set.names != classes.names:
                raise ConfigError(
                    f"teacher.weights: {teacher.weights} has the classes {self._pipeline.class_set.name!r}, the data sets "
                    f"have {classes.name!r}; set teacher.tasks to [depth], or use other weights"
                )
        self._onnx = OnnxNetwork(teacher.onnx, base, classes) if teacher.onnx.file else None

    def __call__(self, frame: Frame) -> tuple[np.ndarray, np.ndarray]:
        """Return labels (H x W uint8, 255 = unlabeled) and depth (H x W float32, m, NaN = unknown, +Inf = sky)."""
        labels = np.full(frame.image.shape[:2], UNLABELED, np.uint8)
        depth = np.full(labels.shape, np.nan, np.float32)
        if self._pipeline is not None:
            result = self._pipeline(frame, outputs={"labels", "depth"})
            assert result.labels is not None
            assert result.depth is not None
            labels, depth = result.labels, result.depth
            depth = keep_infinity_of_sky(depth, labels, self._pipeline.class_set)
        if self._onnx is None:
            return labels, depth
        other_labels, other_depth = self._onnx(frame, self._teacher.confidence)
        if other_labels is not None:
            labels = other_labels
        if other_depth is not None:
            depth = other_depth if self._pipeline is None else mean_depth(depth, other_depth, self._teacher)
        return labels, depth


def keep_infinity_of_sky(depth: np.ndarray, labels: np.ndarray, classes: ClassSet) -> np.ndarray:
    """Return depth whose +Inf is NaN except where the class is "sky".

    Only the sky is infinitely far; the depth of anything else beyond the range is unknown.

    Args:
        depth: H x W float32, m, +Inf beyond the range.
        labels: H x W uint8.
        classes: Classes of the labels.
    """
    sky = labels == classes.names.index("sky") if "sky" in classes.names else np.zeros(labels.shape, bool)
    return np.where(np.isinf(depth) & ~sky, np.float32(np.nan), depth)


def mean_depth(first: np.ndarray, second: np.ndarray, teacher: Teacher) -> np.ndarray:
    """Return the geometric mean of two depths; far away, the first alone.

    Args:
        first: H x W float32, m, NaN = unknown, +Inf = the sky, which the result keeps.
        second: H x W float32, m, NaN = unknown.
        teacher: Largest ratio of the two, `agreement`, beyond which the result is NaN, and the range `far`.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.log(second / first)
        share = np.full_like(first, 0.5)
        if teacher.far[1] > 0:
            near, far = teacher.far
            share *= np.clip((far - first) / (far - near), 0, 1)
        mean = np.where(np.abs(ratio) <= np.log(teacher.agreement), first * np.exp(share * ratio), np.nan)
    return np.where(np.isinf(first), first, mean).astype(np.float32)


def write_pseudo_labels(
    sets: Sequence[TrainingSet], teacher: Teacher, out: Path, device: str = "auto", base: Path = Path()
) -> list[TrainingSet]:
    """Write pseudo-labels for samples without labels or depth; existing files are kept.

    Args:
        sets: Training sets.
        teacher: The networks and their options; they are only loaded if a file is missing.
        out: Target folder: `<set>/label/*.png`, `<set>/depth/*.png` (uint16, meters x 256, 0 = unknown, 65535 = sky).
        device: Device of `teacher.weights`.
        base: Folder that relative paths in `teacher.onnx` start from.

    Returns:
        The sets with `pseudo_labels`; sets with `teach: false` are unchanged.

    Raises:
        WeightsError: The weights of the teacher cannot be used.
        ConfigError: The ONNX file cannot be used, the labels of a network have other classes than the sets, or the files are of
            another teacher.
        SourceError: A file cannot be read or written.
    """
    record = _record(teacher, base)
    _check_record(record, out)
    networks: TeacherNetworks | None = None
    completed = []
    for entry in sets:
        if not entry.teach:
            completed.append(entry)
            continue
        needed = {i for i in range(len(entry.dataset)) if teacher.sparse or _is_incomplete(entry, i, teacher.tasks)}
        pseudo_labels = PseudoLabels(out / entry.dataset.name, entry.dataset.keys, needed, teacher.tasks)
        missing = [i for i in sorted(needed) if not all(path.is_file() for path in pseudo_labels.files(i))]
        if missing and networks is None:
            networks = TeacherNetworks(teacher, base, device, entry.dataset.classes)
            with replacing(out / RECORD) as part:
                part.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        bar = progress_bar(missing, desc=f"teacher: {entry.dataset.name}", unit="image", disable=None if missing else True)
        for index in bar:
            assert networks is not None
            labels, depth = networks(entry.sample(index).frame)
            label_file, depth_file = pseudo_labels.files(index)
            # Labels come last: a sample is complete if both files exist.
            write_image(depth_file, encode_depth(depth))
            write_image(label_file, labels)
        completed.append(replace(entry, pseudo_labels=pseudo_labels))
    return completed


def _record(teacher: Teacher, base: Path) -> dict[str, Any]:
    """Return what determines the pseudo-labels: the options, and the SHA-256 of the networks whose files exist.

    Names of files differ between machines, and a machine with all pseudo-labels may lack the networks.
    """
    record = {key: getattr(teacher, key) for key in ("confidence", "agreement", "far")}
    record |= {f"onnx.{key}": value for key, value in asdict(teacher.onnx).items() if key not in ("file", "mapping")}
    files = {"onnx.file": base / teacher.onnx.file} if teacher.onnx.file else {}
    if teacher.weights:
        with contextlib.suppress(WeightsError):
            files["weights"] = resolve(teacher.weights)
    record |= {name: f"sha256:{sha256(path)}" for name, path in files.items() if path.is_file()}
    return dict(json.loads(json.dumps(record)))


def _check_record(record: dict[str, Any], out: Path) -> None:
    """Refuse a folder with the pseudo-labels of another teacher."""
    path = out / RECORD
    try:
        known = json.loads(path.read_text("utf-8")) if path.exists() else {}
    except (OSError, ValueError) as error:
        raise SourceError(f"{path} cannot be read: {one_line(error)}") from None
    for name, value in known.items():
        if name in record and record[name] != value:
            raise ConfigError(
                f"{out} has the pseudo-labels of a teacher with {name} {value}, not {record[name]}; delete the folder, or set "
                "another teacher.folder"
            )


def _is_incomplete(entry: TrainingSet, index: int, tasks: Collection[str]) -> bool:
    """Return whether a sample lacks labels or depth for one of the tasks."""
    has = {"segmentation": entry.dataset.has_labels, "depth": entry.dataset.has_depth}
    return any(not has[task](index) for task in tasks)
