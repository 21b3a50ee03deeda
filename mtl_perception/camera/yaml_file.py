"""Calibrations as YAML: files of ROS camera_calibration, and CameraInfo messages printed by `ros2 topic echo`."""

from __future__ import annotations

import difflib
from typing import Any

import yaml

from mtl_perception.camera.camera_info import calibration_from_camera_info
from mtl_perception.camera.distortion import FISHEYE_MODELS, standard_model
from mtl_perception.camera.model import MAX_SIDE, Calibration
from mtl_perception.errors import CameraError, truncated_repr

# Keys that camera_calibration_parsers reads (parse_yml.cpp), and camera_model.
FILE_KEYS = (
    "image_width",
    "image_height",
    "camera_name",
    "camera_matrix",
    "camera_model",
    "distortion_model",
    "distortion_coefficients",
    "rectification_matrix",
    "projection_matrix",
)
SIMILARITY = 0.8
"""Similarity, 0 to 1, from which an unknown key counts as a misspelled one."""
Document = dict[Any, Any]


def parse_yaml(text: str) -> Calibration:
    """Return the calibration in a YAML text.

    Raises:
        CameraError: The text is no such YAML, a key is missing, misspelled or invalid, or it has different calibrations.
    """
    try:
        # `ros2 topic echo` separates messages by `---`, and writes one after the last message, too.
        documents = [document for document in yaml.safe_load_all(text) if document is not None]
    except (yaml.YAMLError, ValueError, RecursionError):
        # ValueError: an invalid date, or a number with too many digits.
        documents = []
    if not documents or not all(isinstance(document, dict) for document in documents):
        raise CameraError("neither ROS camera_calibration YAML nor KITTI's calib_cam_to_cam.txt or calib.txt")
    calibrations = {_from_message(document) if _is_message(document) else _from_file(document) for document in documents}
    if len(calibrations) > 1:
        raise CameraError(f"it has {len(calibrations)} different calibrations; keep the one to use")
    return calibrations.pop()


def _is_message(document: Document) -> bool:
    return "camera_matrix" not in document and ("k" in document or "K" in document)


def _from_message(document: Document) -> Calibration:
    """Read the fields of a CameraInfo; those of matrices are lower case in ROS 2 and upper case in ROS 1."""
    k, r, p = (_values(document, _present(document, name), count) for name, count in (("k", 9), ("r", 9), ("p", 12)))
    d = _values(document, _present(document, "d"))
    roi = document.get("roi") or {}
    if not isinstance(roi, dict):
        raise CameraError(f"roi is {truncated_repr(roi)}, not a mapping")
    x, y, width, height = (_count(roi, key) for key in ("x_offset", "y_offset", "width", "height"))
    return calibration_from_camera_info(
        _size(document, "width"),
        _size(document, "height"),
        k,
        d,
        _name(document, "distortion_model"),
        r,
        p,
        binning=(_count(document, "binning_x"), _count(document, "binning_y")),
        roi=(x, y, width, height),
    )


def _present(document: Document, name: str) -> str:
    return name if name in document or name.upper() not in document else name.upper()


def _from_file(document: Document) -> Calibration:
    _check_spelling(document)
    d = _data(document, "distortion_coefficients") if "distortion_coefficients" in document else None
    r = _data(document, "rectification_matrix", 9) if "rectification_matrix" in document else (0.0,) * 9
    p = _data(document, "projection_matrix", 12) if "projection_matrix" in document else ()
    width, height = _size(document, "image_width"), _size(document, "image_height")
    model = _distortion_model(document, d)
    return calibration_from_camera_info(width, height, _data(document, "camera_matrix", 9), d or (), model, r, p)


def _check_spelling(document: Document) -> None:
    missing = [key for key in FILE_KEYS if key not in document]
    for key in document:
        if key not in FILE_KEYS and (near := difflib.get_close_matches(str(key)[:100], missing, n=1, cutoff=SIMILARITY)):
            raise CameraError(f"unknown key {truncated_repr(key)}; did you mean {near[0]!r}?")


def _distortion_model(document: Document, coefficients: list[float] | None) -> str:
    """Return the distortion model, which must be present if and only if there are coefficients."""
    model, lens = _name(document, "distortion_model"), _name(document, "camera_model").lower()
    if lens and not model:
        # The fisheye calibrator of ROS 1 Melodic wrote this key instead. Its pinhole lenses have the model by the number
        # of coefficients (_get_dist_model in camera_calibration's calibrator.py).
        model = ("rational_polynomial" if len(coefficients or ()) > 5 else "plumb_bob") if lens == "pinhole" else lens
    elif lens and len({standard_model(name) in FISHEYE_MODELS for name in (lens, model)}) > 1:
        raise CameraError(f"camera_model {truncated_repr(lens)} contradicts distortion_model {truncated_repr(model)}")
    if coefficients and any(coefficients) and not model:
        raise CameraError("distortion_model is missing, but distortion_coefficients has values other than 0")
    if coefficients is None and model not in ("", "none"):
        raise CameraError(f"distortion_coefficients is missing, but the distortion model is {truncated_repr(model)}")
    return model or "plumb_bob"


def _name(document: Document, key: str) -> str:
    value = document.get(key, "")
    if not isinstance(value, str):
        raise CameraError(f"{key} is not a name")
    return value


def _size(document: Document, key: str) -> int:
    if key not in document:
        raise CameraError(f"{key} is missing")
    value = document[key]
    if type(value) is not int or not 1 <= value <= MAX_SIDE:
        raise CameraError(f"{key} is {truncated_repr(value)}, not a number of pixels")
    return value


def _count(document: Document, key: str) -> int:
    """Return a number of pixels that may be 0; 0 if it is absent."""
    return _size(document, key) if document.get(key) else 0


def _data(document: Document, key: str, count: int | None = None) -> list[float]:
    """Return the values of `KEY: {rows, cols, data: [...]}`."""
    block = document.get(key)
    if not isinstance(block, dict) or not isinstance(block.get("data"), list):
        raise CameraError(f"{key}.data is missing")
    return _numbers(block["data"], f"{key}.data", count)


def _values(document: Document, key: str, count: int | None = None) -> list[float]:
    """Return the values of `KEY: [...]`."""
    if not isinstance(document.get(key), list):
        raise CameraError(f"{key} is missing")
    return _numbers(document[key], key, count)


def _numbers(values: list[Any], key: str, count: int | None) -> list[float]:
    if count is not None and len(values) != count:
        raise CameraError(f"{key} has {len(values)} values, not {count}")
    try:
        # PyYAML parses 1e-3 (without a decimal point) as a string.
        return [float(value) for value in values]
    except (TypeError, ValueError, OverflowError):
        raise CameraError(f"{key} has non-numeric values") from None
