"""H.264 videos in MP4 for any browser, encoded by PyAV."""

from __future__ import annotations

import contextlib
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np

from mtl_perception.errors import ConfigError, FrameError, SourceError, require
from mtl_perception.visualization.colors import PANEL_COLOR, text_width, write_text
from mtl_perception.visualization.files import replacing

STACKING_ASPECT_RATIO = 2.0
"""Images with a larger ratio of width to height are stacked vertically."""


TIME_BASE = Fraction(1, 90_000)
"""Resolution of the times of a video with stamps, s; that of MPEG."""


class VideoWriter:
    """Writer of RGB images to a video; a context manager.

    The first image sets the size, padded to even sides; other sizes are letterboxed. The file appears when the block
    succeeds. After an error, or without images, no file is written. Images are shown at the frame rate, or with stamps at
    their times.

    Args:
        path: The MP4 file.
        rate_hz: Frame rate, Hz.

    Raises:
        ConfigError: `rate_hz` is out of range.
        DependencyError: PyAV is not installed.
        SourceError: PyAV has no H.264 encoder, or the file cannot be written.
    """

    def __init__(self, path: str | Path, rate_hz: float) -> None:
        if not 0.01 <= rate_hz <= 1000:
            raise ConfigError(f"video {path}: frame rate {rate_hz} Hz is outside 0.01 to 1000 Hz")
        self._av = _import_av()
        self._path = Path(path)
        self._rate = Fraction(rate_hz).limit_denominator(1001)
        self._files = contextlib.ExitStack()
        self._temporary: Path | None = None
        self._container: Any = None
        self._stream: Any = None
        self._first_ns, self._pts = 0, -1
        self.count = 0

    def __enter__(self) -> VideoWriter:
        self._temporary = self._files.enter_context(replacing(self._path))
        return self

    def write(self, image: np.ndarray, stamp_ns: int | None = None) -> None:
        """Append an image.

        Args:
            image: H x W x 3 uint8 RGB.
            stamp_ns: Time of the image in nanoseconds, for all images or for none; the video starts with the first one.

        Raises:
            FrameError: Shape or dtype is invalid.
            SourceError: The image cannot be encoded, or the file cannot be written.
        """
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
            raise FrameError(f"video {self._path}: {image.dtype} {image.shape} is not an H x W x 3 uint8 image", "bad_image")
        try:
            if self._container is None:
                self._open(image.shape[1] + image.shape[1] % 2, image.shape[0] + image.shape[0] % 2)
                if stamp_ns is not None:
                    self._first_ns = stamp_ns
                    self._stream.codec_context.time_base = TIME_BASE
            fitted = letterbox(image, self._stream.width, self._stream.height)
            frame = self._av.VideoFrame.from_ndarray(fitted, format="rgb24")
            if stamp_ns is not None:
                # Encoders refuse times that do not increase.
                self._pts = max(self._pts + 1, round((stamp_ns - self._first_ns) / 10**9 / TIME_BASE))
                frame.pts, frame.time_base = self._pts, TIME_BASE
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
        except (self._av.FFmpegError, OSError) as failure:
            if error is None:
                error = failure
                raise SourceError(f"cannot write video {self._path}: {failure}") from failure
        finally:
            if error is not None and self._temporary is not None:
                self._temporary.unlink(missing_ok=True)
            # Without the caller's error: `replacing` would report it as a failure to write.
            self._files.close()

    def _open(self, width: int, height: int) -> None:
        self._container = self._av.open(str(self._temporary), "w", format="mp4", options={"movflags": "+faststart"})
        self._stream = self._container.add_stream("libx264", rate=self._rate)
        self._stream.width, self._stream.height, self._stream.pix_fmt = width, height, "yuv420p"
        # Without an explicit color matrix, browsers guess one from the image size.
        colors = "colorprim=bt709:transfer=bt709:colormatrix=smpte170m"
        self._stream.options = {"crf": "21", "preset": "veryfast", "x264-params": colors}


def letterbox(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """Fit an image into `width` x `height`, keeping its aspect ratio, with dark borders.

    A single missing row or column, which results from padding odd sizes to even ones, repeats the edge instead.
    """
    missing = (height - image.shape[0], width - image.shape[1])
    if missing == (0, 0):
        return np.ascontiguousarray(image)
    if all(side in (0, 1) for side in missing):
        padded: np.ndarray = cv2.copyMakeBorder(image, 0, missing[0], 0, missing[1], cv2.BORDER_REPLICATE)
        return padded
    scale = min(width / image.shape[1], height / image.shape[0])
    size = (max(1, min(width, round(image.shape[1] * scale))), max(1, min(height, round(image.shape[0] * scale))))
    box = np.full((height, width, 3), PANEL_COLOR, np.uint8)
    x, y = (width - size[0]) // 2, (height - size[1]) // 2
    box[y : y + size[1], x : x + size[0]] = _resize(image, size)
    return box


def side_by_side(image: np.ndarray, overlay: np.ndarray, depth_colors: np.ndarray, max_width: int = 1280) -> np.ndarray:
    """Combine three captioned images: side by side, or stacked if they are more than twice as wide as high.

    Args:
        image: H x W x 3 uint8 RGB; the others are resized to its size.
        overlay: h x w x 3 uint8 RGB.
        depth_colors: h x w x 3 uint8 RGB.
        max_width: Maximum width of the result, pixels.

    Returns:
        H' x W' x 3 uint8 RGB.
    """
    height, width = image.shape[:2]
    stacked = width > STACKING_ASPECT_RATIO * height
    gap = 4
    room = max_width if stacked else (max_width - 2 * gap) // 3
    scale = min(1.0, room / width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    spacer = np.full((gap, size[0], 3) if stacked else (size[1], gap, 3), PANEL_COLOR, np.uint8)
    parts: list[np.ndarray] = []
    for panel, caption in ((image, "camera"), (overlay, "segmentation"), (depth_colors, "depth")):
        part = _resize(panel, size).copy()
        _caption(part, caption)
        parts += [part, spacer]
    return np.concatenate(parts[:-1], axis=0 if stacked else 1)


def _caption(image: np.ndarray, text: str) -> None:
    """Write text on a darkened patch in the upper left corner."""
    patch = image[6:26, 6 : 6 + text_width(text) + 14]
    patch[:] = patch // 4
    write_text(image, text, (13, 20))


def _resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    interpolation = cv2.INTER_AREA if size[0] < image.shape[1] else cv2.INTER_LINEAR
    resized: np.ndarray = cv2.resize(image, size, interpolation=interpolation)
    return resized


def _import_av() -> Any:
    require("av", extra="video", purpose="writing videos")
    import av

    if "libx264" not in av.codecs_available:
        raise SourceError("cannot write videos: PyAV lacks the encoder libx264; run pip install --force-reinstall av")
    return av
