"""Effects of lens and sensor on an image."""

from __future__ import annotations

import cv2
import numpy as np


def lens_effects(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Apply random blur, saturation, contrast, vignetting, flare, rain drops and JPEG artifacts to an H x W x 3 uint8 image."""
    height, width = image.shape[:2]
    values: np.ndarray = image.astype(np.float32)
    if rng.random() < 0.6:
        values = cv2.GaussianBlur(values, (0, 0), rng.uniform(0.3, 0.9) * max(1.0, width / 900))
    gray = values.mean(axis=2, keepdims=True)
    values = gray + (values - gray) * np.float32(rng.uniform(0.5, 1.4))
    # High contrast clips bright skies to white and shadows to black, as cameras without high dynamic range do.
    values = (values - 118) * np.float32(np.exp(rng.uniform(-0.2, 0.5))) + np.float32(118 + rng.normal(0, 8))
    v, u = np.mgrid[:height, :width].astype(np.float32)
    if rng.random() < 0.4:
        off = ((u / width - 0.5) ** 2 + (v / height - 0.5) ** 2) * 2
        values *= 1 - np.float32(rng.uniform(0, 0.35)) * off[..., None]
    if rng.random() < 0.12:
        values = values + _flare(rng, u / width, v / width)[..., None] * rng.uniform((200, 160, 120), (255, 255, 255))
    if rng.random() < 0.06:
        values = _rain_drops(rng, values)
    pixels: np.ndarray = np.clip(values + 0.5, 0, 255).astype(np.uint8)
    if rng.random() < 0.3:
        # The codec takes the channels in the order that it is given, so RGB and BGR differ only in how chroma is weighed.
        _, data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(35, 96))])
        pixels = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR))
    return np.asarray(pixels)


def _flare(rng: np.random.Generator, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Return the veil of a light source near the top of the image and its ghosts, 0..1; u and v are in image widths."""
    x, y = rng.uniform(-0.1, 1.1), rng.uniform(-0.1, 0.1)
    veil = rng.uniform(0.15, 0.6) * np.exp(-np.hypot(u - x, v - y) / rng.uniform(0.1, 0.5))
    middle = (0.5, float(v.max()) / 2)
    for _ in range(int(rng.integers(0, 4))):
        along, size = rng.uniform(0.3, 1.8), rng.uniform(0.005, 0.04)
        distance = np.hypot(u - x - along * (middle[0] - x), v - y - along * (middle[1] - y))
        veil = veil + rng.uniform(0.02, 0.12) * np.clip((size - distance) / (0.3 * size), 0, 1)
    return np.asarray(veil, np.float32)


def _rain_drops(rng: np.random.Generator, values: np.ndarray) -> np.ndarray:
    """Return the image seen through a windshield with drops, which blur and darken what is behind them."""
    height, width = values.shape[:2]
    mask: np.ndarray = np.zeros((height, width), np.float32)
    for _ in range(int(rng.integers(5, 40))):
        center = (int(rng.integers(width)), int(rng.integers(height)))
        radius = rng.uniform(0.004, 0.015) * width
        axes = (max(1, int(radius)), max(1, int(radius * rng.uniform(1.0, 1.8))))
        cv2.ellipse(mask, center, axes, 0, 0, 360, float(rng.uniform(0.4, 0.9)), -1)
    mask = cv2.GaussianBlur(mask, (0, 0), 0.002 * width + 0.5)[..., None]
    behind = cv2.GaussianBlur(values, (0, 0), 0.012 * width) * np.float32(rng.uniform(0.75, 1.05))
    return np.asarray(values + (behind - values) * mask)
