"""Pinhole camera models and calibrations, with scaling, cropping and binning."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from mtl_perception.camera.distortion import (
    DISTORTION_MODELS,
    FISHEYE_MODELS,
    Distortion,
    is_distorted,
    standard_model,
    trim_coefficients,
)
from mtl_perception.errors import CameraError, truncated_repr

MAX_SIDE = 2**32 - 1
"""Largest image side that CameraInfo can represent, pixels."""
LARGEST = 1e12
"""Limit of calibration values; larger ones could become infinite when scaled."""
STEEPEST = 1e6
"""Limit of a ray's slope; points along steeper rays could be infinite in float32."""
WIDEST = 100.0
"""Limit of width / fx and of height / fy of a calibration, a field of view of 177 degrees: beyond it, focal lengths are
placeholders or not in pixels."""
USING_P = "K in camera_info is 0; using P"
"""Remark on a calibration that lacks K."""
CENTRAL = (0.4, 0.6)
"""Range of the principal point, as fractions of width and height, in which intrinsics may belong to the image size."""
IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


@dataclass(frozen=True)
class CameraModel:
    """Camera model for images of `width` x `height` pixels.

    Attributes:
        width: Image width, pixels.
        height: Image height, pixels.
        fx: Focal length along u, pixels.
        fy: Focal length along v, pixels.
        cx: Principal point along u, pixels; the center of the first pixel is 0.
        cy: Principal point along v, pixels.
        distortion_model: ROS name of the distortion model; "" for rectified images.
        distortion: Distortion coefficients in OpenCV's order.
        calibration: Calibration that the model was made from, to publish it again; None for plain intrinsics.

    Raises:
        CameraError: Sizes or intrinsics are not positive and finite, or the distortion model is unknown.
    """

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    distortion_model: str = ""
    distortion: tuple[float, ...] = ()
    calibration: Calibration | None = None

    def __post_init__(self) -> None:
        if not (1 <= self.width <= MAX_SIDE and 1 <= self.height <= MAX_SIDE):
            raise CameraError(f"camera: invalid image size {truncated_repr(self.width)}x{truncated_repr(self.height)}")
        intrinsics = f"fx {self.fx}, fy {self.fy}, cx {self.cx}, cy {self.cy}"
        if not all(math.isfinite(value) for value in (self.fx, self.fy, self.cx, self.cy, *self.distortion)):
            raise CameraError(
                f"camera: non-finite intrinsics: {intrinsics}, distortion {truncated_repr(list(self.distortion))}"
            )
        if not (self.fx > 0 and self.fy > 0):
            raise CameraError(f"camera: focal lengths must be above 0 pixels, not fx {self.fx}, fy {self.fy}")
        farthest = max((abs(self.cx) + self.width) / self.fx, (abs(self.cy) + self.height) / self.fy)
        if farthest > STEEPEST or max(self.fx, self.fy, abs(self.cx), abs(self.cy)) > LARGEST:
            raise CameraError(f"camera: implausible intrinsics for a {self.width}x{self.height} image: {intrinsics}")
        if self.distortion_model in ("", "none"):
            if any(self.distortion):
                raise CameraError(f"camera: distortion {truncated_repr(list(self.distortion))} without a distortion model")
        else:
            known = DISTORTION_MODELS.get(self.distortion_model)
            if known is None:
                raise CameraError(
                    f"camera: unknown distortion model {truncated_repr(self.distortion_model)} "
                    f"(known: {', '.join(DISTORTION_MODELS)})"
                )
            if self.distortion and len(self.distortion) not in known:
                raise CameraError(
                    f"camera: {self.distortion_model} has {' or '.join(map(str, known))} coefficients, "
                    f"not {len(self.distortion)}"
                )

    @property
    def is_distorted(self) -> bool:
        """Whether the images are distorted; fisheye images are even if all coefficients are 0."""
        return is_distorted(self.distortion_model, self.distortion)

    @property
    def size_mismatch(self) -> str:
        """Remark that the intrinsics do not seem to match the image size; empty if they do.

        Drivers that change the resolution but not K leave the principal point above and left of the center in a larger image,
        below and right of it in a smaller one. Regions of interest may have it anywhere.
        """
        u, v = self.cx / self.width, self.cy / self.height
        is_region = self.calibration is not None and self.calibration.is_region
        if is_region or not (max(u, v) < CENTRAL[0] or min(u, v) > CENTRAL[1]):
            return ""
        return (
            f"principal point ({self.cx:.1f}, {self.cy:.1f}) is far from the center of {self.width}x{self.height} pixels: "
            "K and P in camera_info do not seem to match this image size"
        )

    @property
    def matrix(self) -> np.ndarray:
        """The 3 x 3 float64 matrix K."""
        return np.array([[self.fx, 0, self.cx], [0, self.fy, self.cy], [0, 0, 1]], np.float64)

    @property
    def _lens(self) -> Distortion:
        return Distortion(self.distortion_model, self.matrix, np.array(self.distortion or (0.0,) * 4))

    @classmethod
    def from_intrinsics(cls, intrinsics: Mapping[str, float]) -> CameraModel:
        """Make a pinhole camera from a mapping with width, height, fx, fy, cx and cy."""
        fx, fy, cx, cy = (intrinsics[name] for name in ("fx", "fy", "cx", "cy"))
        return cls(int(intrinsics["width"]), int(intrinsics["height"]), fx, fy, cx, cy)

    def scaled(self, width: int, height: int) -> CameraModel:
        """Return the camera of the resized image: fx and cx scale with the width, fy and cy with the height."""
        if (width, height) == (self.width, self.height):
            return self
        x, y = width / self.width, height / self.height
        calibration = None if self.calibration is None else self.calibration.scaled(width, height)
        return replace(
            self,
            width=width,
            height=height,
            fx=self.fx * x,
            fy=self.fy * y,
            cx=self.cx * x,
            cy=self.cy * y,
            calibration=calibration,
        )

    def cropped(self, x: int, y: int, width: int, height: int) -> CameraModel:
        """Return the camera of the part of the image that starts at pixel (x, y)."""
        if x < 0 or y < 0 or x + width > self.width or y + height > self.height:
            raise CameraError(f"camera: crop {width}x{height} at ({x}, {y}) exceeds the image of {self.width}x{self.height}")
        calibration = None if self.calibration is None else self.calibration.cropped(x, y, width, height)
        return replace(self, width=width, height=height, cx=self.cx - x, cy=self.cy - y, calibration=calibration)

    def rays(self, stride: int = 1) -> np.ndarray:
        """Compute the undistorted direction of every pixel: X / Z and Y / Z.

        Args:
            stride: Step of the rows and columns, pixels; the first ones are always included.

        Returns:
            ceil(height / stride) x ceil(width / stride) x 2 float32; NaN where the distortion model has no inverse. The result
            is not cached.
        """
        u, v = (np.arange(0, side, stride, dtype=np.float64) for side in (self.width, self.height))
        if self.is_distorted:
            return self._lens.rays(u, v)
        rays = np.empty((len(v), len(u), 2), np.float32)
        rays[..., 0] = (u - self.cx) / self.fx
        rays[..., 1] = ((v - self.cy) / self.fy)[:, None]
        return rays

    def project(self, points: np.ndarray) -> np.ndarray:
        """Project points in the optical frame to pixels.

        Args:
            points: ... x 3, meters; Z > 0.

        Returns:
            ... x 2 float64 (u, v).
        """
        points = np.asarray(points, np.float64)
        slopes = points[..., :2] / points[..., 2:]
        if not self.is_distorted:
            return np.asarray(slopes * (self.fx, self.fy) + (self.cx, self.cy))
        pixels: np.ndarray = self._lens.distort(slopes.reshape(-1, 2)).reshape(slopes.shape)
        return pixels


