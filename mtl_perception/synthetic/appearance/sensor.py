"""Effects of lens and sensor on an image."""

from __future__ import annotations

import cv2
import numpy as np


def lens_effects(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Apply random blur, saturation, contrast and vignetting to an H x W x 3 uint8 image."""
    height, width = image.shape[:2]
    values: np.ndarray = image.astype(np.float32)
    if rng.random() < 0.6:
        values = cv2.GaussianBlur(values, (0, 0), rng.uniform(0.3, 0.9) * max(1.0, width / 900))
    gray = values.mean(axis=2, keepdims=True)
    values = gray + (values - gray) * np.float32(rng.uniform(0.6, 1.2))
    values = (values - 118) * np.float32(rng.uniform(0.85, 1.15)) + 118
    if rng.random() < 0.4:
        v, u = np.mgrid[:height, :width].astype(np.float32)
        off = ((u / width - 0.5) ** 2 + (v / height - 0.5) ** 2) * 2
        values *= 1 - np.float32(rng.uniform(0, 0.35)) * off[..., None]
    return np.asarray(np.clip(values + 0.5, 0, 255).astype(np.uint8))
