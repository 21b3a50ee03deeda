"""Style of real images for rendered ones: mixing of low-frequency amplitudes."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import cv2
import numpy as np

from mtl_perception.errors import ConfigError
from mtl_perception.image.files import read_image_file

SUFFIXES = (".jpg", ".jpeg", ".png")
MAX_WIDTH = 640
"""Width to which images are reduced: only their low frequencies matter."""
BAND = (0.004, 0.05)
"""Smallest and largest upper end of the mixed frequencies, cycles per pixel."""


class StyleMixer:
    """Gives images the amplitudes of images of a folder at low frequencies, and keeps their phases.

    Fourier domain adaptation (Yang and Soatto, CVPR 2020, arXiv 2004.05498): colors and illumination change, contents do not.
    Nothing but these amplitudes is taken from the folder.

    Args:
        folder: Folder of images, which need no labels.

    Raises:
        ConfigError: The folder has no images.
    """

    def __init__(self, folder: str) -> None:
        self._files = sorted(file for file in Path(folder).glob("*") if file.suffix.lower() in SUFFIXES)
        if not self._files:
            raise ConfigError(f"augmentation.style: {folder} has no images; give a folder of {', '.join(SUFFIXES)} files")

    @cached_property
    def _images(self) -> list[np.ndarray]:
        images = []
        for file in self._files:
            image = read_image_file(file)
            scale = min(1.0, MAX_WIDTH / image.shape[1])
            images.append(cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA))
        return images

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return an H x W x 3 uint8 image with amplitudes between its own and those of a random part of a random image."""
        height, width = image.shape[:2]
        whole = self._images[int(rng.integers(len(self._images)))]
        part = cv2.resize(_random_part(whole, width / height, rng), (width, height), interpolation=cv2.INTER_LINEAR)
        spectrum, other = (np.fft.rfft2(values.astype(np.float32), axes=(0, 1)) for values in (image, part))
        share, end = rng.uniform(0, 1), np.exp(rng.uniform(*np.log(BAND)))
        frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
        at = frequency <= end
        amplitude = np.abs(spectrum[at])
        spectrum[at] *= 1 + share * (np.abs(other[at]) / np.maximum(amplitude, 1e-6) - 1)
        mixed = np.fft.irfft2(spectrum, s=(height, width), axes=(0, 1))
        return np.asarray(np.clip(mixed + 0.5, 0, 255).astype(np.uint8))


def _random_part(image: np.ndarray, aspect: float, rng: np.random.Generator) -> np.ndarray:
    """Return a random part of an image with the aspect ratio width / height, at least half as wide or high as possible."""
    height, width = image.shape[:2]
    wide = min(width, height * aspect) * rng.uniform(0.5, 1)
    size = max(1, int(wide)), max(1, int(wide / aspect))
    x, y = (int(rng.integers(0, room + 1)) for room in (width - size[0], height - size[1]))
    return image[y : y + size[1], x : x + size[0]]
