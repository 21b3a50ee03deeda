"""Pastes people and cyclists of other images where they would stand, because rare classes are rare in every street.

On a ground plane, a camera at height c sees a person of height h, whose feet are in row v, with (h / c) (v - horizon) pixels:
depth and focal length cancel. So the pasted height follows from the position, and the geometry stays right.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np

from mtl_perception.camera.model import CameraModel
from mtl_perception.errors import ConfigError
from mtl_perception.labels import ClassSet
from mtl_perception.training.augmentation.sample import PSEUDO_DEPTH, TrainingSample
from mtl_perception.training.data.training_set import TrainingSet

CAMERA_HEIGHT = 1.65
"""Height of KITTI's camera above the road, m."""
HEIGHTS = {"person": (1.5, 1.9), "cyclist": (1.5, 1.9)}
"""Smallest and largest height, m."""
SHAPES = {"person": (1.4, 5.0), "cyclist": (0.5, 3.0)}
"""Smallest and largest ratio of height to width of a single person or cyclist; others are groups or parts."""
GROUND = ("road", "sidewalk", "terrain")
MIN_PIXELS = 500
MIN_HEIGHT, MAX_HEIGHT = 16, 0.9
"""Pasted height: smallest in pixels, largest as a share of the image height."""
MAX_COUNT = 3
MAX_CUT_OUTS = 1024
"""Cut-out instances that a worker keeps in memory: decoding the image of one takes longer than pasting it."""
BRIGHTNESS = (0.35, 1.15)
"""Range of the brightness factor: many people stand in the shade, few of those that are cut out do."""


@dataclass(frozen=True)
class Instance:
    """A person or cyclist in a labeled image.

    Attributes:
        entry: Index of the training set.
        index: Index of the sample in it.
        label: Class id.
        box: x, y, width, height in the image, pixels.
        component: Number of the connected component of that class.
    """

    entry: int
    index: int
    label: int
    box: tuple[int, int, int, int]
    component: int


