"""Decoding of images, compressed images, depth and clouds: every encoding, every defect."""

from __future__ import annotations

import array
import struct
import zlib
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.images import noise_image

from mtl_perception.errors import FrameError
from mtl_perception.messages.decode import decode_cloud, decode_compressed_image, decode_depth, decode_image
from mtl_perception.messages.encode import cloud_fields, image_fields
from mtl_perception.messages.encodings import SUPPORTED
from mtl_perception.types import CLOUD_DTYPE

CONTAINERS = {
    "array": lambda data: array.array("B", data),
    "bytes": bytes,
    "numpy": lambda data: np.frombuffer(data, np.uint8),
}
ORDERS = {"rgb": (0, 1, 2), "bgr": (2, 1, 0), "rgba": (0, 1, 2, 3), "bgra": (2, 1, 0, 3)}
DIRECT = {
    **{f"{name}{bits}": (order, bits) for name, order in ORDERS.items() for bits in (8, 16)},
    **{f"mono{bits}": ((0,), bits) for bits in (8, 16)},
    **{f"{bits}UC{len(order)}": (order, bits) for bits in (8, 16) for order in ((0,), (2, 1, 0), (2, 1, 0, 3))},
}
BAYER = {"rggb": "RGGB", "bggr": "BGGR", "gbrg": "GBRG", "grbg": "GRBG"}
SEMIPLANAR = {"nv12": "uv", "nv21": "vu", "nv24": "uv", "yuv444": "uv"}
YUV = {"yuv422": "uyvy", "uyvy": "uyvy", "yuv422_yuy2": "yuyv", "yuyv": "yuyv"}


def message(pixels: np.ndarray, encoding: str, padding: int = 0, big_endian: bool = False, container: str = "bytes"):
    """Return an Image of these samples, H x W or H x W x C."""
    samples = pixels.astype(pixels.dtype.newbyteorder(">" if big_endian else "<"))
    rows = [row.tobytes() + b"\xa5" * padding for row in samples]
    return SimpleNamespace(
        height=pixels.shape[0], width=pixels.shape[1], encoding=encoding, is_bigendian=int(big_endian), step=len(rows[0]),
        data=CONTAINERS[container](b"".join(rows)),
    )  # fmt: skip


def to_eight_bits(values: np.ndarray) -> np.ndarray:
    """Return round(v * 255 / 65535) in integers; there are no ties."""
    return ((values.astype(np.int64) * 255 * 2 + 65535) // (2 * 65535)).astype(np.uint8)


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


def mosaic(rgb: np.ndarray, pattern: str) -> np.ndarray:
    """Return the raw image of a sensor with this filter pattern (two filters of the first row, then of the second)."""
    raw = np.empty(rgb.shape[:2], rgb.dtype)
    for i, letter in enumerate(pattern):
        raw[i // 2 :: 2, i % 2 :: 2] = rgb[i // 2 :: 2, i % 2 :: 2, "RGB".index(letter)]
    return raw


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
            ({"height": 60000, "width": 60000}, "size", "larger than"),
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


def compressed(data: bytes, form: str = "jpeg", container: str = "array") -> SimpleNamespace:
    return SimpleNamespace(format=form, data=CONTAINERS[container](data))


def encoded(suffix: str, rgb: np.ndarray) -> bytes:
    pixels = rgb[..., ::-1] if rgb.ndim == 3 else rgb
    return cv2.imencode(suffix, pixels)[1].tobytes()


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_bomb(width: int, height: int) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


def jpeg_with_size(width: int, height: int) -> bytes:
    data = encoded(".jpg", noise_image(16, 16))
    position = data.index(b"\xff\xc0") + 5
    return data[:position] + struct.pack(">HH", height, width) + data[position + 4 :]


def jpeg_with_a_decoy(width: int, height: int) -> bytes:
    """A marker without a length field, misread as a segment, would hide the true size."""
    decoy = jpeg_with_size(16, 16)[2:]
    large = jpeg_with_size(width, height)[2:]
    return b"\xff\xd8" + b"\xff\xd0" + struct.pack(">H", len(large) + 2) + large + decoy


def gif_bomb(width: int, height: int) -> bytes:
    frame = b"," + struct.pack("<4H", 0, 0, width, height) + b"\0\x02\x02D\x01\0;"
    return b"GIF89a" + struct.pack("<HH", width, height) + b"\x80\0\0" + bytes(6) + frame


def bmp_bomb(width: int, height: int) -> bytes:
    """Run-length encoded, top-down rows."""
    info = struct.pack("<IiiHHIIiiII", 40, width, -height, 1, 8, 1, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 1078, 0, 0, 1078) + info + bytes(1100)


def webp_bomb(width: int, height: int) -> bytes:
    canvas = bytes(4) + struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    return b"RIFF" + struct.pack("<I", 22) + b"WEBPVP8X" + struct.pack("<I", 10) + canvas


def tiff_bomb(width: int, height: int) -> bytes:
    entries = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8 << 16), (273, 4, 1, 8), (279, 4, 1, 100)]
    return b"MM\0*" + struct.pack(">IH", 8, len(entries)) + b"".join(struct.pack(">HHII", *e) for e in entries) + bytes(100)


