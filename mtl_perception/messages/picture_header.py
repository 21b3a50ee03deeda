"""What the first bytes of a JPEG or PNG say, before memory is allocated for its pixels."""

from __future__ import annotations

from collections.abc import Iterator

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
JPEG_SIGNATURE = b"\xff\xd8"
_END_OF_IMAGE = b"\xff\xd9"
_START_OF_SCAN = 0xDA
# All of C0 to CF begin a frame, but for tables (C4), a reserved one (C8) and arithmetic conditioning (CC).
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


def picture_size(data: bytes) -> tuple[int, int] | None:
    """Width and height that a JPEG or PNG announces; None for other data, and for a header cut short."""
    if data.startswith(PNG_SIGNATURE) and len(data) >= 24:
        return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    for marker, start in _jpeg_segments(data):
        if marker in _START_OF_FRAME and len(data) >= start + 7:
            return int.from_bytes(data[start + 5 : start + 7], "big"), int.from_bytes(data[start + 3 : start + 5], "big")
    return None


def is_cut_off(data: bytes) -> bool:
    """Whether a JPEG lacks its end; whatever follows the end, such as a driver's padding, is allowed."""
    if not data.startswith(JPEG_SIGNATURE):
        return False
    # A thumbnail in the header has an end of its own: only one after the start of a scan counts.
    scan = next((start for marker, start in _jpeg_segments(data) if marker == _START_OF_SCAN), None)
    return scan is None or data.find(_END_OF_IMAGE, scan) < 0


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int]]:
    """Marker and place of each segment of a JPEG's header, up to the first scan; the place is that of its length."""
    if not data.startswith(JPEG_SIGNATURE):
        return
    place = 2
    while place + 4 <= len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        if marker == 0xFF:  # a fill byte
            place += 1
            continue
        yield marker, place + 2
        if marker == _START_OF_SCAN:
            return
        place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
