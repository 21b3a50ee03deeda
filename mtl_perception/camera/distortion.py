"""Lens distortion and its inverse."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np

from mtl_perception.threads import available_cores

# The numbers of coefficients that OpenCV's polynomial accepts. Drivers and users confuse its two names; image_geometry treats
# both alike and passes all coefficients to OpenCV.
_POLYNOMIAL = (4, 5, 8, 12, 14)
# Number of OpenCV's coefficients by the ROS name of the model; "" and "none" mean no distortion.
DISTORTION_MODELS = {"plumb_bob": _POLYNOMIAL, "rational_polynomial": _POLYNOMIAL, "equidistant": (4,), "fisheye": (4,)}
FISHEYE_MODELS = ("equidistant", "fisheye")
ALIASES = {
    "radtan": "plumb_bob",
    "brown_conrady": "plumb_bob",
    "kannala_brandt": "equidistant",
    "kannala_brandt4": "equidistant",
}
"""Names of the same models in Kalibr, RealSense's SDK and Foxglove, which drivers copy into CameraInfo."""
CRITERIA = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 20, 1e-12)
UNTILTED = 12
"""Number of coefficients without those of a tilted sensor."""
BLOCK_PIXELS = 2**15
"""Pixels whose rays are computed at a time."""
NEWTON_STEPS = 6
NEWTON_REACH = 20.0
"""Largest error that Newton's method corrects, pixels; with a larger one OpenCV's iteration has diverged."""
TOLERANCE = 1e-3
"""Largest round-trip error of undistorting and distorting a pixel, pixels; beyond it the model has no inverse there."""


def standard_model(name: str) -> str:
    """Return the ROS name of a distortion model, for aliases and other spellings, such as `Plumb Bob`; others unchanged."""
    spelled = name.lower().replace(" ", "_").replace("-", "_")
    found = ALIASES.get(spelled, spelled)
    return found if found in DISTORTION_MODELS else name


def is_distorted(model: str, coefficients: tuple[float, ...]) -> bool:
    """Return whether images are distorted; fisheye images are even if all coefficients are 0."""
    return model in FISHEYE_MODELS or (model not in ("", "none") and any(coefficients))


def trim_coefficients(model: str, coefficients: tuple[float, ...]) -> tuple[float, ...]:
    """Return the coefficients without surplus zeros, which some drivers send: Orbbec eight, RealSense T265 five."""
    for count in sorted(DISTORTION_MODELS.get(model, ()), reverse=True):
        if len(coefficients) >= count:
            return coefficients if any(coefficients[count:]) else coefficients[:count]
    return coefficients