@dataclass(frozen=True)
class Calibration:
    """Calibration in the terms of sensor_msgs/CameraInfo for images of `width` x `height` pixels.

    Attributes:
        width: Image width, pixels.
        height: Image height, pixels.
        k: Intrinsics of the raw image, 9 values in row-major order.
        d: Distortion coefficients.
        distortion_model: ROS name of the distortion model; other names of known models are replaced.
        r: Rectifying rotation, 9 values in row-major order.
        p: Projection of the rectified image, 12 values in row-major order.
        is_region: Whether images are a region of interest, so that the principal point need not be near their center.
    """

    width: int
    height: int
    k: tuple[float, ...]
    d: tuple[float, ...] = ()
    distortion_model: str = ""
    r: tuple[float, ...] = IDENTITY
    p: tuple[float, ...] = ()
    is_region: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "distortion_model", standard_model(self.distortion_model))
        if len(self.k) != 9 or len(self.r) != 9 or len(self.p) not in (0, 12):
            raise CameraError(f"camera: K, R, P have {len(self.k)}, {len(self.r)}, {len(self.p)} values, not 9, 9, 12")

    @classmethod
    def of(cls, camera: CameraModel) -> Calibration:
        """Return the calibration of a camera model, made from its intrinsics if it has none."""
        if camera.calibration is not None:
            return camera.calibration
        k = (camera.fx, 0.0, camera.cx, 0.0, camera.fy, camera.cy, 0.0, 0.0, 1.0)
        p = (camera.fx, 0.0, camera.cx, 0.0, 0.0, camera.fy, camera.cy, 0.0, 0.0, 0.0, 1.0, 0.0)
        model = camera.distortion_model or "plumb_bob"
        return cls(camera.width, camera.height, k, camera.distortion or (0.0,) * 5, model, IDENTITY, p)

    def camera(self, rectified: bool) -> CameraModel:
        """Return the camera model for the images.

        Args:
            rectified: Whether the images are rectified: use P (K if P has no focal length), also where K is empty; otherwise K
                and the distortion.

        Raises:
            CameraError: The camera is uncalibrated (K[0] is 0), or the values are implausible.
        """
        if self.lacks_k and rectified:
            # P describes the rectified images completely, and K[0] of 0 would mark the published camera_info as uncalibrated.
            return replace(self, k=(*self.p[0:3], *self.p[4:7], *self.p[8:11])).camera(rectified)
        if self.k[0] == 0:
            only_p = " and only P is set, which describes rectified images" if self.lacks_k else ""
            raise CameraError(f"camera is uncalibrated: K[0] is 0{only_p}; calibrate it to get a point cloud")
        if rectified:
            p = self.projection
            _check_focal_lengths(self, p[0], p[5], "P[0] and P[5]")
            return CameraModel(self.width, self.height, p[0], p[5], p[2], p[6], calibration=self)
        k = self.k
        _check_focal_lengths(self, k[0], k[4], "K[0] and K[4]")
        model, coefficients = self.distortion_model, trim_coefficients(self.distortion_model, self.d)
        if not any(coefficients) and model not in FISHEYE_MODELS:
            model, coefficients = "", ()
        return CameraModel(self.width, self.height, k[0], k[4], k[2], k[5], model, coefficients, calibration=self)

    @property
    def is_distorted(self) -> bool:
        """Whether the raw images are distorted."""
        return is_distorted(self.distortion_model, self.d)

    @property
    def lacks_k(self) -> bool:
        """Whether K has no focal lengths although P has: the camera_info of some drivers of rectified images."""
        return self.k[0] == self.k[4] == 0 and bool(self.p) and self.p[0] > 0 and self.p[5] > 0

    @property
    def projection(self) -> tuple[float, ...]:
        """P, or K with a column of zeros if P has no focal length, as some drivers of monocular cameras leave it."""
        if self.p and (self.p[0] or self.p[5]):
            return self.p
        return (*self.k[0:3], 0.0, *self.k[3:6], 0.0, *self.k[6:9], 0.0)

    def scaled(self, width: int, height: int) -> Calibration:
        """Return the calibration of the resized image: first rows of K and P scale with the width, second with the height."""
        x, y = width / self.width, height / self.height
        return replace(self, width=width, height=height, k=_scale_rows(self.k, x, y, 3), p=_scale_rows(self.p, x, y, 4))

    def cropped(self, x: int, y: int, width: int, height: int) -> Calibration:
        """Return the calibration of the part of the image that starts at pixel (x, y)."""
        k, p = list(self.k), list(self.p)
        k[2], k[5] = k[2] - x, k[5] - y
        if p:
            p[2], p[6] = p[2] - x, p[6] - y
        return replace(self, width=width, height=height, k=tuple(k), p=tuple(p), is_region=True)

    def binned(self, x: int, y: int) -> Calibration:
        """Return the calibration of the image whose pixels are combined, `x` along a row and `y` along a column."""
        size = self.width // x, self.height // y
        if min(size) < 1:
            raise CameraError(f"camera_info's binning {x}x{y} exceeds the image size")
        # Divided by the integers, independent of the rounded size.
        k, p = _scale_rows(self.k, 1 / x, 1 / y, 3), _scale_rows(self.p, 1 / x, 1 / y, 4)
        return replace(self, width=size[0], height=size[1], k=k, p=p)

    def for_image(self, width: int, height: int) -> Calibration:
        """Return the calibration for a resized image of this size.

        Raises:
            CameraError: The aspect ratio differs by more than rounding, so the image is another crop.
        """
        if (width, height) == (self.width, self.height):
            return self
        # The size of a resized image is rounded, so either side may be off by half a pixel.
        if abs(self.height * width / self.width - height) > 1 and abs(self.width * height / self.height - width) > 1:
            raise CameraError(
                f"the calibration is for {self.width}x{self.height}, the image has {width}x{height}: "
                "the aspect ratios differ, so the intrinsics are unknown; provide a calibration for this image size"
            )
        return self.scaled(width, height)


def _scale_rows(matrix: tuple[float, ...], x: float, y: float, columns: int) -> tuple[float, ...]:
    factors = [x] * columns + [y] * columns + [1.0] * columns
    return tuple(value * factor for value, factor in zip(matrix, factors, strict=False))


def _check_focal_lengths(calibration: Calibration, fx: float, fy: float, entries: str) -> None:
    """Refuse focal lengths of a calibration that cannot be in pixels; `entries` names them."""
    if not (fx > 0 and fy > 0):
        raise CameraError(
            f"camera: focal lengths must be above 0 pixels, not fx {fx}, fy {fy} ({entries} of the row-major matrix)"
        )
    width, height = calibration.width, calibration.height
    if max(width / fx, height / fy) > WIDEST:
        raise CameraError(
            f"camera: implausible focal lengths for a {width}x{height} image: fx {fx}, fy {fy}, a field of view above 177 "
            "degrees; they must be in pixels (1 is a default of drivers without a calibration: calibrate the camera)"
        )
