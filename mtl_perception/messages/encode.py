"""Results to message fields.

The node and `process` encode through the same functions and only fill their own message classes from the fields, which is why
live and offline outputs are the same bytes.
"""

from __future__ import annotations

import weakref
from typing import Any

import cv2
import numpy as np

from mtl_perception.camera.model import Calibration
from mtl_perception.labels import ClassSet
from mtl_perception.types import CLOUD_DTYPE, Outputs
from mtl_perception.visualization.colors import colorize_labels, overlay

Fields = dict[str, Any]
"""A message without its header: field names and values; arrays are C-contiguous, nested messages are Fields."""

_FLOAT32, _UINT32 = 7, 6  # Constants of sensor_msgs/PointField.
_POINT_FIELDS: list[Fields] = [
    # PCL's convention: rgb is three bytes in the bits of a float.
    {"name": name, "offset": offset, "datatype": _UINT32 if name == "label" else _FLOAT32, "count": 1}
    for name, (_, offset) in ((name, column[:2]) for name, column in (CLOUD_DTYPE.fields or {}).items())
]


class MessageEncoder:
    """Encodes results as message fields; each method serves one row of the table of output topics.

    A method returns None when the result lacks what its topic needs.

    Args:
        class_set: Classes with their colors.
        overlay_opacity: Weight of the class colors in the overlay, 0 to 1.
        min_confidence: Confidence below which pixels are unlabeled, 0 to 1: the threshold in LabelInfo.
    """

    def __init__(self, class_set: ClassSet, overlay_opacity: float = 0.5, min_confidence: float = 0.0) -> None:
        self.class_set = class_set
        self.overlay_opacity = overlay_opacity
        self.min_confidence = min_confidence
        palette = class_set.palette().astype(np.uint32)
        self._packed_palette = palette[:, 0] << 16 | palette[:, 1] << 8 | palette[:, 2]
        # A weak reference, because the image and the cloud of a result are large.
        self._colors_of: tuple[weakref.ref[Outputs] | None, np.ndarray] = (None, np.empty(0))

    def segmentation_image(self, result: Outputs) -> Fields | None:
        """Encode the class colors as bgr8."""
        return None if result.labels is None else image_fields(_bgr(self._colors(result, result.labels)), "bgr8")

    def segmentation_overlay(self, result: Outputs) -> Fields | None:
        """Encode the class colors blended over the image as bgr8."""
        if result.labels is None or result.image is None:
            return None
        colors = self._colors(result, result.labels)
        blended = overlay(result.image, result.labels, self.class_set, self.overlay_opacity, colors=colors)
        return image_fields(_bgr(blended), "bgr8")

    def segmentation_labels(self, result: Outputs) -> Fields | None:
        """Encode the class ids as mono8."""
        return None if result.labels is None else image_fields(result.labels, "mono8")

    def segmentation_confidence(self, result: Outputs) -> Fields | None:
        """Encode the softmax maximum as mono8."""
        return None if result.confidence is None else image_fields(result.confidence, "mono8")

    def segmentation_points(self, result: Outputs) -> Fields | None:
        """Encode the labeled cloud with the color of each point's class, black for unlabeled points.

        RViz colors points by `rgb` or by a rainbow over the range of a field, which cannot show the class colors.
        """
        if result.cloud is None:
            return None
        # As integers, because NumPy copies structured arrays field by field, which takes ten times as long.
        words = np.ascontiguousarray(result.cloud)[..., None].view(np.uint32).copy()
        rgb, label = (words[..., (CLOUD_DTYPE.names or ()).index(name)] for name in ("rgb", "label"))
        np.take(self._packed_palette, label, out=rgb, mode="clip")
        return cloud_fields(words.view(CLOUD_DTYPE)[..., 0])

    def label_info(self, result: Outputs | None = None) -> Fields:
        """Return the fields of a vision_msgs/LabelInfo with the classes by id; they depend on no result."""
        classes = [{"class_id": i, "class_name": name} for i, name in enumerate(self.class_set.names)]
        return {"class_map": classes, "threshold": self.min_confidence}

    def depth_image(self, result: Outputs) -> Fields | None:
        """Encode the depth in meters as 32FC1."""
        return None if result.depth is None else image_fields(result.depth, "32FC1")

    def depth_camera_info(self, result: Outputs) -> Fields | None:
        """Encode the camera of the depth image."""
        return None if result.camera is None else camera_info_fields(Calibration.of(result.camera))

    def points(self, result: Outputs) -> Fields | None:
        """Encode the labeled cloud."""
        return None if result.cloud is None else cloud_fields(result.cloud)

    def _colors(self, result: Outputs, labels: np.ndarray) -> np.ndarray:
        """Return the class colors of a result, computed once for all topics."""
        known, _ = self._colors_of
        if known is None or known() is not result:
            self._colors_of = (weakref.ref(result), colorize_labels(labels, self.class_set))
        return self._colors_of[1]


def image_fields(pixels: np.ndarray, encoding: str) -> Fields:
    """Return the fields of a sensor_msgs/Image without row padding.

    Args:
        pixels: H x W or H x W x C, of the encoding's type, little endian.
        encoding: ROS name of the encoding.
    """
    pixels = np.ascontiguousarray(pixels)
    height, width = pixels.shape[:2]
    return {
        "height": height,
        "width": width,
        "encoding": encoding,
        "is_bigendian": 0,
        "step": pixels.nbytes // height,
        "data": _as_bytes(pixels),
    }


def cloud_fields(cloud: np.ndarray) -> Fields:
    """Return the fields of an organized sensor_msgs/PointCloud2.

    Args:
        cloud: H x W array of types.CLOUD_DTYPE.
    """
    cloud = np.ascontiguousarray(cloud)
    height, width = cloud.shape
    return {
        "height": height,
        "width": width,
        "fields": _POINT_FIELDS,
        "is_bigendian": False,
        "point_step": CLOUD_DTYPE.itemsize,
        "row_step": CLOUD_DTYPE.itemsize * width,
        "data": _as_bytes(cloud),
        "is_dense": not bool(np.isnan(cloud["z"]).any()),
    }


def camera_info_fields(calibration: Calibration) -> Fields:
    """Return the fields of a sensor_msgs/CameraInfo; region of interest and binning are already applied to the intrinsics."""
    return {
        "height": calibration.height,
        "width": calibration.width,
        "distortion_model": calibration.distortion_model,
        "d": np.array(calibration.d, np.float64),
        "k": np.array(calibration.k, np.float64),
        "r": np.array(calibration.r, np.float64),
        "p": np.array(calibration.projection, np.float64),
        "binning_x": 0,
        "binning_y": 0,
        "roi": {"x_offset": 0, "y_offset": 0, "height": 0, "width": 0, "do_rectify": False},
    }


def _as_bytes(array: np.ndarray) -> np.ndarray:
    return array.reshape(-1).view(np.uint8)


def _bgr(rgb: np.ndarray) -> np.ndarray:
    return np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
