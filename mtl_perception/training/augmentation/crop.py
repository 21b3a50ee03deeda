"""Varying pictures without lying about geometry: what is done to a picture is done to its camera and so to metric depth.

A picture enlarged by s looks as if taken by a camera of s times the focal length, or as if all were nearer by s: a network
cannot tell which. So depth is learned for one focal length (`DepthTarget.focal_length`), and each crop's depths are brought to
it by the ratio of the focal lengths (Facil et al., CVPR 2019; Yin et al., ICCV 2023 call it the canonical camera).
"""

from __future__ import annotations

import math
from dataclasses import replace

import cv2
import numpy as np

from mtl_perception.camera.model import CameraModel
from mtl_perception.labels import ClassSet
from mtl_perception.training.augmentation.sample import Example
from mtl_perception.training.config import Augmentation, TrainConfig


class Augmenter:
    """Random crops of examples.

    Args:
        config: The run.
        classes: Its class set.
    """

    def __init__(self, config: TrainConfig, classes: ClassSet) -> None:
        self._config = config
        self._how = config.augmentation
        self._rare = [classes.names.index(name) for name in self._how.rare_classes if name in classes.names]

    def __call__(self, example: Example, camera: CameraModel, rng: np.random.Generator, late: bool = False) -> Example:
        """A crop of the run's size, its depth for the run's focal length.

        Args:
            example: What `merged` gives.
            camera: Of its picture.
            rng: Decides everything.
            late: Use the focal lengths of the last part of the run.
        """
        width, height = self._config.crop
        low, high = (late and self._how.late_focal_length) or self._how.focal_length
        focal_length = math.exp(rng.uniform(math.log(low), math.log(high)))
        scale = focal_length / camera.fx
        scale = max(scale, width / example.image.shape[1], height / example.image.shape[0])
        # A picture is enlarged only so far as the crop needs: more pixels without more to see teach little.
        whole = resized(example, scale)
        x, y = self._place(whole.labels, width, height, rng)
        crop = window(whole, x, y, width, height)
        depth = crop.depth * np.float32(self._config.depth.focal_length / (camera.fx * scale))
        crop = replace(crop, depth=depth, image=self._colored(crop.image, rng))
        return mirrored(crop) if rng.random() < self._how.flip else crop

    def _place(self, labels: np.ndarray, width: int, height: int, rng: np.random.Generator) -> tuple[int, int]:
        """First pixel of the crop: anywhere, or so that a pixel of a rare class lies somewhere in it."""
        room = (labels.shape[1] - width, labels.shape[0] - height)
        anywhere = int(rng.integers(0, room[0] + 1)), int(rng.integers(0, room[1] + 1))
        if rng.random() >= self._how.rare:
            return anywhere
        present = [number for number in self._rare if (labels[::2, ::2] == number).any()]
        if not present:
            return anywhere
        # The first ones are rarer: each is passed over with a chance of one in three.
        number = next((n for n in present if rng.random() < 2 / 3), present[0])
        rows, columns = np.nonzero(labels[::2, ::2] == number)
        pixel = rng.integers(len(rows))
        x = 2 * columns[pixel] - rng.uniform(0.1, 0.9) * width
        y = 2 * rows[pixel] - rng.uniform(0.1, 0.9) * height
        return int(np.clip(x, 0, room[0])), int(np.clip(y, 0, room[1]))

    def _colored(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if self._how.color > 0:
            image = cv2.LUT(np.ascontiguousarray(image), _curves(self._how, rng))
            if rng.random() < 0.2:
                gray = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
                image = cv2.addWeighted(image, w := float(rng.uniform(0, 1)), gray, 1 - w, 0)
        if rng.random() < self._how.blur:
            if rng.random() < 0.5:
                return np.asarray(cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.4, 1.4))))
            noise = rng.normal(0, rng.uniform(2, 10), image.shape).astype(np.float32)
            return np.clip(image + noise, 0, 255).astype(np.uint8)
        return np.asarray(image)


def _curves(how: Augmentation, rng: np.random.Generator) -> np.ndarray:
    """A tone curve for each channel: 1 x 256 x 3 uint8."""
    strength = how.color
    gain = 1 + strength * (rng.uniform(-0.2, 0.2, 3) + rng.uniform(-0.2, 0.2))
    offset = strength * rng.uniform(-20, 20)
    gamma = math.exp(strength * rng.uniform(-0.3, 0.3))
    tone = 255 * (np.arange(256)[:, None] / 255) ** gamma
    return np.clip(tone * gain + offset, 0, 255).astype(np.uint8)[None]


def resized(example: Example, scale: float) -> Example:
    """The example at another size: colors averaged, labels and depths taken from the nearest pixel, never mixed."""
    height, width = example.image.shape[:2]
    size = (math.ceil(width * scale - 1e-6), math.ceil(height * scale - 1e-6))
    if size == (width, height):
        return example

    def nearest(values: np.ndarray) -> np.ndarray:
        return np.asarray(cv2.resize(values, size, interpolation=cv2.INTER_NEAREST_EXACT))

    image = cv2.resize(example.image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    return Example(np.asarray(image), nearest(example.labels), nearest(example.depth), nearest(example.taught))


def window(example: Example, x: int, y: int, width: int, height: int) -> Example:
    """The part of the example whose first pixel is (x, y)."""
    part = np.s_[y : y + height, x : x + width]
    return Example(example.image[part], example.labels[part], example.depth[part], example.taught[part])


def mirrored(example: Example) -> Example:
    """Left for right. The depths of a level camera stay."""
    return Example(example.image[:, ::-1], example.labels[:, ::-1], example.depth[:, ::-1], example.taught[:, ::-1])
