"""Small video files with a number in each frame."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np

IDENTITY = b"".join(value.to_bytes(4, "big") for value in (1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30))
QUARTER_CLOCKWISE = b"".join(
    value.to_bytes(4, "big", signed=True) for value in (0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
)
"""Display matrices as in the header of a track in MP4 files (ISO/IEC 14496-12, 8.3.2)."""


def numbered_image(index: int, height: int = 48, width: int = 64) -> np.ndarray:
    """Return an image whose gray level is `level(index)`, with a red patch in the upper left corner."""
    image = np.full((height, width, 3), level(index), np.uint8)
    image[: height // 4, : width // 4] = (220, 30, 30)
    return image


def level(index: int) -> int:
    """Return the gray level of a numbered image."""
    return 40 + 8 * (index % 24)


def number_of(image: np.ndarray) -> int:
    """Return the index, modulo 24, of a decoded numbered image."""
    height, width = image.shape[:2]
    return round((float(image[height // 2 :, width // 2 :].mean()) - 40) / 8)


def write_video(
    path: Path,
    images: Sequence[np.ndarray],
    *,
    rate: int = 10,
    times_ms: Sequence[int] | None = None,
    codec: str = "libx264",
    movflags: str = "",
) -> Path:
    """Write RGB images to a video with a key frame every 12 images.

    Args:
        path: The file; the suffix selects the format.
        images: H x W x 3 uint8 RGB, even sides.
        rate: Frame rate, Hz.
        times_ms: Time of each image in ms; by default at the rate.
        codec: Encoder.
        movflags: Options of the MP4 muxer.
    """
    import av

    with av.open(str(path), "w", options={"movflags": movflags} if movflags else {}) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.options = {"g": "12", "crf": "10"}
        if times_ms is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for index, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            if times_ms is not None:
                frame.pts, frame.time_base = times_ms[index], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def truncate(path: Path, share: float) -> Path:
    """Cut a file to a share of its size."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path
