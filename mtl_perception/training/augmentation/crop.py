"""Random crops whose depth stays metric.

An image scaled by s looks like one of a camera with s times the focal length, or of a scene s times closer: a network cannot
distinguish the two. So depth is learned at one focal length (`DepthTarget.focal_length`), and the depth of each crop is scaled
to it by the ratio of the focal lengths (Facil et al., CVPR 2019; the canonical camera of Yin et al., ICCV 2023).
"""

from __future__ import annotations

import math
from dataclasses import replace

import cv2
import numpy as np

from mtl_perception.camera.model import CameraModel
from mtl_perception.labels import ClassSet
from mtl_perception.training.augmentation.sample import TrainingSample
from mtl_perception.training.augmentation.style import StyleMixer
from mtl_perception.training.config import Augmentation, TrainConfig


class Augmenter:
    """Random crops of training samples.

    Args:
        config: The run.
        classes: Its class set.
    """

    def __init__(self, config: TrainConfig, classes: ClassSet) -> None:
        self._config = config
        self._options = config.augmentation
        self._mix_style = StyleMixer(self._options.style) if self._options.style else None
        self._rare = [classes.names.index(name) for name in self._options.rare_classes if name in classes.names]

    def __call__(
        self, sample: TrainingSample, camera: CameraModel, rng: np.random.Generator, late: bool = False
    ) -> TrainingSample:
        """Return a crop of the size that the run uses, its depth scaled to the focal length of the run.

        Args:
            sample: Whole image.
            camera: Its camera.
            rng: Source of all randomness.
            late: Use the focal lengths of the last part of the run.
        """
        width, height = self._config.crop
        low, high = (late and self._options.late_focal_length) or self._options.focal_length
        focal_length = math.exp(rng.uniform(math.log(low), math.log(high)))
        scale = focal_length / camera.fx
        scale = max(scale, width / sample.image.shape[1], height / sample.image.shape[0])
        whole = resize(sample, scale)
        x, y = self._place(whole.labels, width, height, rng)
        crop = window(whole, x, y, width, height)
        depth = crop.depth * np.float32(self._config.depth.focal_length / (camera.fx * scale))
        crop = replace(crop, depth=depth, image=self._change_colors(crop.image, rng))
        return flip(crop) if rng.random() < self._options.flip else crop

    def _place(self, labels: np.ndarray, width: int, height: int, rng: np.random.Generator) -> tuple[int, int]:
        """Return the first pixel of the crop: anywhere, or so that the crop contains a pixel of a rare class."""
        room = (labels.shape[1] - width, labels.shape[0] - height)
        anywhere = int(rng.integers(0, room[0] + 1)), int(rng.integers(0, room[1] + 1))
        if rng.random() >= self._options.rare:
            return anywhere
        present = [number for number in self._rare if (labels[::2, ::2] == number).any()]
        if not present:
            return anywhere
        # The rarest classes come first, so each is taken with a probability of two thirds.
        number = next((n for n in present if rng.random() < 2 / 3), present[0])
        rows, columns = np.nonzero(labels[::2, ::2] == number)
        pixel = rng.integers(len(rows))
        x = 2 * columns[pixel] - rng.uniform(0.1, 0.9) * width
        y = 2 * rows[pixel] - rng.uniform(0.1, 0.9) * height
        return int(np.clip(x, 0, room[0])), int(np.clip(y, 0, room[1]))

    def _change_colors(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if self._mix_style is not None and rng.random() < self._options.style_share:
            image = self._mix_style(image, rng)
        if self._options.color > 0:
            image = cv2.LUT(np.ascontiguousarray(image), _tone_curves(self._options, rng))
            if rng.random() < 0.2:
                gray = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
                image = cv2.addWeighted(image, w := float(rng.uniform(0, 1)), gray, 1 - w, 0)
        if rng.random() < self._options.blur:
            if rng.random() < 0.5:
                return np.asarray(cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.4, 1.4))))
            noise = rng.normal(0, rng.uniform(2, 10), image.shape).astype(np.float32)
            return np.clip(image + noise, 0, 255).astype(np.uint8)
        return np.asarray(image)


def _tone_curves(options: Augmentation, rng: np.random.Generator) -> np.ndarray:
    """Return a random tone curve per channel: 1 x 256 x 3 uint8."""
    strength = options.color
    gain = 1 + strength * (rng.uniform(-0.2, 0.2, 3) + rng.uniform(-0.2, 0.2))
    offset = strength * rng.uniform(-20, 20)
    gamma = math.exp(strength * rng.uniform(-0.3, 0.3))
    tone = 255 * (np.arange(256)[:, None] / 255) ** gamma
    return np.clip(tone * gain + offset, 0, 255).astype(np.uint8)[None]


def resize(sample: TrainingSample, scale: float) -> TrainingSample:
    """Scale a sample: interpolate colors, take labels and depth from the nearest pixel."""
    height, width = sample.image.shape[:2]
    size = (math.ceil(width * scale - 1e-6), math.ceil(height * scale - 1e-6))
    if size == (width, height):
        return sample

    def nearest(values: np.ndarray) -> np.ndarray:
        return np.asarray(cv2.resize(values, size, interpolation=cv2.INTER_NEAREST_EXACT))

    image = cv2.resize(sample.image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    return TrainingSample(np.asarray(image), nearest(sample.labels), nearest(sample.depth), nearest(sample.pseudo))


def window(sample: TrainingSample, x: int, y: int, width: int, height: int) -> TrainingSample:
    """Return the part of a sample whose first pixel is (x, y)."""
    part = np.s_[y : y + height, x : x + width]
    return TrainingSample(sample.image[part], sample.labels[part], sample.depth[part], sample.pseudo[part])


def flip(sample: TrainingSample) -> TrainingSample:
    """Flip a sample horizontally. Depth along the optical axis does not change."""
    return TrainingSample(sample.image[:, ::-1], sample.labels[:, ::-1], sample.depth[:, ::-1], sample.pseudo[:, ::-1])
