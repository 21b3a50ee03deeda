"""Small image files of every supported format and its variants."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import cv2
import numpy as np


def _encoded(suffix: str, pixels: np.ndarray, *options: int) -> bytes:
    return bytes(cv2.imencode(suffix, pixels, list(options))[1])


def png_chunk(kind: bytes, body: bytes) -> bytes:
    """Return a PNG chunk with length and CRC."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def animated_png(width: int = 8, height: int = 6, frames: int = 3) -> bytes:
    rows = zlib.compress((b"\0" + bytes(range(width)) * 3) * height)
    parts = [png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))]
    parts.append(png_chunk(b"acTL", struct.pack(">II", frames, 0)))
    for number in range(frames):
        parts.append(png_chunk(b"fcTL", struct.pack(">IIIIIHHBB", 2 * number, width, height, 0, 0, 1, 10, 0, 0)))
        body = rows if number == 0 else struct.pack(">I", 2 * number + 1) + rows
        parts.append(png_chunk(b"IDAT" if number == 0 else b"fdAT", body))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts) + png_chunk(b"IEND", b"")


def animated_gif(width: int = 8, height: int = 6, frames: int = 3) -> bytes:
    data = _encoded(".gif", _smooth(height, width))
    start = data.index(b"!\xf9\x04") if b"!\xf9\x04" in data else data.index(b",")
    return data[:start] + (data[start:-1] * frames) + b";"


def cmyk_jpeg(width: int = 16, height: int = 8) -> bytes:
    """Return a minimal JPEG of four components with gray blocks."""
    components = b"".join(bytes([number, 0x11, 0]) for number in range(1, 5))
    frame = struct.pack(">BHHB", 8, height, width, 4) + components
    scan = b"\4" + b"".join(bytes([number, 0]) for number in range(1, 5)) + b"\0\x3f\0"
    tables = b"\0" + b"\1" + bytes(15) + b"\0" + b"\x10" + b"\1" + bytes(15) + b"\0"
    segments = [(0xEE, b"Adobe\0\x64\0\0\0\0\0"), (0xDB, b"\0" + b"\1" * 64), (0xC0, frame), (0xC4, tables), (0xDA, scan)]
    head = b"".join(struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body for marker, body in segments)
    # One bit encodes "DC unchanged" and one "end of block", so four blocks take one byte.
    return b"\xff\xd8" + head + bytes(-(-width // 8) * -(-height // 8)) + b"\xff\xd9"


def cmyk_tiff(width: int = 8, height: int = 6) -> bytes:
    size = 4 * width * height
    entries: list[tuple[int, int, int, int]] = [
        (256, 4, 1, width), (257, 4, 1, height), (258, 3, 4, 134), (259, 3, 1, 1), (262, 3, 1, 5), (273, 4, 1, 142),
        (277, 3, 1, 4), (278, 4, 1, height), (279, 4, 1, size), (284, 3, 1, 1),
    ]  # fmt: skip
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries) + bytes(4)
    head = b"II*\0" + struct.pack("<I", 8) + directory
    return head + struct.pack("<4H", 8, 8, 8, 8) + bytes(range(256)) * (size // 256) + bytes(size % 256)


def _smooth(height: int, width: int) -> np.ndarray:
    ramp = np.add.outer(np.arange(height), np.arange(width))
    return np.stack([ramp * 3, ramp * 5, 255 - ramp], axis=-1).astype(np.uint8)


def _images() -> dict[str, bytes]:
    small, deep = _smooth(12, 16), (_smooth(6, 8).astype(np.uint16) << 8)
    images: dict[str, Any] = {
        "JPEG": _encoded(".jpg", small),
        "JPEG, progressive": _encoded(".jpg", small, cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
        "JPEG, restarts": _encoded(".jpg", small, cv2.IMWRITE_JPEG_RST_INTERVAL, 1),
        "JPEG, gray": _encoded(".jpg", small[..., 0]),
        "JPEG, CMYK": cmyk_jpeg(),
        "JPEG, 1 x 1": _encoded(".jpg", small[:1, :1]),
        "JPEG, 20,000 x 1": _encoded(".jpg", _smooth(1, 20_000)),
        "PNG": _encoded(".png", small),
        "PNG, 16 bits": _encoded(".png", deep),
        "PNG, transparent": _encoded(".png", np.dstack([small, small[..., 0]])),
        "PNG, 1 x 1": _encoded(".png", small[:1, :1]),
        "PNG, 20,000 x 1": _encoded(".png", _smooth(1, 20_000)),
        "PNG, 1 x 20,000": _encoded(".png", _smooth(20_000, 1)),
        "PNG, animated": animated_png(),
        "TIFF": _encoded(".tiff", small),
        "TIFF, 16 bits": _encoded(".tiff", deep),
        "TIFF, float": _encoded(".tiff", small.astype(np.float32)),
        "TIFF, CMYK": cmyk_tiff(),
        "BMP": _encoded(".bmp", small),
        "BMP, gray": _encoded(".bmp", small[..., 0]),
        "WebP": _encoded(".webp", small),
        "WebP, lossless": _encoded(".webp", small, cv2.IMWRITE_WEBP_QUALITY, 101),
    }
    if hasattr(cv2, "IMWRITE_GIF_LOOP"):
        # OpenCV 4 supports GIF since 4.11.
        images |= {"GIF": _encoded(".gif", small), "GIF, animated": animated_gif()}
    return images


IMAGE_FILES = _images()
"""Files by variant. Float and CMYK TIFF are valid, but not every OpenCV version reads them."""
