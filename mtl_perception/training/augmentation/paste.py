"""People and cyclists of one picture set into another, where they would stand: rare classes are rare in every street.

On flat ground a camera at height c sees a person of height h, whose feet are at row v, with (h / c) (v - horizon) pixels:
depth and focal length cancel. So a person is as tall as the place demands, and geometry stays right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from mtl_perception.camera.model import CameraModel
from mtl_perception.errors import ConfigError
from mtl_perception.labels import ClassSet
from mtl_perception.training.augmentation.sample import TAUGHT_DEPTH, Example
from mtl_perception.training.data.training_set import TrainingSet

CAMERA_HEIGHT = 1.65
"""Meters above the road, KITTI's."""
HEIGHTS = {"person": (1.5, 1.9), "cyclist": (1.5, 1.9)}
"""Meters, least and greatest."""
SHAPES = {"person": (1.4, 5.0), "cyclist": (0.5, 3.0)}
"""Height over width of what looks like one of them, and not like a crowd or a part."""
GROUND = ("road", "sidewalk", "terrain")
LEAST_PIXELS = 500
LEAST_HEIGHT, GREATEST_SHARE = 16, 0.9
"""Pasted height: least in pixels, greatest as a share of the picture's."""
MOST = 3
SHADE = (0.35, 1.15)
"""Darkest and brightest that a pasted figure becomes: many of a street's people stand in the shade, few of those cut out do."""


@dataclass(frozen=True)
class Figure:
    """Where a person or cyclist is to be found.

    Attributes:
        entry: Which set.
        index: Which sample of it.
        label: Which class.
        box: x, y, width, height in its picture, pixels.
        component: Number of the connected component of that class.
    """

    entry: int
    index: int
    label: int
    box: tuple[int, int, int, int]
    component: int


class Paster:
    """Finds whole figures in the labeled samples once, and sets some of them into examples.

    Args:
        sets: The run's data.
        classes: Its class set.

    Raises:
        ConfigError: No picture shows a whole person or cyclist.
    """

    def __init__(self, sets: Sequence[TrainingSet], classes: ClassSet) -> None:
        self._sets = sets
        self._classes = classes
        self._labels = {name: classes.names.index(name) for name in HEIGHTS if name in classes.names}
        self._ground = [classes.names.index(name) for name in GROUND if name in classes.names]
        figures = [figure for number, entry in enumerate(sets) if entry.figures for figure in self._find(number, entry)]
        self.figures = {label: [f for f in figures if f.label == label] for label in self._labels.values()}
        self.figures = {label: found for label, found in self.figures.items() if found}
        if not self.figures:
            raise ConfigError("augmentation.paste: no labeled picture shows a whole person or cyclist")

    def __call__(self, example: Example, camera: CameraModel, rng: np.random.Generator) -> Example:
        """The example with up to three more figures; as it is where it shows no ground to stand on."""
        spots = np.argwhere(np.isin(example.labels[::2, ::2], self._ground)) * 2
        spots = spots[spots[:, 0] > camera.cy + 10]
        if not len(spots):
            return example
        image, labels = example.image.copy(), example.labels.copy()
        depth, taught = example.depth.copy(), example.taught.copy()
        chosen = spots[rng.integers(len(spots), size=int(rng.integers(1, MOST + 1)))]
        # The farther first: nearer ones hide them.
        for row, column in chosen[np.argsort(chosen[:, 0])]:
            label = int(rng.choice(list(self.figures)))
            low, high = HEIGHTS[self._classes.names[label]]
            height = round(rng.uniform(low, high) / CAMERA_HEIGHT * (row - camera.cy))
            if not LEAST_HEIGHT <= height <= GREATEST_SHARE * len(labels):
                continue
            figure = self.figures[label][int(rng.integers(len(self.figures[label])))]
            colors, mask = self._cut(figure, height)
            colors = np.minimum(colors * np.float32(np.exp(rng.uniform(*np.log(SHADE)))), 255)
            if rng.random() < 0.5:
                colors, mask = colors[:, ::-1], mask[:, ::-1]
            top, left = row - height + 1, int(column) - mask.shape[1] // 2
            first = max(0, -top), max(0, -left)
            colors, mask = colors[first[0] :, first[1] :], mask[first[0] :, first[1] :]
            top, left = max(top, 0), max(left, 0)
            part = np.s_[top : top + mask.shape[0], left : left + mask.shape[1]]
            size = labels[part].shape
            alpha = mask[: size[0], : size[1], None]
            image[part] = np.rint(image[part] * (1 - alpha) + colors[: size[0], : size[1]] * alpha).astype(np.uint8)
            solid = alpha[..., 0] > 0.5
            labels[part][solid] = label
            # The ground's depth at the feet; real ground is not quite flat, so it counts as a teacher's word.
            depth[part][solid] = camera.fy * CAMERA_HEIGHT / (row - camera.cy)
            taught[part][solid] = TAUGHT_DEPTH
        return Example(image, labels, depth, taught)

    def _cut(self, figure: Figure, height: int) -> tuple[np.ndarray, np.ndarray]:
        """The figure at this height: h x w x 3 float32 colors and h x w float32 opacity, soft at the edge."""
        sample = self._sets[figure.entry].pictures[figure.index]
        assert sample.labels is not None, "only labeled samples have figures"
        x, y, w, h = figure.box
        components = cv2.connectedComponents((sample.labels == figure.label).astype(np.uint8))[1]
        mask = (components[y : y + h, x : x + w] == figure.component).astype(np.float32)
        size = (max(round(w * height / h), 1), height)
        how = cv2.INTER_AREA if height < h else cv2.INTER_LINEAR
        colors = cv2.resize(sample.frame.image[y : y + h, x : x + w].astype(np.float32), size, interpolation=how)
        return np.asarray(colors), np.clip(cv2.resize(mask, size, interpolation=how), 0, 1)

    def _find(self, number: int, entry: TrainingSet) -> list[Figure]:
        found: list[Figure] = []
        for index in range(len(entry.pictures)):
            if not entry.pictures.has_labels(index):
                continue
            labels = entry.pictures[index].labels
            assert labels is not None
            for name, label in self._labels.items():
                mask = (labels == label).astype(np.uint8)
                if int(mask.sum()) < LEAST_PIXELS:
                    continue
                count, _, boxes, _ = cv2.connectedComponentsWithStats(mask)
                for component in range(1, count):
                    x, y, w, h, area = (int(value) for value in boxes[component])
                    whole = x > 0 and y > 0 and x + w < labels.shape[1] and y + h < labels.shape[0]
                    low, high = SHAPES[name]
                    if whole and area >= LEAST_PIXELS and low <= h / w <= high and area > 0.3 * w * h:
                        found.append(Figure(number, index, label, (x, y, w, h), component))
        return found