class Paster:
    """Finds complete people and cyclists in the labeled samples once, and pastes some of them into training samples.

    Args:
        sets: Training sets.
        classes: Class set of the run.

    Raises:
        ConfigError: No image shows a complete person or cyclist.
    """

    def __init__(self, sets: Sequence[TrainingSet], classes: ClassSet) -> None:
        self._sets = sets
        self._classes = classes
        self._cut_outs: dict[Instance, tuple[np.ndarray, np.ndarray]] = {}
        self._labels = {name: classes.names.index(name) for name in HEIGHTS if name in classes.names}
        self._ground = [classes.names.index(name) for name in GROUND if name in classes.names]
        found = [instance for number, entry in enumerate(sets) if entry.paste_source for instance in self._find(number, entry)]
        by_label = {label: [instance for instance in found if instance.label == label] for label in self._labels.values()}
        self.instances = {label: instances for label, instances in by_label.items() if instances}
        if not self.instances:
            raise ConfigError("augmentation.paste: no labeled image shows a complete person or cyclist; set it to 0")

    def __call__(self, sample: TrainingSample, camera: CameraModel, rng: np.random.Generator) -> TrainingSample:
        """Return the sample with up to MAX_COUNT pasted instances; unchanged if it shows no ground."""
        spots = np.argwhere(np.isin(sample.labels[::2, ::2], self._ground)) * 2
        spots = spots[spots[:, 0] > camera.cy + 10]
        if not len(spots):
            return sample
        sample = TrainingSample(*(array.copy() for array in vars(sample).values()))
        chosen = spots[rng.integers(len(spots), size=int(rng.integers(1, MAX_COUNT + 1)))]
        # Farther ones first, so that nearer ones occlude them.
        for row, column in chosen[np.argsort(chosen[:, 0])]:
            label = int(rng.choice(list(self.instances)))
            low, high = HEIGHTS[self._classes.names[label]]
            height = round(rng.uniform(low, high) / CAMERA_HEIGHT * (row - camera.cy))
            if not MIN_HEIGHT <= height <= MAX_HEIGHT * len(sample.labels):
                continue
            instance = self.instances[label][int(rng.integers(len(self.instances[label])))]
            colors, mask = self._cut_out(instance, height)
            colors = np.minimum(colors * np.float32(np.exp(rng.uniform(*np.log(BRIGHTNESS)))), 255)
            if rng.random() < 0.5:
                colors, mask = colors[:, ::-1], mask[:, ::-1]
            # The depth of the ground at the feet.
            _draw(sample, colors, mask, (row, column), label, camera.fy * CAMERA_HEIGHT / (row - camera.cy))
        return sample

    def _cut_out(self, instance: Instance, height: int) -> tuple[np.ndarray, np.ndarray]:
        """Return an instance at this height: h x w x 3 float32 colors and h x w float32 opacity, soft at the edge."""
        image, mask = self._load(instance)
        h, w = mask.shape
        size = (max(round(w * height / h), 1), height)
        method = cv2.INTER_AREA if height < h else cv2.INTER_LINEAR
        colors = cv2.resize(image.astype(np.float32), size, interpolation=method)
        return np.asarray(colors), np.clip(cv2.resize(mask.astype(np.float32), size, interpolation=method), 0, 1)

    def _load(self, instance: Instance) -> tuple[np.ndarray, np.ndarray]:
        """Return the box of an instance: h x w x 3 uint8 colors and h x w bool mask."""
        if instance in self._cut_outs:
            return self._cut_outs[instance]
        sample = self._sets[instance.entry].dataset[instance.index]
        assert sample.labels is not None, "only labeled samples have instances"
        x, y, w, h = instance.box
        components = cv2.connectedComponents((sample.labels == instance.label).astype(np.uint8))[1]
        found = sample.frame.image[y : y + h, x : x + w].copy(), components[y : y + h, x : x + w] == instance.component
        if len(self._cut_outs) < MAX_CUT_OUTS:
            self._cut_outs[instance] = found
        return found

    def _find(self, number: int, entry: TrainingSet) -> list[Instance]:
        labeled = [index for index in range(len(entry.dataset)) if entry.dataset.has_labels(index)]
        # OpenCV decodes without holding Python's lock.
        with ThreadPoolExecutor() as pool:
            return [instance for found in pool.map(partial(self._find_in, number, entry), labeled) for instance in found]

    def _find_in(self, number: int, entry: TrainingSet, index: int) -> list[Instance]:
        found: list[Instance] = []
        labels = entry.dataset[index].labels
        assert labels is not None
        for name, label in self._labels.items():
            mask = (labels == label).astype(np.uint8)
            if int(mask.sum()) < MIN_PIXELS:
                continue
            count, _, boxes, _ = cv2.connectedComponentsWithStats(mask)
            for component in range(1, count):
                x, y, w, h, area = (int(value) for value in boxes[component])
                complete = x > 0 and y > 0 and x + w < labels.shape[1] and y + h < labels.shape[0]
                low, high = SHAPES[name]
                if complete and area >= MIN_PIXELS and low <= h / w <= high and area > 0.3 * w * h:
                    found.append(Instance(number, index, label, (x, y, w, h), component))
        return found


def _draw(
    sample: TrainingSample, colors: np.ndarray, mask: np.ndarray, feet: tuple[int, int], label: int, depth: float
) -> None:
    """Draw a cut-out into a sample, in place; the part outside the image is left out.

    Args:
        sample: The sample.
        colors: h x w x 3 float32.
        mask: h x w float32 opacity.
        feet: Row and column of the middle of its last row.
        label: Its class id.
        depth: Its depth, m. Real ground is not quite flat, so it counts as pseudo-labeled.
    """
    height, width = mask.shape
    top, left = feet[0] - height + 1, feet[1] - width // 2
    inside = np.s_[max(top, 0) : top + height, max(left, 0) : left + width]
    rows, columns = sample.labels[inside].shape
    visible = np.s_[max(-top, 0) :, max(-left, 0) :]
    colors, mask = colors[visible][:rows, :columns], mask[visible][:rows, :columns]
    alpha, opaque = mask[..., None], mask > 0.5
    sample.image[inside] = np.rint(sample.image[inside] * (1 - alpha) + colors * alpha).astype(np.uint8)
    sample.labels[inside][opaque] = label
    sample.depth[inside][opaque] = depth
    sample.pseudo[inside][opaque] = PSEUDO_DEPTH
