"""Video files, decoded by PyAV one frame at a time."""

from __future__ import annotations

import contextlib
import itertools
import logging
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from mtl_perception.camera.calibration import load_calibration
from mtl_perception.camera.model import Calibration
from mtl_perception.camera.transforms import StaticTransform, link_transforms
from mtl_perception.errors import FrameError, SourceError, one_line, require
from mtl_perception.image.files import MAX_PIXELS, check_size
from mtl_perception.placeholders import HEAD_BYTES, describe_placeholder
from mtl_perception.sources.base import DEFAULT_RATE_HZ, FRAME_ID, WHOLE, CameraResolver, TimeSlice
from mtl_perception.sources.images import camera_file_beside
from mtl_perception.types import Frame

VIDEO_SUFFIXES = frozenset(
    (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".mts", ".m2ts", ".mpg", ".mpeg", ".3gp", ".ogv", ".wmv", ".flv")
) | frozenset((".h264", ".264", ".h265", ".hevc", ".mjpeg", ".mjpg"))

logger = logging.getLogger(__name__)


def is_video_file(path: Path) -> bool:
    """Return whether the path is a visible file with the suffix of a video."""
    return path.suffix.lower() in VIDEO_SUFFIXES and not path.name.startswith(".") and path.is_file()


class VideoSource:
    """Source of the frames of a video file; see `Source`.

    Frames are rotated upright as players do. Stamps are the presentation times, from 0 for the first frame; the frame rate may
    vary. Frames that cannot be decoded completely are counted in `rejected`. `len` is an estimate where the file does not
    state the number of frames.

    Args:
        path: The file.
        rectified: See `CameraResolver`.
        camera_file: Calibration file; by default one of `CAMERA_FILES` beside the video.

    Raises:
        DependencyError: PyAV is not installed.
        SourceError: The file is not a video, or no frame can be decoded.
        CameraError: The camera file cannot be used.
    """

    def __init__(self, path: Path, *, rectified: bool = True, camera_file: Path | None = None) -> None:
        require("av", extra="video", purpose="reading videos")
        self.path = path
        self.name = path.absolute().name
        self.rectified = rectified
        self.rejected: Counter[str] = Counter()
        self.rate_hz = DEFAULT_RATE_HZ
        self._first_pts: int | None = None
        with self._opened() as (container, stream):
            self.rate_hz, self._count = _rate_and_count(container, stream)
        first = next(iter(self._images(TimeSlice())), None)
        if first is None:
            raise SourceError(f"video {path} cannot be read: no frame can be decoded")
        height, width = first[1].shape[:2]
        self.camera_file = camera_file or camera_file_beside(path)
        self.calibration: Calibration | None = None
        if self.camera_file is not None:
            self.calibration = load_calibration(self.camera_file, size=(width, height), image=path)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Frame]:
        for _, frame in self.timed_frames():
            yield frame

    def static_transforms(self) -> list[StaticTransform]:
        """Return the transform of the optical frame."""
        return link_transforms(FRAME_ID)

    def timed_frames(self, part: TimeSlice = WHOLE) -> Iterator[tuple[int, Frame]]:
        """Return an iterator over stamp (ns) and frame; frames long before the part are not decoded.

        Raises:
            SourceError: The file is damaged or truncated; raised after the frames before the damage.
        """
        self.rejected.clear()
        cameras = CameraResolver(self.name, self.rectified)
        for stamp_ns, image in self._images(part):
            height, width = image.shape[:2]
            camera = cameras.camera(self.calibration, width, height)
            yield stamp_ns, Frame(image, camera, stamp_ns, FRAME_ID)

    def _images(self, part: TimeSlice) -> Iterator[tuple[int, np.ndarray]]:
        """Return an iterator over stamp and upright RGB image."""
        start, end = part.bounds_ns(0)
        # Formats without an index, such as MPEG-TS, may seek to a later time: then read from the beginning.
        for seek_ns in (start, 0):
            with self._opened() as (container, stream):
                frames = self._stamped(container, stream, seek_ns)
                first = next(frames, None)
                if seek_ns and (first is None or first[0] > start):
                    continue
                end_pts: int | None = None
                for stamp_ns, frame in itertools.chain([first] if first else [], frames):
                    if stamp_ns >= end:
                        return
                    if stamp_ns >= start and (image := self._convert(frame)) is not None:
                        yield stamp_ns, image
                    end_pts = None if frame.pts is None else frame.pts + (frame.duration or 0)
                self._check_end(container, stream, end_pts)
                return

    def _stamped(self, container: Any, stream: Any, seek_ns: int) -> Iterator[tuple[int, Any]]:
        """Return an iterator over stamp and decoded frame, from the last key frame until `seek_ns` if the format allows it."""
        if seek_ns and self._first_pts is not None:
            import av

            # Without a success, frames are read from the beginning.
            with contextlib.suppress(av.FFmpegError):
                container.seek(self._first_pts + int(seek_ns / 1e9 / stream.time_base), stream=stream)
        interval = round(1e9 / self.rate_hz)
        stamp_ns = -interval
        for frame in self._decode(container, stream):
            if frame.pts is None:
                stamp_ns += interval
            else:
                self._first_pts = frame.pts if self._first_pts is None else self._first_pts
                stamp_ns = round((frame.pts - self._first_pts) * Fraction(stream.time_base) * 10**9)
            yield stamp_ns, frame

    def _decode(self, container: Any, stream: Any) -> Iterator[Any]:
        """Return an iterator over the decoded frames in the order of presentation."""
        import av

        packets = container.demux(stream)
        while True:
            try:
                packet = next(packets, None)
            except av.FFmpegError as error:
                raise SourceError(f"video {self.path} is damaged: {error.strerror}") from None
            if packet is None:
                return
            try:
                frames = packet.decode()
            except av.FFmpegError as error:
                self._reject(f"cannot be decoded: {error.strerror}", "undecodable")
                continue
            yield from frames

    def _convert(self, frame: Any) -> np.ndarray | None:
        """Return a decoded frame as H x W x 3 uint8 RGB, or None if it is damaged."""
        if frame.is_corrupt:
            self._reject("is damaged", "damaged")
            return None
        try:
            check_size(frame.width, frame.height)
        except FrameError as error:
            self._reject(str(error), error.reason)
            return None
        image = frame.to_ndarray(format="rgb24")
        # Degrees counterclockwise, as in the file's display matrix.
        turns = round(frame.rotation / 90) % 4
        return np.ascontiguousarray(np.rot90(image, turns)) if turns else image

    def _reject(self, why: str, reason: str) -> None:
        self.rejected[reason] += 1
        if self.rejected[reason] == 1:
            logger.warning("%s: frame skipped, further ones with this reason silently: %s", self.name, why)

    def _check_end(self, container: Any, stream: Any, end_pts: int | None) -> None:
        """Raise SourceError if the frames end before the duration in the file's header.

        FFmpeg reads a truncated file up to its end without an error.
        """
        duration = _declared_duration(container, stream)
        if end_pts is None or duration is None:
            return
        seconds = float((end_pts - (stream.start_time or 0)) * stream.time_base)
        if seconds + 2 / self.rate_hz + 0.5 < duration:
            raise SourceError(f"video {self.path} is truncated: it ends after {seconds:.1f} s of {duration:.1f} s")

    @contextlib.contextmanager
    def _opened(self) -> Iterator[tuple[Any, Any]]:
        """Open the file; yield container and first video stream."""
        import av

        try:
            with self.path.open("rb") as file:
                placeholder = describe_placeholder(file.read(HEAD_BYTES))
            if placeholder:
                raise SourceError(f"video {self.path} is {placeholder}")
            # A playlist in place of a video must not open other addresses.
            options = {"protocol_whitelist": "file"}
            container = av.open(str(self.path.absolute()), options=options, metadata_errors="replace")
        except OSError as error:
            raise SourceError(f"video {self.path} cannot be read: {error.strerror}") from None
        except av.FFmpegError as error:
            # MP4 and MOV have their index at the end.
            cut = "; a recording that was cut has no index" if self.path.suffix.lower() in (".mp4", ".m4v", ".mov") else ""
            raise SourceError(f"video {self.path} cannot be read: {one_line(error.strerror)}{cut}") from None
        with container:
            stream = next(iter(container.streams.video), None)
            if stream is None or stream.codec_context is None:
                raise SourceError(f"video {self.path} cannot be read: it contains no video that FFmpeg decodes")
            try:
                check_size(stream.codec_context.width, stream.codec_context.height)
            except FrameError as error:
                raise SourceError(f"video {self.path} cannot be read: {error}") from None
            stream.thread_type = "AUTO"
            stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
            yield container, stream


