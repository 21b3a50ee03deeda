"""Image size from a file's header, without decoding the pixels.

Decoders allocate whatever a header claims: a GIF of fifty bytes made OpenCV fill 7 GB. Files with an unknown header are
therefore not decoded.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

IMAGE_FORMATS = "JPEG, PNG, TIFF, BMP, WebP and GIF"
"""Supported file formats."""
JPEG_SIGNATURE = b"\xff\xd8"
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_END_OF_IMAGE = b"\xff\xd9"
_START_OF_SCAN, _END = 0xDA, 0xD9
# C0 to CF start a frame, except Huffman tables (C4), a reserved marker (C8) and arithmetic conditioning (CC).
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# Restart markers and a private one have no length field.
_ALONE = frozenset(range(0xD0, 0xD8)) | {0x01}
_TIFF_WIDTH, _TIFF_HEIGHT = 256, 257


def image_size(data: bytes) -> tuple[int, int] | None:
    """Return width and height from an image file's header; None for an unknown format or a truncated header."""
    readers = {
        JPEG_SIGNATURE: _jpeg,
        PNG_SIGNATURE: _png,
        b"II*\0": _tiff,
        b"MM\0*": _tiff,
        b"BM": _bmp,
        b"RIFF": _webp,
        b"GIF8": _gif,
    }
    for signature, reader in readers.items():
        if data.startswith(signature):
            try:
                return reader(data)
            except (struct.error, IndexError):
                return None
    return None


def is_truncated(data: bytes) -> bool:
    """Return whether a JPEG or PNG has no end marker; data after it, such as padding by a driver, is allowed."""
    if data.startswith(PNG_SIGNATURE):
        return _is_truncated_png(data)
    if not data.startswith(JPEG_SIGNATURE):
        return False
    # A thumbnail in the header has its own end marker: search after the start of the scan.
    scan = next((start for marker, start in _jpeg_segments(data) if marker == _START_OF_SCAN), None)
    return scan is None or data.find(_END_OF_IMAGE, scan) < 0


def _is_truncated_png(data: bytes) -> bool:
    """Check the chunks here because OpenCV allocates up to 4 GB for a chunk before it notices that the data are missing."""
    position = len(PNG_SIGNATURE)
    while position + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        position += 12 + length
        if kind == b"IEND":
            return bool(position > len(data))
    return True


def _png(data: bytes) -> tuple[int, int]:
    width, height = struct.unpack_from(">II", data, 16)
    return width, height


def _gif(data: bytes) -> tuple[int, int]:
    width, height = struct.unpack_from("<HH", data, 6)
    return width, height


def _bmp(data: bytes) -> tuple[int, int]:
    (header_bytes,) = struct.unpack_from("<I", data, 14)
    # The oldest header has 16-bit sizes; a negative height means top-down rows.
    width, height = struct.unpack_from("<HH" if header_bytes == 12 else "<ii", data, 18)
    return width, abs(height)


def _webp(data: bytes) -> tuple[int, int] | None:
    kind, start = data[8:16], 20
    if kind == b"WEBPVP8X":
        # 24-bit values, as a 16-bit and an 8-bit part.
        low_width, high_width, low_height, high_height = struct.unpack_from("<HBHB", data, start + 4)
        return 1 + (high_width << 16 | low_width), 1 + (high_height << 16 | low_height)
    if kind == b"WEBPVP8L":
        (bits,) = struct.unpack_from("<I", data, start + 1)
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"WEBPVP8 ":
        width, height = struct.unpack_from("<HH", data, start + 6)
        return width & 0x3FFF, height & 0x3FFF
    return None


def _tiff(data: bytes) -> tuple[int, int] | None:
    order = "<" if data.startswith(b"II") else ">"
    (directory,) = struct.unpack_from(f"{order}I", data, 4)
    (count,) = struct.unpack_from(f"{order}H", data, directory)
    sizes = {}
    for position in range(directory + 2, directory + 2 + 12 * count, 12):
        tag, kind = struct.unpack_from(f"{order}HH", data, position)
        if tag in (_TIFF_WIDTH, _TIFF_HEIGHT):
            form = {1: "B", 3: "H", 4: "I"}.get(kind)
            if form is None or tag in sizes:
                return None
            (sizes[tag],) = struct.unpack_from(f"{order}{form}", data, position + 8)
    if len(sizes) < 2:
        return None
    return sizes[_TIFF_WIDTH], sizes[_TIFF_HEIGHT]


def _jpeg(data: bytes) -> tuple[int, int] | None:
    for marker, start in _jpeg_segments(data):
        if marker in _START_OF_FRAME:
            height, width = struct.unpack_from(">HH", data, start + 3)
            return width, height
    return None


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int]]:
    """Return an iterator over marker and position of the length field of each JPEG segment up to the first scan.

    Skips the same bytes as libjpeg; otherwise a crafted file could show one size here and another one to the decoder.
    """
    position = 2
    while (position := data.find(b"\xff", position)) >= 0 and position + 4 <= len(data):
        marker = data[position + 1]
        if marker == 0xFF:  # a fill byte
            position += 1
        elif marker == 0 or marker in _ALONE:
            position += 2
        else:
            yield marker, position + 2
            if marker in (_START_OF_SCAN, _END):
                return
            position += 2 + max(int.from_bytes(data[position + 2 : position + 4], "big"), 2)