@dataclass(frozen=True)
class Distortion:
    """Lens model between rays, given by their slopes X / Z and Y / Z, and pixels.

    Attributes:
        model: One of DISTORTION_MODELS.
        matrix: 3 x 3 float64, K.
        coefficients: In OpenCV's order.
    """

    model: str
    matrix: np.ndarray
    coefficients: np.ndarray

    def distort(self, slopes: np.ndarray) -> np.ndarray:
        """Convert rays to pixels (u, v): N x 2 float64 to N x 2 float64."""
        if self.model in FISHEYE_MODELS:
            pixels = cv2.fisheye.distortPoints(np.ascontiguousarray(slopes[:, None]), self.matrix, self.coefficients)
        elif len(self.coefficients) <= UNTILTED:
            pixels = self._distort_polynomial(slopes)
        else:
            points = np.concatenate([slopes, np.ones((len(slopes), 1))], axis=1)
            pixels = cv2.projectPoints(points, np.zeros(3), np.zeros(3), self.matrix, self.coefficients)[0]
        return np.asarray(pixels).reshape(-1, 2)

    def _distort_polynomial(self, slopes: np.ndarray) -> np.ndarray:
        """Apply OpenCV's camera model (calib3d) without a tilted sensor; projectPoints takes ten times as long."""
        padded = np.zeros(UNTILTED)
        padded[: len(self.coefficients)] = self.coefficients
        k1, k2, p1, p2, k3, k4, k5, k6, s1, s2, s3, s4 = padded.tolist()
        x, y = np.ascontiguousarray(slopes.T)
        # Steep rays may overflow; they have no inverse.
        with np.errstate(all="ignore"):
            r2 = x * x + y * y
            radial = 1 + r2 * (k1 + r2 * (k2 + r2 * k3))
            if k4 or k5 or k6:
                radial /= 1 + r2 * (k4 + r2 * (k5 + r2 * k6))
            u = x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x) + r2 * (s1 + r2 * s2)
            v = y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y + r2 * (s3 + r2 * s4)
            return np.stack([self.matrix[0, 0] * u + self.matrix[0, 2], self.matrix[1, 1] * v + self.matrix[1, 2]], axis=-1)

    def rays(self, columns: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Compute the rays of the pixels in these columns and rows: rows x columns x 2 float32; NaN without an inverse.

        Blocks of rows are computed in parallel, because the intermediate results take twenty times the memory of the rays.
        """
        rays = np.empty((len(rows), len(columns), 2), np.float32)
        step = max(BLOCK_PIXELS // len(columns), 1)

        def solve(first: int) -> float:
            block = rays[first : first + step]
            pixels = np.stack(np.meshgrid(columns, rows[first : first + step]), axis=-1).reshape(-1, 2)
            slopes = self._refined(self._iterated(pixels), pixels)
            steepest = float(np.hypot(*slopes[np.isfinite(slopes).all(axis=1)].T).max(initial=0))
            slopes[~(np.abs(self.distort(slopes) - pixels).max(axis=1) <= TOLERANCE)] = np.nan
            block[:] = slopes.reshape(block.shape)
            return steepest

        blocks = range(0, len(rows), step)
        with ThreadPoolExecutor(min(len(blocks), available_cores())) as pool:
            fold = self._fold(max(pool.map(solve, blocks)))
        if fold < math.inf:
            for first in blocks:
                block = rays[first : first + step]
                block[np.hypot(block[..., 0], block[..., 1]) > fold] = np.nan
        return rays

    def _iterated(self, pixels: np.ndarray) -> np.ndarray:
        """Run OpenCV's iteration: exact for fisheye models, otherwise an estimate that may be far off in wide images."""
        points = np.ascontiguousarray(pixels[:, None])
        # OpenCV 4 has a separate function that accepts the number of iterations.
        iterate = getattr(cv2, "undistortPointsIter", None)
        if self.model in FISHEYE_MODELS:
            # The default number of iterations of Newton's method is sufficient; OpenCV 4.5 accepts no other.
            slopes = cv2.fisheye.undistortPoints(points, self.matrix, self.coefficients)
        elif iterate is not None:
            slopes = iterate(points, self.matrix, self.coefficients, None, None, CRITERIA)
        else:
            slopes = cv2.undistortPoints(points, self.matrix, self.coefficients, criteria=CRITERIA)
        return np.array(slopes).reshape(-1, 2)

    def _refined(self, slopes: np.ndarray, pixels: np.ndarray) -> np.ndarray:
        """Refine the rays with Newton's method, because OpenCV's iteration converges slowly for strong distortion."""
        step = 1e-7
        # Rays without an inverse diverge; the caller detects them by their error.
        with np.errstate(all="ignore"):
            for _ in range(NEWTON_STEPS):
                at = self.distort(slopes)
                error = np.abs(at - pixels).max(axis=1)
                (rough,) = np.nonzero((error > TOLERANCE / 10) & (error < NEWTON_REACH))
                if not rough.size:
                    break
                start, here = slopes[rough], at[rough]
                a, c = ((self.distort(start + (step, 0)) - here) / step).T
                b, d = ((self.distort(start + (0, step)) - here) / step).T
                u, v = (pixels[rough] - here).T
                slopes[rough] += np.stack([d * u - b * v, a * v - c * u], axis=-1) / (a * d - b * c)[:, None]
        return slopes

    def _fold(self, steepest: float) -> float:
        """Return the slope at which the model folds back; steeper rays share their pixel with another ray."""
        along = np.tan(np.linspace(0, math.atan(steepest), 4096))
        u = self.distort(np.stack([along, 0 * along], axis=-1))[:, 0]
        folds = np.flatnonzero(np.diff(u) <= 0)
        return float(along[folds[0]]) if folds.size else math.inf
