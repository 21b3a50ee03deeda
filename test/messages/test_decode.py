"""Decoding of images, depth and clouds: every encoding, every defect."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.raw_images import BAYER, CONTAINERS, message, mosaic, to_eight_bits

from mtl_perception.errors import FrameError
from mtl_perception.messages.decode import (
    decode_cloud,
    decode_compressed_image,
    decode_depth,
    decode_image,
    describe_dark_samples,
)
from mtl_perception.messages.encode import cloud_fields, image_fields
from mtl_perception.messages.encodings import SUPPORTED
from mtl_perception.types import CLOUD_DTYPE

ORDERS = {"rgb": (0, 1, 2), "bgr": (2, 1, 0), "rgba": (0, 1, 2, 3), "bgra": (2, 1, 0, 3)}
DIRECT = {
    **{f"{name}{bits}": (order, bits) for name, order in ORDERS.items() for bits in (8, 16)},
    **{f"mono{bits}": ((0,), bits) for bits in (8, 16)},
    **{f"{bits}UC{len(order)}": (order, bits) for bits in (8, 16) for order in ((0,), (2, 1, 0), (2, 1, 0, 3))},
}
SEMIPLANAR = {"nv12": "uv", "nv21": "vu", "nv24": "uv", "yuv444": "uv"}
YUV = {"yuv422": "uyvy", "uyvy": "uyvy", "yuv422_yuy2": "yuyv", "yuyv": "yuyv"}


def test_every_encoding_is_tested():
    tested = {*DIRECT, *YUV, *SEMIPLANAR, *(f"bayer_{name}{bits}" for name in BAYER for bits in (8, 16))}
    assert set(SUPPORTED) == tested


@pytest.mark.parametrize("encoding", DIRECT)
@settings(max_examples=12, deadline=None)
@given(
    height=st.integers(1, 9), width=st.integers(1, 9), padding=st.sampled_from([0, 1, 5, 16]), big_endian=st.booleans(),
    container=st.sampled_from(sorted(CONTAINERS)), seed=st.integers(0, 9),
)  # fmt: skip
def test_color_and_gray_are_decoded(encoding, height, width, padding, big_endian, container, seed):
    order, bits = DIRECT[encoding]
    rng = np.random.default_rng(seed)
    samples = rng.integers(0, 2**bits, (height, width, len(order)), np.uint8 if bits == 8 else np.uint16)
    given_samples = samples[..., 0] if len(order) == 1 else samples
    image = decode_image(message(given_samples, encoding, padding, big_endian, container))
    rgb = np.repeat(samples, 3, axis=2) if len(order) == 1 else samples[..., [order.index(channel) for channel in range(3)]]
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, rgb if bits == 8 else to_eight_bits(rgb))


def test_all_sixteen_bit_values_are_rounded():
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    np.testing.assert_array_equal(decode_image(message(values, "mono16"))[..., 1], to_eight_bits(values))


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("name", BAYER)
class TestBayer:
    def decoded(self, rgb: np.ndarray, name: str, bits: int, **options) -> np.ndarray:
        samples = rgb if bits == 8 else rgb.astype(np.uint16) * 257
        return decode_image(message(mosaic(samples, BAYER[name]), f"bayer_{name}{bits}", **options))

    @pytest.mark.parametrize("size", [(48, 64), (47, 61)])
    def test_smooth_image_is_restored(self, name, bits, size):
        v, u = np.mgrid[: size[0], : size[1]].astype(float)
        smooth = np.stack([40 + 2.5 * u, 220 - 2 * v - 0.8 * u, 30 + 1.5 * u + 2 * v], axis=-1).clip(0, 255).astype(np.uint8)
        image = self.decoded(smooth, name, bits, padding=6, big_endian=bits == 16)
        assert np.abs(image.astype(int) - smooth)[2:-2, 2:-2].max() <= 4

    @pytest.mark.parametrize("channel", [0, 1, 2])
    def test_pure_color_is_preserved(self, name, bits, channel):
        pure = np.zeros((8, 10, 3), np.uint8)
        pure[..., channel] = 200
        assert (self.decoded(pure, name, bits)[2:-2, 2:-2] == pure[2:-2, 2:-2]).all()


@pytest.mark.parametrize("encoding", YUV)
class TestYuv:
    def samples(self, pixels: list[tuple[int, int, int, int]], encoding: str) -> np.ndarray:
        """Return pairs of pixels (u, y0, v, y1) in the encoding's order: 1 x 2N x 2 bytes."""
        order = YUV[encoding]
        rows = [(u, y0, v, y1) if order == "uyvy" else (y0, u, y1, v) for u, y0, v, y1 in pixels]
        return np.array(rows, np.uint8).reshape(1, -1, 2)

    def test_colors_are_decoded(self, encoding):
        """BT.601, video range: Y is 16 for black and 235 for white; V is 240 for red, U is 240 for blue."""
        pixels = [(128, 16, 128, 235), (90, 81, 240, 81), (240, 41, 110, 41), (54, 145, 34, 145)]
        image = decode_image(message(self.samples(pixels, encoding), encoding, padding=3))[0].astype(int)
        expected = [(0, 0, 0), (255, 255, 255)] + [(255, 0, 0)] * 2 + [(0, 0, 255)] * 2 + [(0, 255, 0)] * 2
        assert np.abs(image - expected).max() <= 3

    def test_odd_width_is_refused(self, encoding):
        with pytest.raises(FrameError, match="even width") as caught:
            decode_image(message(np.zeros((2, 5, 2), np.uint8), encoding))
        assert caught.value.reason == "size"


