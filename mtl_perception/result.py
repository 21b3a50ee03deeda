"""The result of one frame."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from mtl_perception.errors import ConfigError
from mtl_perception.labels import ClassSet
from mtl_perception.types import Outputs
from mtl_perception.visualization.cloud import write_ply
from mtl_perception.visualization.colors import colorize_labels, overlay, with_legend
from mtl_perception.visualization.files import replacing
from mtl_perception.visualization.image_files import depth_to_png, write_image


@dataclass(frozen=True, kw_only=True)
class Result(Outputs):
    """The outputs for one frame with their classes; see `Outputs` for the arrays.

    Attributes:
        class_set: Classes of the labels.
        overlay_opacity: Weight of the class colors in the overlay, 0 to 1: the parameter of the pipeline.
        stem: First part of the names of saved files: the stem of the image file, or "frame" where there was none.
    """

    class_set: ClassSet
    overlay_opacity: float
    stem: str = "frame"

    def overlay(self, opacity: float | None = None, *, show_legend: bool = False) -> np.ndarray:
        """Return the class colors blended over the image, as the node publishes them.

        Args:
            opacity: Weight of the class colors, 0 to 1; by default `overlay_opacity`.
            show_legend: Whether to append a legend of the classes below the image.

        Returns:
            H x W x 3 uint8, RGB; unlabeled pixels keep the image. Higher with a legend.

        Raises:
            ConfigError: Labels or image were not requested, or the opacity is outside 0 to 1.
        """
        labels, image = self._require("overlay", "labels", "image")
        blended = overlay(image, labels, self.class_set, self.overlay_opacity if opacity is None else opacity)
        return with_legend(blended, self.class_set) if show_legend else blended

    def save(self, folder: str | Path, stem: str | None = None, *, show_legend: bool = False) -> None:
        """Write the files that `infer` writes; each one is complete or absent, and replaces an older one.

        They are `<stem>.labels.png` (uint8 ids), `<stem>.depth.png` (uint16, meters x 256, 0 = invalid), `<stem>.color.png`,
        `<stem>.overlay.png`, with a cloud `<stem>.ply`, and `classes.json` (id, name and color of each class).

        Args:
            folder: Output folder; created if it does not exist.
            stem: First part of the file names; by default `stem` of the result. Give each frame its own.
            show_legend: Whether to append a legend of the classes below the overlay.

        Raises:
            ConfigError: Labels, depth or image were not requested.
            SourceError: A file cannot be written.
        """
        labels, depth, image = self._require("save", "labels", "depth", "image")
        folder, stem = Path(folder), self.stem if stem is None else stem
        colors = colorize_labels(labels, self.class_set)
        blended = overlay(image, labels, self.class_set, self.overlay_opacity, colors=colors)
        blended = with_legend(blended, self.class_set) if show_legend else blended
        write_image(folder / f"{stem}.labels.png", labels)
        write_image(folder / f"{stem}.depth.png", depth_to_png(depth))
        write_image(folder / f"{stem}.color.png", colors)
        write_image(folder / f"{stem}.overlay.png", blended)
        if self.cloud is not None:
            write_ply(folder / f"{stem}.ply", self.cloud)
        with replacing(folder / "classes.json") as part:
            part.write_text(json.dumps(self.class_set.records(), indent=1) + "\n", encoding="utf-8")

    def _require(self, action: str, *names: str) -> list[np.ndarray]:
        """Return outputs by name."""
        missing = [name for name in names if getattr(self, name) is None]
        if missing:
            raise ConfigError(
                f"{action} failed: the result has no {' and no '.join(missing)}; request outputs {', '.join(names)}"
            )
        return [getattr(self, name) for name in names]


def relabel(outputs: Outputs, table: np.ndarray) -> Outputs:
    """Return outputs with other label ids; the cloud is changed in place.

    Args:
        outputs: Outputs of a backend.
        table: New label by label, 256 uint8.
    """
    if outputs.cloud is not None:
        # Through uint8: OpenCV's lookup is three times as fast as NumPy's.
        outputs.cloud["label"] = cv2.LUT(outputs.cloud["label"].astype(np.uint8), table)
    return outputs if outputs.labels is None else replace(outputs, labels=np.asarray(cv2.LUT(outputs.labels, table)))