def _declared_duration(container: Any, stream: Any) -> float | None:
    """Return the duration of the video stream in seconds as stated in the file's header; None if it states none."""
    if "avi" in container.format.name.split(","):
        return float(stream.frames / stream.average_rate) if stream.frames and stream.average_rate else None
    if stream.duration:
        return float(stream.duration * stream.time_base)
    if "DURATION" in stream.metadata:
        # Matroska and WebM: hours:minutes:seconds.
        with contextlib.suppress(ValueError):
            hours, minutes, seconds = map(float, stream.metadata["DURATION"].split(":"))
            return hours * 3600 + minutes * 60 + seconds
    # An audio stream may be longer than the video.
    return container.duration / 1e6 if container.duration and len(container.streams) == 1 else None


def _rate_and_count(container: Any, stream: Any) -> tuple[float, int]:
    """Return frame rate in Hz and number of frames."""
    # FFmpeg states 25 Hz as the average of streams without times.
    rates = (stream.average_rate, stream.guessed_rate) if stream.start_time is not None else (stream.guessed_rate,)
    rate_hz = next((float(rate) for rate in rates if rate), DEFAULT_RATE_HZ)
    duration = _declared_duration(container, stream) or (container.duration or 0) / 1e6
    count = stream.frames or round(duration * rate_hz) or sum(packet.size > 0 for packet in container.demux(stream))
    return rate_hz, count
