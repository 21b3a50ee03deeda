"""Compressed images that are truncated, damaged or too large."""

from __future__ import annotations

import struct
import zlib

import cv2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.images import noise_image
from support.raw_images import compressed, encoded

from mtl_perception.errors import FrameError
from mtl_perception.messages.decode import decode_compressed_image


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