def semiplanar(
    y: np.ndarray, u: np.ndarray, v: np.ndarray, encoding: str, padding: int = 0, step: int | None = None
) -> SimpleNamespace:
    """Return an Image: rows of Y of `step` bytes, then rows of U and V with the padding of as many rows of Y."""
    height, width = y.shape
    chroma = np.stack([u, v] if SEMIPLANAR[encoding] == "uv" else [v, u], axis=-1)
    gap = bytes([0xA5]) * padding
    # A row of the chroma of NV24 has the width of two rows of Y.
    chroma_gap = gap * (2 * chroma.shape[1] // width)
    rows = [row.tobytes() + gap for row in y] + [row.tobytes() + chroma_gap for row in chroma]
    return SimpleNamespace(
        height=height, width=width, encoding=encoding, is_bigendian=0, step=step or width + padding, data=b"".join(rows)
    )  # fmt: skip


BT601 = {(16, 128, 128): (0, 0, 0), (235, 128, 128): (255, 255, 255), (81, 90, 240): (255, 0, 0), (41, 240, 110): (0, 0, 255),
         (145, 54, 34): (0, 255, 0)}  # fmt: skip
"""Video range: colors by Y, U, V."""


@pytest.mark.parametrize("encoding", SEMIPLANAR)
class TestSemiplanar:
    def planes(self, encoding: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return Y, U, V and the RGB image of 6 x 10 pixels: columns of five colors, two pixels each."""
        y, u, v = (np.repeat(np.array([color[i] for color in BT601], np.uint8), 2)[None].repeat(6, axis=0) for i in range(3))
        rgb = np.repeat(np.array(list(BT601.values()), np.uint8), 2, axis=0)[None].repeat(6, axis=0)
        part = 2 if encoding in ("nv12", "nv21") else 1
        return y, u[::part, ::part], v[::part, ::part], rgb

    @pytest.mark.parametrize("padding", [0, 6, 54])
    def test_colors_are_decoded(self, encoding, padding):
        y, u, v, rgb = self.planes(encoding)
        image = decode_image(semiplanar(y, u, v, encoding, padding))
        assert (image.dtype, image.shape) == (np.uint8, (6, 10, 3))
        assert np.abs(image.astype(int) - rgb).max() <= 3

    def test_each_pixel_has_its_own_luma_and_the_chroma_of_its_block(self, encoding):
        rng = np.random.default_rng(3)
        y = rng.integers(60, 180, (4, 6), np.uint8)
        part = 2 if encoding in ("nv12", "nv21") else 1
        u, v = rng.integers(100, 156, (2, 4 // part, 6 // part), np.uint8)
        image = decode_image(semiplanar(y, u, v, encoding, padding=2)).astype(float)
        luma, blue, red = 1.164 * (y - 16.0), *(np.kron(c, np.ones((part, part))) - 128.0 for c in (u, v))
        rgb = np.stack([luma + 1.596 * red, luma - 0.391 * blue - 0.813 * red, luma + 2.018 * blue], axis=-1)
        assert np.abs(image - rgb.clip(0, 255)).max() <= 1

    def test_step_may_cover_all_planes(self, encoding):
        """As of drivers that compute it from the bytes per pixel; `yuv444` would then have interleaved channels."""
        y, u, v, _ = self.planes(encoding)
        expected = decode_image(semiplanar(y, u, v, encoding))
        for step in (15, 20) if encoding in ("nv12", "nv21") else (20,):
            np.testing.assert_array_equal(decode_image(semiplanar(y, u, v, encoding, step=step)), expected)

    def test_malformed_image_is_refused(self, encoding):
        good = vars(semiplanar(*self.planes(encoding)[:3], encoding))
        rows = 9 if encoding in ("nv12", "nv21") else 18
        defects = {
            "step": ({"step": 9}, "step 9 is too small: 10 pixels of"),
            "data_length": ({"data": good["data"][:-1]}, f"{10 * rows - 1} bytes of data, but {encoding} has"),
            "size": ({"height": 0}, "empty"),
        }
        for reason, (changes, text) in defects.items():
            with pytest.raises(FrameError, match=text) as caught:
                decode_image(SimpleNamespace(**{**good, **changes}))
            assert caught.value.reason == reason


@pytest.mark.parametrize("size", [(5, 4), (4, 5)])
def test_odd_size_of_subsampled_planes_is_refused(size):
    with pytest.raises(FrameError, match="nv12 needs an even width and height") as caught:
        decode_image(SimpleNamespace(height=size[0], width=size[1], step=size[1], encoding="nv12", is_bigendian=0, data=b""))
    assert caught.value.reason == "size"


def test_interleaved_yuv444_is_refused_by_name():
    with pytest.raises(FrameError, match="unsupported image encoding 'yuv444' with interleaved channels") as caught:
        decode_image(message(np.zeros((4, 6, 3), np.uint8), "yuv444"))
    assert caught.value.reason == "encoding"


class TestMalformed:
    def good(self, **changes):
        fields = vars(message(np.zeros((4, 6, 3), np.uint8), "rgb8"))
        return SimpleNamespace(**{**fields, **changes})

    def test_valid_message_is_accepted(self):
        assert decode_image(self.good()).shape == (4, 6, 3)

    @pytest.mark.parametrize(
        ("changes", "reason", "text"),
        [
            ({"height": 0}, "size", "6x0 pixels is empty"),
            ({"width": 0}, "size", "0x4 pixels is empty"),
            ({"height": 60000, "width": 60000}, "size", "larger than 33.6 megapixels"),
            ({"encoding": ""}, "encoding", "no encoding"),
            ({"encoding": "32FC1"}, "encoding", "unsupported image encoding '32FC1'"),
            ({"encoding": "RGB8"}, "encoding", "unsupported image encoding 'RGB8'"),
            ({"step": 17}, "step", "step 17 is too small: 6 pixels of rgb8 need 18 bytes"),
            ({"step": 0}, "step", "too small"),
            ({"data": bytes(71)}, "data_length", "71 bytes of data, but height 4 x step 18 = 72"),
            ({"data": bytes(73)}, "data_length", "73 bytes"),
            ({"data": b""}, "data_length", "0 bytes"),
            ({"step": 19}, "data_length", "height 4 x step 19 = 76"),
            ({"height": 5}, "data_length", "height 5"),
        ],
    )
    def test_each_defect_has_its_own_reason(self, changes, reason, text):
        with pytest.raises(FrameError, match=text) as caught:
            decode_image(self.good(**changes))
        assert caught.value.reason == reason

    def test_long_encoding_is_truncated_in_the_error(self):
        """The error becomes a log line and a diagnostics message."""
        for decode, bad in (
            (decode_image, self.good(encoding="x" * 10**6)),
            (decode_compressed_image, SimpleNamespace(format="x\n" * 10**6, data=b"no image")),
        ):
            with pytest.raises(FrameError, match="image.* '?x") as caught:
                decode(bad)
            assert len(str(caught.value)) < 1000
            assert str(caught.value).isprintable()

    @pytest.mark.parametrize("size", [(1, 1), (1, 8), (8, 1), (2, 2), (2, 9)])
    def test_bayer_image_without_neighbors_is_refused(self, size):
        with pytest.raises(FrameError, match="needs at least 3x3 pixels") as caught:
            decode_image(message(np.full(size, 90, np.uint8), "bayer_rggb8"))
        assert caught.value.reason == "size"


class TestPublishedMessages:
    """Decoding of messages that this package publishes."""

    def test_depth_is_decoded(self):
        depth = np.array([[1.5, np.nan, np.inf], [0.25, 80, 3]], np.float32)
        np.testing.assert_array_equal(decode_depth(SimpleNamespace(**image_fields(depth, "32FC1"))), depth)
        np.testing.assert_array_equal(decode_depth(message(depth, "32FC1", padding=4, big_endian=True)), depth)

    def test_mismatched_depth_is_refused(self):
        fields = image_fields(np.ones((2, 3), np.float32), "32FC1")
        for changes, reason in (
            ({"encoding": "16UC1"}, "encoding"),
            ({"step": 8}, "data_length"),
            ({"data": bytes(23)}, "data_length"),
        ):
            with pytest.raises(FrameError) as caught:
                decode_depth(SimpleNamespace(**{**fields, **changes}))
            assert caught.value.reason == reason

    def cloud_message(self, **changes):
        cloud = np.zeros((2, 3), CLOUD_DTYPE)
        cloud["x"][1, 2], cloud["label"][1, 2] = 4.5, 255
        fields = cloud_fields(cloud)
        fields["fields"] = [SimpleNamespace(**entry) for entry in fields["fields"]]
        return cloud, SimpleNamespace(**{**fields, **changes})

    def test_cloud_is_decoded(self):
        cloud, good = self.cloud_message()
        np.testing.assert_array_equal(decode_cloud(good), cloud)

    def test_mismatched_cloud_is_refused(self):
        for changes, reason in (
            ({"point_step": 32}, "encoding"),
            ({"fields": []}, "encoding"),
            ({"data": bytes(119)}, "data_length"),
        ):
            with pytest.raises(FrameError) as caught:
                decode_cloud(self.cloud_message(**changes)[1])
            assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("encoding", "brightest", "reported"),
    [("mono16", 16, True), ("16UC1", 64, True), ("bayer_rggb16", 40, True), ("rgb16", 65, False), ("mono8", 16, False)],
)
def test_dark_samples_of_16_bits_are_described(encoding, brightest, reported):
    image = np.zeros((4, 6, 3), np.uint8)
    image[2, 3, 1] = brightest
    text = describe_dark_samples(encoding, image)
    assert (f"values up to about {257 * brightest} of 65535" in text) == reported
    assert reported or text == ""


@pytest.mark.parametrize(
    ("lowest", "remark"),
    [
        (
            29315,
            "images of mono16 have nearly no contrast: values from about 29298 to 30840 of 65535, as of thermal cameras; "
            "let the driver scale them to 16 bits, or send 8 bits",
        ),
        (20000, ""),
    ],
)
def test_16_bit_temperatures_have_nearly_no_contrast(lowest, remark):
    """The first case is 20 to 35 degrees Celsius in hundredths of a kelvin."""
    samples = np.linspace(lowest, 30815, 12).astype("<u2")
    message = SimpleNamespace(height=3, width=4, step=8, encoding="mono16", is_bigendian=0, data=samples.tobytes())
    assert describe_dark_samples("mono16", decode_image(message)) == remark
