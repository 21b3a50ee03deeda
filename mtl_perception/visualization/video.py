"""Videos that any browser plays: H.264 in MP4, by PyAV."""

from __future__ import annotations

import contextlib
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np

from mtl_perception.errors import ConfigError, FrameError, SourceError
from mtl_perception.visualization.colors import PANEL_COLOR, write_text
from mtl_perception.visualization.files import replacing

WIDE = 2.0
"""Pictures wider than this many times their height are shown one above the other."""


class VideoWriter:
    """Writes RGB pictures as a video; use it in a `with` statement.

    The first picture sets the size, padded to even sides; later ones of another size are letterboxed into it. The file
    takes its name when the block ends well; without pictures, or after an error, there is none.

    Args:
        path: The MP4 file.
        rate_hz: Pictures a second, above 0.

    Raises:
        ConfigError: `rate_hz` is no rate.
        SourceError: PyAV is not installed, it has no H.264 encoder, or the file cannot be written.
    """

    def __init__(self, path: str | Path, rate_hz: float) -> None:
        if not 0.01 <= rate_hz <= 1000:
            raise ConfigError(f"video {path}: {rate_hz} pictures a second is outside 0.01 to 1000")
        self._av = _import_av()
        self._path = Path(path)
        self._rate = Fraction(rate_hz).limit_denominator(1001)
        self._files = contextlib.ExitStack()
        self._temporary: Path | None = None
        self._container: Any = None
        self._stream: Any = None
        self.count = 0

    def __enter__(self) -> VideoWriter:
        self._temporary = self._files.enter_context(replacing(self._path))
        return self

    def write(self, picture: np.ndarray) -> None:
        """Append a picture.

        Args:
            picture: H x W x 3 uint8 RGB.

        Raises:
            FrameError: It is not such a picture.
            SourceError: It cannot be encoded, or the file cannot be written.
        """
        if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8 or picture.size == 0:
            raise FrameError(
                f"video {self._path}: {picture.dtype} {picture.shape} is not an H x W x 3 uint8 picture", "bad_picture"
            )
        try:
            if self._container is None:
                self._open(picture.shape[1] + picture.shape[1] % 2, picture.shape[0] + picture.shape[0] % 2)
            fitted = letterbox(picture, self._stream.width, self._stream.height)
            frame = self._av.VideoFrame.from_ndarray(fitted, format="rgb24")
            self._container.mux(self._stream.encode(frame))
        except (self._av.FFmpegError, OSError) as error:
            raise SourceError(f"cannot write video {self._path}: {error}") from error
        self.count += 1

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        try:
            if self._container is not None:
                with self._container:
                    if error is None:
                        self._container.mux(self._stream.encode())
        except (self._av.FFmpegError, OSError) as trouble:
            if error is None:
                error = trouble
                raise SourceError(f"cannot write video {self._path}: {trouble}") from trouble
        finally:
            if error is not None and self._temporary is not None:
                self._temporary.unlink(missing_ok=True)
            # The caller's error is not one of writing, so `replacing` is not told of it.
            self._files.close()

    def _open(self, width: int, height: int) -> None:
        self._container = self._av.open(str(self._temporary), "w", format="mp4", options={"movflags": "+faststart"})
        self._stream = self._container.add_stream("libx264", rate=self._rate)
        self._stream.width, self._stream.height, self._stream.pix_fmt = width, height, "yuv420p"
        # Browsers guess the color matrix from the size unless the stream names the one that was used.
        colors = "colorprim=bt709:transfer=bt709:colormatrix=smpte170m"
        self._stream.options = {"crf": "21", "preset": "veryfast", "x264-params": colors}


def letterbox(picture: np.ndarray, width: int, height: int) -> np.ndarray:
    """The picture fitted into `width` x `height` with its proportions; the rest is dark.

    One row or column too few, as odd sizes have when sides must be even, is repeated instead.
    """
    missing = (height - picture.shape[0], width - picture.shape[1])
    if missing == (0, 0):
        return np.ascontiguousarray(picture)
    if all(side in (0, 1) for side in missing):
        padded: np.ndarray = cv2.copyMakeBorder(picture, 0, missing[0], 0, missing[1], cv2.BORDER_REPLICATE)
        return padded
    scale = min(width / picture.shape[1], height / picture.shape[0])
    size = (max(1, min(width, round(picture.shape[1] * scale))), max(1, min(height, round(picture.shape[0] * scale))))
    box = np.full((height, width, 3), PANEL_COLOR, np.uint8)
    x, y = (width - size[0]) // 2, (height - size[1]) // 2
    box[y : y + size[1], x : x + size[0]] = _resize(picture, size)
    return box


def side_by_side(
    image: np.ndarray,
    overlay: np.ndarray,
    depth_picture: np.ndarray,
    max_width: int = 1280,
    captions: tuple[str, str, str] = ("camera", "segmentation", "depth"),
) -> np.ndarray:
    """Three pictures as one, with captions: wide ones (ratio above 2) one above the other, others side by side.

    Args:
        image: H x W x 3 uint8 RGB; its size holds for all three, the others are resized.
        overlay: h x w x 3 uint8 RGB.
        depth_picture: h x w x 3 uint8 RGB.
        max_width: The result is not wider, pixels.
        captions: Small text in each one's corner.

    Returns:
        H' x W' x 3 uint8 RGB.
    """
    height, width = image.shape[:2]
    stacked = width > WIDE * height
    gap = 4
    room = max_width if stacked else (max_width - 2 * gap) // 3
    scale = min(1.0, room / width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    spacer = np.full((gap, size[0], 3) if stacked else (size[1], gap, 3), PANEL_COLOR, np.uint8)
    parts: list[np.ndarray] = []
    for picture, caption in zip((image, overlay, depth_picture), captions, strict=True):
        part = _resize(picture, size).copy()
        _caption(part, caption)
        parts += [part, spacer]
    return np.concatenate(parts[:-1], axis=0 if stacked else 1)


def _caption(picture: np.ndarray, text: str) -> None:
    """Text in the upper left corner on a darkened patch, so that it can be read on any picture."""
    (width, _), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.45, 1)
    patch = picture[6:26, 6 : 6 + width + 14]
    patch[:] = patch // 4
    write_text(picture, text, (13, 20))


def _resize(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    shrinks = size[0] < picture.shape[1]
    resized: np.ndarray = cv2.resize(picture, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return resized


def _import_av() -> Any:
    try:
        import av
    except ImportError as error:
        raise SourceError("videos need PyAV: pip install av") from error
    if "libx264" not in av.codecs_available:
        raise SourceError("videos need the H.264 encoder libx264, which this PyAV lacks: pip install --force-reinstall av")
    return av
