"""What a picture file's header says of its size, before memory is allocated for its pixels.

Decoders believe a header: fifty bytes of GIF had OpenCV fill 7 GB. So a file whose header is not understood is not decoded.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

IMAGE_FORMATS = "JPEG, PNG, TIFF, BMP, WebP and GIF"
"""Those that are understood."""
JPEG_SIGNATURE = b"\xff\xd8"
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_END_OF_IMAGE = b"\xff\xd9"
_START_OF_SCAN, _END = 0xDA, 0xD9
# All of C0 to CF begin a frame, but for tables (C4), a reserved one (C8) and arithmetic conditioning (CC).
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# Restarts, and one for private use, stand alone: no length follows.
_ALONE = frozenset(range(0xD0, 0xD8)) | {0x01}
_TIFF_WIDTH, _TIFF_HEIGHT = 256, 257


def image_size(data: bytes) -> tuple[int, int] | None:
    """Width and height that a picture announces; None for what is not of IMAGE_FORMATS, and for a header that is cut short."""
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
    """Whether a JPEG or PNG lacks its end; whatever follows the end, such as a driver's padding, is allowed."""
    if data.startswith(PNG_SIGNATURE):
        return _is_truncated_png(data)
    if not data.startswith(JPEG_SIGNATURE):
        return False
    # A thumbnail in the header has an end of its own: only one after the start of a scan counts.
    scan = next((start for marker, start in _jpeg_segments(data) if marker == _START_OF_SCAN), None)
    return scan is None or data.find(_END_OF_IMAGE, scan) < 0


def _is_truncated_png(data: bytes) -> bool:
    """Not left to the decoder: OpenCV fills the memory that a chunk says it needs, up to 4 GB, and then looks."""
    place = len(PNG_SIGNATURE)
    while place + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        place += 12 + length
        if kind == b"IEND":
            return bool(place > len(data))
    return True


def _png(data: bytes) -> tuple[int, int]:
    width, height = struct.unpack_from(">II", data, 16)
    return width, height


def _gif(data: bytes) -> tuple[int, int]:
    width, height = struct.unpack_from("<HH", data, 6)
    return width, height


def _bmp(data: bytes) -> tuple[int, int]:
    (header_bytes,) = struct.unpack_from("<I", data, 14)
    # The oldest kind has 16 bits; a negative height means that the rows come from the top.
    width, height = struct.unpack_from("<HH" if header_bytes == 12 else "<ii", data, 18)
    return width, abs(height)


def _webp(data: bytes) -> tuple[int, int] | None:
    kind, start = data[8:16], 20
    if kind == b"WEBPVP8X":
        # Of three bytes each.
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
    for place in range(directory + 2, directory + 2 + 12 * count, 12):
        tag, kind = struct.unpack_from(f"{order}HH", data, place)
        if tag in (_TIFF_WIDTH, _TIFF_HEIGHT):
            form = {1: "B", 3: "H", 4: "I"}.get(kind)
            if form is None or tag in sizes:
                return None
            (sizes[tag],) = struct.unpack_from(f"{order}{form}", data, place + 8)
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
    """Marker and place of each segment of a JPEG's header, up to the first scan; the place is that of its length.

    What libjpeg passes over is passed over here, or another size could be shown to us than to the decoder.
    """
    place = 2
    while (place := data.find(b"\xff", place)) >= 0 and place + 4 <= len(data):
        marker = data[place + 1]
        if marker == 0xFF:  # a fill byte
            place += 1
        elif marker == 0 or marker in _ALONE:
            place += 2
        else:
            yield marker, place + 2
            if marker in (_START_OF_SCAN, _END):
                return
            place += 2 + max(int.from_bytes(data[place + 2 : place + 4], "big"), 2)
