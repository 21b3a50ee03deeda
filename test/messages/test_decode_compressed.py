"""Decoding of compressed images: formats, channel order, and mosaics of Bayer sensors."""

from __future__ import annotations

import struct

import cv2
import numpy as np
import pytest
from support.images import noise_image
from support.raw_images import BAYER, CONTAINERS, compressed, encoded, message, mosaic, to_eight_bits

from mtl_perception.errors import FrameError
from mtl_perception.messages.decode import decode_compressed_image, decode_image


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

    @pytest.mark.parametrize("form", ["h264", "H264", "hevc", "bgr8; jpeg compressed bgr8"])
    def test_video_is_refused_as_video(self, form):
        data = bytes.fromhex("00000001 6742c01f 00000001 68ce3c80")
        with pytest.raises(FrameError) as caught:
            decode_compressed_image(compressed(data, form))
        is_video = "jpeg" not in form
        assert caught.value.reason == ("encoding" if is_video else "compressed")
        assert ("is video, which is not read; let the camera send JPEG" in str(caught.value)) == is_video

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