class TestCompressed:
    @pytest.mark.parametrize("container", CONTAINERS)
    def test_png_is_decoded_exactly(self, container):
        original = noise_image(23, 31)
        np.testing.assert_array_equal(
            decode_compressed_image(compressed(encoded(".png", original), "png", container)), original
        )

    def test_jpeg_is_decoded(self):
        original = cv2.GaussianBlur(noise_image(60, 81), (0, 0), 2)
        image = decode_compressed_image(compressed(encoded(".jpg", original), "rgb8; jpeg compressed bgr8"))
        assert np.abs(image.astype(int) - original).mean() < 3

    @pytest.mark.parametrize("bits", [8, 16])
    @pytest.mark.parametrize(("name", "pattern"), BAYER.items())
    @pytest.mark.parametrize("form", ["{}; png compressed ", "{}; png compressed", "{};png", "{}", " {} ; png compressed {}"])
    def test_mosaic_of_a_bayer_sensor_is_demosaiced(self, name, pattern, bits, form):
        rgb = noise_image(24, 32)
        raw = mosaic(rgb if bits == 8 else rgb.astype(np.uint16) * 257, pattern)
        encoding = f"bayer_{name}{bits}"
        image = decode_compressed_image(compressed(cv2.imencode(".png", raw)[1].tobytes(), form.format(encoding, encoding)))
        np.testing.assert_array_equal(image, decode_image(message(raw, encoding)))

    def test_jpeg_of_a_mosaic_is_demosaiced(self):
        flat = np.full((48, 64, 3), (200, 120, 40), np.uint8)
        data = cv2.imencode(".jpg", mosaic(flat, "RGGB"), [cv2.IMWRITE_JPEG_QUALITY, 100])[1].tobytes()
        image = decode_compressed_image(compressed(data, "bayer_rggb8; jpeg compressed "))
        assert np.abs(image.astype(int) - flat)[4:-4, 4:-4].max() <= 8

    @pytest.mark.parametrize("form", ["bayer_rggb8; jpeg compressed mono8", "bayer_rggb16; png compressed mono16"])
    def test_bayer_image_that_was_converted_to_gray_stays_gray(self, form):
        """As compressed_image_transport of ROS 2 converts it."""
        gray = noise_image(24, 32)[..., 0]
        image = decode_compressed_image(compressed(encoded(".png", gray), form))
        np.testing.assert_array_equal(image, np.dstack([gray] * 3))

    def test_bayer_image_that_was_demosaiced_before_compression_is_decoded(self):
        rgb = noise_image(24, 32)
        for form in ("bayer_rggb8; png compressed bgr8", "bayer_rggb8; png compressed "):
            np.testing.assert_array_equal(decode_compressed_image(compressed(encoded(".png", rgb), form)), rgb)

    def test_compressed_mosaic_without_neighbors_is_refused(self):
        with pytest.raises(FrameError, match="bayer_rggb8; png.*needs at least 3x3 pixels") as caught:
            decode_compressed_image(compressed(encoded(".png", noise_image(2, 9)[..., 0]), "bayer_rggb8; png compressed "))
        assert caught.value.reason == "size"

    def test_floating_point_mosaic_is_refused(self):
        data = cv2.imencode(".tiff", np.ones((8, 8), np.float32))[1].tobytes()
        with pytest.raises(FrameError, match="float32") as caught:
            decode_compressed_image(compressed(data, "bayer_rggb8; tiff compressed "))
        assert caught.value.reason == "compressed"

    @pytest.mark.parametrize(
        ("form", "swapped"),
        [
            ("rgb8; png compressed bgr8", False),
            ("rgba8; jpeg compressed bgr8", False),
            ("bgr8; png compressed ", False),
            ("yuv422_yuy2; png compressed bgr8", False),
            ("rgb8; png", False),
            ("rgb8", False),
            ("png", False),
            ("", False),
            ("rgb8; tiff compressed ", True),  # compressed_image_transport passes RGB to OpenCV's TIFF encoder.
            ("rgba16; tiff compressed", True),
            ("bgr8; png compressed rgb8", True),
            ("rgb8; png compressed rgb8", True),
        ],
    )
    def test_channel_order_is_that_of_the_format(self, form, swapped):
        rgb = noise_image(9, 8)
        image = decode_compressed_image(compressed(encoded(".png", rgb), form))
        np.testing.assert_array_equal(image, rgb[..., ::-1] if swapped else rgb)

    @pytest.mark.parametrize("encoding", ["32FC1", "8UC2", "16SC1"])
    def test_compressed_image_that_is_neither_color_nor_gray_is_refused_by_name(self, encoding):
        with pytest.raises(FrameError, match=f"unsupported image encoding '{encoding}': ") as caught:
            decode_compressed_image(compressed(encoded(".png", noise_image(9, 8)), f"{encoding}; tiff compressed "))
        assert caught.value.reason == "encoding"

    def test_gray_png_is_replicated(self):
        gray = noise_image(9, 8)[..., 0]
        np.testing.assert_array_equal(decode_compressed_image(compressed(encoded(".png", gray))), np.dstack([gray] * 3))

    def test_sixteen_bit_png_is_scaled(self):
        values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
        image = decode_compressed_image(compressed(encoded(".png", values)))
        assert np.abs(image[..., 0].astype(int) - to_eight_bits(values)).max() <= 1

    @pytest.mark.parametrize("part", [0.1, 0.5, 0.9, 0.999])
    @pytest.mark.parametrize("suffix", [".jpg", ".png"])
    def test_truncated_file_is_refused(self, suffix, part):
        data = encoded(suffix, noise_image(60, 80))
        with pytest.raises(FrameError) as caught:
            decode_compressed_image(compressed(data[: int(len(data) * part)]))
        assert caught.value.reason == "compressed"

    def test_jpeg_without_its_end_marker_is_refused(self):
        with pytest.raises(FrameError, match="truncated image"):
            decode_compressed_image(compressed(encoded(".jpg", noise_image(60, 80))[:-2]))

    def test_png_chunk_beyond_the_end_is_refused_before_decoding(self, monkeypatch):
        """OpenCV would allocate 4 GB."""
        data = bytearray(encoded(".png", noise_image(12, 16)))
        position = data.index(b"IDAT") - 4
        data[position] = 0xFF
        monkeypatch.setattr(cv2, "imdecode", lambda *args: pytest.fail("decoded"))
        with pytest.raises(FrameError, match="truncated image"):
            decode_compressed_image(compressed(bytes(data)))

    def test_end_marker_of_a_thumbnail_is_ignored(self):
        whole = encoded(".jpg", noise_image(60, 80))
        thumbnail = encoded(".jpg", noise_image(6, 8))
        application = b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 2) + thumbnail
        with_thumbnail = whole[:2] + application + whole[2:]
        assert decode_compressed_image(compressed(with_thumbnail)).shape == (60, 80, 3)
        with pytest.raises(FrameError, match="truncated image"):
            decode_compressed_image(compressed(with_thumbnail[:-400]))

    @pytest.mark.parametrize("padding", [b"\0" * 700, b"\xff" * 3, b"\n"])
    def test_padding_after_the_end_is_accepted(self, padding):
        data = encoded(".jpg", noise_image(60, 80))
        expected = decode_compressed_image(compressed(data))
        np.testing.assert_array_equal(decode_compressed_image(compressed(data + padding)), expected)

    def test_progressive_jpeg_is_decoded(self):
        data = cv2.imencode(".jpg", noise_image(60, 80), [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()
        assert decode_compressed_image(compressed(data)).shape == (60, 80, 3)

    def test_rotation_in_exif_is_ignored(self):
        data = encoded(".jpg", noise_image(60, 80))
        exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
        rotated = data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:]
        assert cv2.imdecode(np.frombuffer(rotated, np.uint8), cv2.IMREAD_COLOR).shape == (80, 60, 3), "OpenCV would rotate"
        assert decode_compressed_image(compressed(rotated)).shape == (60, 80, 3)

    @pytest.mark.parametrize(
        ("data", "form", "reason"),
        [
            (b"", "jpeg", "data_length"),
            (b"not an image at all", "jpeg", "compressed"),
            (b"\xff\xd8", "jpeg", "compressed"),
            (b"\xff\xd8\xff\xd9", "jpeg", "compressed"),
            (b"\x89PNG\r\n\x1a\n", "png", "compressed"),
            (bytes(range(256)) * 9, "", "compressed"),
            (encoded(".png", noise_image(9, 9)), "16UC1; compressedDepth png", "encoding"),
        ],
    )
    def test_invalid_data_is_refused(self, data, form, reason):
        with pytest.raises(FrameError) as caught:
            decode_compressed_image(compressed(data, form))
        assert caught.value.reason == reason
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("bomb", [png_bomb, jpeg_with_size, jpeg_with_a_decoy, gif_bomb, bmp_bomb, webp_bomb, tiff_bomb])
    @pytest.mark.parametrize("size", [(60000, 60000), (30000, 30000), (65000, 600)])
    def test_bombs_are_refused_before_decoding(self, bomb, size, monkeypatch):
        monkeypatch.setattr(cv2, "imdecode", lambda *args: pytest.fail("decoded"))
        with pytest.raises(FrameError, match=f"{size[0]}x{size[1]} pixels is larger") as caught:
            decode_compressed_image(compressed(bomb(*size)))
        assert caught.value.reason == "size"

    @pytest.mark.parametrize("suffix", [".jpg", ".png", ".tiff", ".bmp", ".webp"])
    @pytest.mark.parametrize("size", [(1, 1), (23, 31), (1, 20_000)])
    def test_every_format_is_decoded(self, suffix, size):
        if suffix == ".webp" and max(size) > 16383:
            size = (1, 16383)
        original = cv2.GaussianBlur(noise_image(*size), (0, 0), 3)
        options = [cv2.IMWRITE_WEBP_QUALITY, 101] if suffix == ".webp" else []
        data = cv2.imencode(suffix, original, options)[1].tobytes()
        image = decode_compressed_image(compressed(data))
        assert image.shape == (*size, 3)
        assert np.abs(image[..., ::-1].astype(int) - original).mean() < 3

    def test_unknown_header_is_refused_before_decoding(self, monkeypatch):
        monkeypatch.setattr(cv2, "imdecode", lambda *args: pytest.fail("decoded"))
        for data in (b"P6\n30000 30000\n255\n", b"II*\0" + bytes(200), b"RIFF" + bytes(8), b"\xff\xd8" + bytes(200)):
            with pytest.raises(FrameError, match="damaged or not a supported image"):
                decode_compressed_image(compressed(data))

    @settings(max_examples=60, deadline=None)
    @given(position=st.integers(0, 10**6), value=st.integers(0, 255), suffix=st.sampled_from([".jpg", ".png"]))
    def test_one_wrong_byte_gives_an_image_or_a_frame_error(self, position, value, suffix):
        data = bytearray(encoded(suffix, noise_image(24, 32)))
        data[position % min(len(data), 700)] = value
        try:
            image = decode_compressed_image(compressed(bytes(data)))
        except FrameError:
            return
        assert image.ndim == 3
        assert image.shape[2] == 3


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
