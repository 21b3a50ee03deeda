"""Images, compressed images and calibrations that a driver, a bag or a stranger may send."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.bad_input import container, damaged, near, numbers, sometimes, unsigned, words
from support.fuzzing import attempt, fuzz
from support.image_files import PICTURES

from mtl_perception.camera.model import Calibration
from mtl_perception.camera.projection import backproject
from mtl_perception.errors import CameraError, FrameError
from mtl_perception.messages.decode import (
    PIXEL_LAYOUTS,
    decode_camera_info,
    decode_compressed_image,
    decode_image,
    stamp_ns,
)
from mtl_perception.messages.encode import camera_info_fields

ODD_ENCODINGS = ["32FC1", "8UC2", "mono16 ", "Rgb8", "bayer_rggb32", "yuv422_", "nv12", "rgb", "16SC1", "jpeg"]


@st.composite
def image_fields(draw: Any) -> dict[str, Any]:
    encoding = draw(st.sampled_from(sorted(PIXEL_LAYOUTS)))
    width, height, padding = draw(st.tuples(st.integers(1, 20), st.integers(1, 20), st.sampled_from([0, 0, 1, 3, 64])))
    step = width * PIXEL_LAYOUTS[encoding].channels * PIXEL_LAYOUTS[encoding].item_bytes + padding
    pixel = draw(st.binary(min_size=1, max_size=16))
    data = (pixel * (step * height // len(pixel) + 1))[: step * height]
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
        "encoding": st.sampled_from([*ODD_ENCODINGS, *sorted(PIXEL_LAYOUTS)]) | words,
        "is_bigendian": st.integers(0, 255),
        "step": unsigned | st.integers(0, 200),
        "data": st.binary(max_size=300).flatmap(lambda data: container.map(lambda kind: kind(data))),
    },
)


@given(message=images)
@fuzz("Image", 0.18)
def test_image(message: SimpleNamespace) -> None:
    """A picture of the announced size, whatever the padding of its rows; or what is wrong with which field."""
    assert isinstance(stamp_ns(message.header), int)
    picture = attempt("Image", lambda: decode_image(message), "image", errors=FrameError)
    if picture is None:
        return
    assert picture.shape == (message.height, message.width, 3)
    assert picture.dtype == np.uint8
    layout = PIXEL_LAYOUTS[message.encoding]
    tight = message.width * layout.channels * layout.item_bytes
    rows = np.frombuffer(message.data, np.uint8).reshape(message.height, message.step)[:, :tight]
    unpadded = SimpleNamespace(**{**vars(message), "step": tight, "data": rows.tobytes()})
    np.testing.assert_array_equal(decode_image(unpadded), picture)


FORMATS = ["jpeg", "png", "rgb8; jpeg compressed bgr8", "mono16; png compressed ", "tiff", "16UC1; compressedDepth png", "JPG"]


@given(data=damaged(list(PICTURES.values())), form=st.sampled_from(FORMATS) | words, kind=container)
@fuzz("CompressedImage", 0.16, mebibytes=512)
def test_compressed_image(data: bytes, form: str, kind: Any) -> None:
    message = SimpleNamespace(header=header(), format=form, data=kind(data))
    picture = attempt("CompressedImage", lambda: decode_compressed_image(message), "ompressed image", errors=FrameError)
    if picture is not None:
        assert picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[2] == 3 and picture.size


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
    """Mostly of the right length, with odd numbers; else of another length."""
    right = st.lists(numbers | st.sampled_from([1.0, 400.0]), min_size=count, max_size=count)
    return right | right.map(np.array) | st.lists(numbers, max_size=20)


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
def test_camera_info(message: SimpleNamespace, size: tuple[int, int] | None, rectified: bool) -> None:
    """A calibration, of which a camera comes whose rays are finite, or NaN where a lens has no inverse; or what is wrong."""
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
    known = np.isfinite(rays).all(axis=-1)
    assert np.isfinite(cloud[known]).all()
    assert np.isnan(cloud[~known]).all()
    for changed in (camera, camera.scaled(2 * width, 2 * height), camera.scaled(max(width // 3, 1), max(height // 3, 1))):
        fields = camera_info_fields(Calibration.of(changed))
        assert np.isfinite([*fields["k"], *fields["d"], *fields["r"], *fields["p"]]).all()
        assert (fields["width"], fields["height"]) == (changed.width, changed.height)
