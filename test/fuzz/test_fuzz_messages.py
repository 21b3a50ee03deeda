"""Fuzz tests of the decoding of Image, CompressedImage and CameraInfo."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.bad_input import container, damaged, near, numbers, sometimes, unsigned, words
from support.fuzzing import attempt, fuzz
from support.image_files import IMAGE_FILES

from mtl_perception.camera.model import Calibration
from mtl_perception.camera.projection import backproject
from mtl_perception.errors import CameraError, FrameError
from mtl_perception.messages.decode import decode_camera_info, decode_compressed_image, decode_image, stamp_ns
from mtl_perception.messages.encode import camera_info_fields
from mtl_perception.messages.encodings import PIXEL_LAYOUTS, SEMIPLANAR_LAYOUTS, SUPPORTED

UNSUPPORTED_ENCODINGS = ["32FC1", "8UC2", "mono16 ", "Rgb8", "bayer_rggb32", "yuv422_", "nv42", "rgb", "16SC1", "jpeg"]


def layout_of(encoding: str, width: int, height: int) -> tuple[int, int]:
    """Return the bytes of a row without padding, and the number of rows of `step` bytes."""
    if encoding in SEMIPLANAR_LAYOUTS:
        return width, SEMIPLANAR_LAYOUTS[encoding].rows(height)
    return width * PIXEL_LAYOUTS[encoding].channels * PIXEL_LAYOUTS[encoding].item_bytes, height


@st.composite
def image_fields(draw: Any) -> dict[str, Any]:
    encoding = draw(st.sampled_from(sorted(SUPPORTED)))
    width, height, padding = draw(st.tuples(st.integers(1, 20), st.integers(1, 20), st.sampled_from([0, 0, 1, 3, 64])))
    row_bytes, rows = layout_of(encoding, width, height)
    step = row_bytes + padding
    pixel = draw(st.binary(min_size=1, max_size=16))
    data = (pixel * (step * rows // len(pixel) + 1))[: step * rows]
    return {
        "header": header(),
        "height": height,
        "width": width,
        "encoding": encoding,
        "is_bigendian": draw(st.sampled_from([0, 1])),
        "step": step,
        "data": draw(container)(data),
    }


def header(sec: int = 1, nanosec: int = 2) -> SimpleNamespace:
    return SimpleNamespace(stamp=SimpleNamespace(sec=sec, nanosec=nanosec), frame_id="camera")


headers = st.builds(header, st.integers(-(2**31), 2**31 - 1), unsigned)
images = near(
    image_fields(),
    {
        "header": headers,
        "height": unsigned | st.integers(0, 40),
        "width": unsigned | st.integers(0, 40),
        "encoding": st.sampled_from([*UNSUPPORTED_ENCODINGS, *sorted(SUPPORTED)]) | words,
        "is_bigendian": st.integers(0, 255),
        "step": unsigned | st.integers(0, 200),
        "data": st.binary(max_size=300).flatmap(lambda data: container.map(lambda kind: kind(data))),
    },
)


@given(message=images)
@fuzz("Image", 0.18)
def test_image_is_decoded_or_rejected(message: SimpleNamespace) -> None:
    """A decoded image has the size of the message, and padding of its rows does not change it."""
    assert isinstance(stamp_ns(message.header), int)
    decoded = attempt("Image", lambda: decode_image(message), "image", errors=FrameError)
    if decoded is None:
        return
    assert decoded.shape == (message.height, message.width, 3)
    assert decoded.dtype == np.uint8
    row_bytes, count = layout_of(message.encoding, message.width, message.height)
    padded = np.frombuffer(message.data, np.uint8)
    if message.encoding in ("nv24", "yuv444") or padded.size != count * message.step:
        return
    rows = padded.reshape(count, message.step)[:, :row_bytes]
    unpadded = SimpleNamespace(**{**vars(message), "step": row_bytes, "data": rows.tobytes()})
    np.testing.assert_array_equal(decode_image(unpadded), decoded)


FORMATS = [
    "jpeg",
    "png",
    "rgb8; jpeg compressed bgr8",
    "mono16; png compressed ",
    "tiff",
    "bayer_rggb8; jpeg compressed ",
    "rgb8; tiff compressed",
    "16UC1; compressedDepth png",
    "JPG",
]


@given(data=damaged(list(IMAGE_FILES.values())), form=st.sampled_from(FORMATS) | words, kind=container)
@fuzz("CompressedImage", 0.16, mebibytes=512)
def test_compressed_image_is_decoded_or_rejected(data: bytes, form: str, kind: Any) -> None:
    message = SimpleNamespace(header=header(), format=form, data=kind(data))
    decoded = attempt("CompressedImage", lambda: decode_compressed_image(message), "ompressed image", errors=FrameError)
    if decoded is not None:
        assert decoded.dtype == np.uint8 and decoded.ndim == 3 and decoded.shape[2] == 3 and decoded.size


@st.composite
def camera_info_valid(draw: Any) -> dict[str, Any]:
    width, height = draw(st.tuples(st.sampled_from([1, 2, 16, 640, 1920]), st.sampled_from([1, 2, 12, 480, 1080])))
    fx, skew = draw(st.tuples(st.sampled_from([0.5, 1.0, 400.0, 1e4]), st.sampled_from([0.0, 0.0, 1e-3])))
    k = [fx, skew, width / 2, 0.0, fx, height / 2, 0.0, 0.0, 1.0]
    model, count = draw(
        st.sampled_from([("plumb_bob", 5), ("plumb_bob", 4), ("rational_polynomial", 8), ("equidistant", 4), ("fisheye", 4)])
    )
    d = draw(st.sampled_from([[0.0] * count, [-0.3, 0.1, 1e-4, -1e-4, 0.01, 0.0, 0.0, 0.0][:count]]))
    return {
        "header": header(),
        "height": height,
        "width": width,
        "distortion_model": model,
        "d": d,
        "k": k,
        "r": draw(st.sampled_from([[0.0] * 9, [1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0]])),
        "p": draw(st.sampled_from([[0.0] * 12, [*k[:3], 0.0, *k[3:6], 0.0, *k[6:], 0.0]])),
        "binning_x": draw(st.sampled_from([0, 1, 2])),
        "binning_y": draw(st.sampled_from([0, 1, 2])),
        "roi": region(),
    }


def region(x_offset: int = 0, y_offset: int = 0, height: int = 0, width: int = 0) -> SimpleNamespace:
    return SimpleNamespace(x_offset=x_offset, y_offset=y_offset, height=height, width=width, do_rectify=False)


def matrix(count: int) -> st.SearchStrategy[Any]:
    """Draw the values of a matrix, sometimes with a wrong length."""
    valid = st.lists(numbers | st.sampled_from([1.0, 400.0]), min_size=count, max_size=count)
    return valid | valid.map(np.array) | st.lists(numbers, max_size=20)


models = st.sampled_from(["plumb_bob", "rational_polynomial", "equidistant", "fisheye", "", "none", "thin_prism", "PLUMB_BOB"])
small = st.integers(0, 30)
infos = near(
    camera_info_valid(),
    {
        "header": headers,
        "height": unsigned,
        "width": unsigned,
        "distortion_model": models | words,
        "d": matrix(5),
        "k": matrix(9),
        "r": matrix(9),
        "p": matrix(12),
        "binning_x": unsigned,
        "binning_y": unsigned,
        "roi": st.builds(region, unsigned, unsigned, unsigned, unsigned) | st.builds(region, small, small, small, small),
    },
)


@given(message=infos, size=sometimes(st.none(), st.tuples(st.integers(1, 40), st.integers(1, 40))), rectified=st.booleans())
@fuzz("CameraInfo", 0.18)
def test_camera_info_yields_finite_rays_or_is_rejected(
    message: SimpleNamespace, size: tuple[int, int] | None, rectified: bool
) -> None:
    """Rays are NaN only where the distortion model has no inverse, and points of finite rays are finite."""
    calibration = attempt("CameraInfo", lambda: decode_camera_info(message), "camera", errors=CameraError)
    if calibration is None:
        return
    width, height = size or (min(calibration.width, 40), min(calibration.height, 40))
    camera = attempt("CameraInfo", lambda: calibration.for_image(width, height).camera(rectified), errors=CameraError)
    if camera is None:
        return
    assert (camera.width, camera.height) == (width, height)
    rays = camera.rays()
    assert rays.shape == (height, width, 2) and rays.dtype == np.float32
    assert not np.isinf(rays).any()
    assert camera.is_distorted or np.isfinite(rays).all()
    cloud = backproject(torch.full((height, width), 1000.0), torch.from_numpy(rays), torch.empty(height, width, 3)).numpy()
    finite = np.isfinite(rays).all(axis=-1)
    assert np.isfinite(cloud[finite]).all()
    assert np.isnan(cloud[~finite]).all()
    for scaled in (camera, camera.scaled(2 * width, 2 * height), camera.scaled(max(width // 3, 1), max(height // 3, 1))):
        fields = camera_info_fields(Calibration.of(scaled))
        assert np.isfinite([*fields["k"], *fields["d"], *fields["r"], *fields["p"]]).all()
        assert (fields["width"], fields["height"]) == (scaled.width, scaled.height)
