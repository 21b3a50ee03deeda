"""A teacher in an ONNX file, which OpenVINO runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mtl_perception.errors import ConfigError, SourceError, one_line, require
from mtl_perception.inference.openvino.runtime import shared_core
from mtl_perception.labels import ClassSet, LabelMapping, load_mapping
from mtl_perception.training.config import OnnxTeacher
from mtl_perception.types import UNLABELED, Frame

FORMS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "meters": lambda values: values,
    "log": lambda values: np.asarray(np.exp(values)),
    "inverse": lambda values: np.asarray(1 / values),
}
"""Depth by the form of the output, `OnnxTeacher.form`."""
MIN_DEPTH, MAX_DEPTH = 0.1, 255.0
"""Depth outside of this range is unknown, m."""


class OnnxNetwork:
    """An ONNX network that returns depth, labels or both for an image of any size.

    Args:
        teacher: The file, its input and its outputs.
        base: Folder that relative paths start from.
        classes: Classes of the labels.

    Raises:
        DependencyError: OpenVINO is not installed.
        SourceError: The file cannot be read.
        ConfigError: It does not have the stated input or outputs, or there is no label mapping of this name to these classes.
    """

    def __init__(self, teacher: OnnxTeacher, base: Path, classes: ClassSet) -> None:
        require("openvino", extra="openvino", purpose="a teacher in an ONNX file")
        self.teacher = teacher
        self.path = base / teacher.file
        if not self.path.is_file():
            raise SourceError(f"teacher.onnx.file: {self.path} does not exist")
        width, height = teacher.size
        try:
            core = shared_core()
            model = core.read_model(self.path)
            model.reshape([1, 3, height, width])
            self._model: Any = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        except RuntimeError as error:
            raise ConfigError(
                f"teacher.onnx.file: {self.path} cannot be used with an input of 1 x 3 x {height} x {width}: {one_line(error)}"
            ) from error
        names = sorted(name for output in self._model.outputs for name in output.get_names())
        for key in ("depth", "labels"):
            name = getattr(teacher, key)
            if name and name not in names:
                raise ConfigError(f"teacher.onnx.{key}: {self.path} has no output {name!r}; it has {', '.join(names)}")
        self.classes = classes
        self.mapping: LabelMapping | None = None
        if teacher.mapping:
            self.mapping = load_mapping(teacher.mapping, base, "teacher.onnx.mapping")
            if self.mapping.classes.names != classes.names:
                raise ConfigError(
                    f"teacher.onnx.mapping: {teacher.mapping} maps to {self.mapping.classes.name!r}, "
                    f"but the data sets have the classes {classes.name!r}"
                )

    def __call__(self, frame: Frame, min_confidence: float) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Return labels and depth of an image; None for an output that the network does not have.

        Args:
            frame: Image, and the camera if `teacher.focal_length` is set.
            min_confidence: Lowest softmax probability of a label; others become 255.

        Returns:
            H x W uint8, 255 = unlabeled, and H x W float32, m, NaN = unknown.

        Raises:
            ConfigError: The output with class scores does not have the classes, and there is no mapping.
        """
        width, height = self.teacher.size
        image = np.asarray(cv2.resize(frame.image, (width, height), interpolation=cv2.INTER_AREA), np.float32) / 255
        image = (image - np.array(self.teacher.mean, np.float32)) / np.array(self.teacher.std, np.float32)
        outputs = self._run(image)
        if self.teacher.mirror:
            mirrored = self._run(image[:, ::-1])
            outputs = {name: (values + mirrored[name][..., ::-1]) / 2 for name, values in outputs.items()}
        size = frame.image.shape[1], frame.image.shape[0]
        labels = self._labels(outputs["labels"], size, min_confidence) if "labels" in outputs else None
        depth = self._depth(outputs["depth"], size, frame) if "depth" in outputs else None
        return labels, depth

    def _run(self, image: np.ndarray) -> dict[str, np.ndarray]:
        """Return C x h x w float32 by key: probabilities as `labels`, the network's own values as `depth`."""
        results = self._model(np.ascontiguousarray(image.transpose(2, 0, 1)[None]))
        outputs = {}
        for key in ("depth", "labels"):
            if name := getattr(self.teacher, key):
                values = np.asarray(results[name], np.float32)
                outputs[key] = values.reshape(-1, *values.shape[-2:])
        if "labels" in outputs:
            scores = np.exp(outputs["labels"] - outputs["labels"].max(0))
            outputs["labels"] = scores / scores.sum(0)
        return outputs

    def _labels(self, probabilities: np.ndarray, size: tuple[int, int], min_confidence: float) -> np.ndarray:
        if self.mapping is None and len(probabilities) != len(self.classes):
            raise ConfigError(
                f"teacher.onnx.labels: {self.path} has {len(probabilities)} classes, not the {len(self.classes)} of "
                f"{self.classes.name!r}; give a `mapping:`"
            )
        enlarged = np.stack([cv2.resize(plane, size, interpolation=cv2.INTER_LINEAR) for plane in probabilities])
        labels: np.ndarray = enlarged.argmax(0).astype(np.uint8)
        if self.mapping is not None:
            labels = self.mapping.table()[labels]
        labels[enlarged.max(0) < min_confidence] = UNLABELED
        return labels

    def _depth(self, values: np.ndarray, size: tuple[int, int], frame: Frame) -> np.ndarray:
        offset, factor = self.teacher.depth_scale
        values = offset + factor * np.asarray(cv2.resize(values[0], size, interpolation=cv2.INTER_LINEAR))
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            depth = FORMS[self.teacher.form](values)
            if self.teacher.focal_length and frame.camera is not None:
                # The network sees the image with the focal length that resizing leaves.
                depth = depth * (frame.camera.fx * self.teacher.size[0] / frame.camera.width / self.teacher.focal_length)
            return np.where((depth >= MIN_DEPTH) & (depth <= MAX_DEPTH), depth, np.nan).astype(np.float32)
