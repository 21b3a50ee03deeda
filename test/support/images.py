"""Images for tests."""

from __future__ import annotations

import cv2
import numpy as np


def noise_image(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Return smooth random colors: H x W x 3 uint8, RGB."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (max(height // 12, 2), max(width // 12, 2), 3)).astype(np.float32)
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(smooth + rng.normal(0, 6, smooth.shape), 0, 255).astype(np.uint8)
