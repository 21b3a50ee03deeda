"""Recordings for the Rerun viewer: results as .rrd files, or streamed to a viewer.

| entity | content |
|---|---|
| `/` | class names and colors |
| `world/camera` | pinhole camera; the world is its optical frame (x right, y down, z forward) |
| `world/camera/image` | image, JPEG unless told otherwise |
| `world/camera/labels` | class ids, 255 = unlabeled |
| `world/camera/depth` | meters, float16; NaN = invalid, +Inf = beyond `max_depth` |
| `world/camera/confidence` | softmax maximum, 0 to 255 |
| `world/points` | points with class ids, at most `points` of them |
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from types import TracebackType
from typing import Any, Protocol

import cv2
import numpy as np

from mtl_perception.errors import SourceError, require
from mtl_perception.labels import ClassSet
from mtl_perception.types import UNLABELED, Outputs
from mtl_perception.visualization.cloud import EYE, TARGET, UNLABELED_COLOR, sample_points
from mtl_perception.visualization.files import partial_path

STAMP, FRAME = "stamp", "frame"
"""Timelines: time stamp of the image, and number of the frame from 0."""

MAX_OPEN_FRAMES = 100
"""Frames to which outputs may be added: in a recording of a node, the next images come before the outputs of one."""

CAMERA, POINTS = "world/camera", "world/points"
LOGGED_OUTPUTS = ("image", "labels", "depth", "confidence", "cloud")
"""Results that are logged, of types.OUTPUTS."""

FLUSH_TIMEOUT = 60.0
"""Seconds that a frame may take to be written or sent."""


@dataclass(frozen=True)
class RerunOptions:
    """How results are logged.

    Attributes:
        points: Maximum number of points of a frame; 0 logs none.
        jpeg: JPEG quality of the image, 1 to 100; 0 logs it uncompressed.
    """

    points: int = 60_000
    jpeg: int = 85

    def needed_results(self) -> frozenset[str]:
        """Return which of types.OUTPUTS are logged."""
        return frozenset(LOGGED_OUTPUTS) - ({"cloud"} if not self.points else set())


class HasClasses(Protocol):
    """What a log needs of a pipeline."""

    class_set: ClassSet

    @property
    def max_depth(self) -> float:
        """Upper end of the depth range, meters."""


class RerunLog:
    """Logs results of one camera to a file or a viewer.

    Args:
        name: Name of the recording in the viewer.
        class_set: Classes of the labels.
        max_depth: Upper end of the depth colors, meters.
        options: How to log.
        image_has_labels: Whether the images are overlays, over which labels are not drawn again.

    Raises:
        DependencyError: rerun-sdk is not installed.
    """

    def __init__(
        self,
        name: str,
        class_set: ClassSet,
        max_depth: float,
        options: RerunOptions | None = None,
        image_has_labels: bool = False,
    ) -> None:
        require_rerun("logging to Rerun")
        import rerun

        self.frames = 0
        self._rerun: Any = rerun
        self._max_depth, self._image_has_labels = max_depth, image_has_labels
        self._options = options or RerunOptions()
        self._numbers: dict[int, int] = {}
        self._unstamped: set[str] = set()
        self._camera: object = None
        self._size: tuple[int, int] | None = None
        self._file: _PipedFile | None = None
        self._stream: Any = rerun.RecordingStream("mtl_perception")
        self._stream.set_log_time_enabled(False)
        self._stream.set_log_tick_enabled(False)
        self._name, self._class_set = name, class_set

    def save(self, path: Path) -> None:
        """Write to a file.

        Raises:
            SourceError: The file cannot be written.
        """
        self._file = _PipedFile(path)
        self._stream.save(self._file.pipe)
        self._file.close_pipe()
        self._start()

    def connect(self, port: int) -> None:
        """Send to the viewer that listens on a port of this machine."""
        self._stream.connect_grpc(f"rerun+http://127.0.0.1:{port}/proxy")
        self._start()

    def set_classes(self, class_set: ClassSet) -> None:
        """Set the classes of the labels, also of those that were logged."""
        rerun = self._rerun
        named = zip(class_set.names, class_set.colors, strict=True)
        infos = [rerun.AnnotationInfo(i, name, color) for i, (name, color) in enumerate(named)]
        infos.append(rerun.AnnotationInfo(UNLABELED, "unlabeled", UNLABELED_COLOR))
        self._stream.log("/", rerun.AnnotationContext(infos), static=True)

    def log(self, outputs: Outputs, stamp_ns: int) -> None:
        """Log what there is of a frame; the outputs of one frame may come in several calls.

        Args:
            outputs: Outputs; labels, depth and confidence have one size, to which the image is resized.
            stamp_ns: Stamp, nanoseconds; a frame with 0 is on the timeline `frame` only.

        Raises:
            SourceError: The file cannot be written, or the viewer has been closed.
        """
        number = self._numbers.get(stamp_ns)
        if not stamp_ns:
            given = {name for name, value in vars(outputs).items() if value is not None}
            if given & self._unstamped:
                # The next image without a stamp.
                number = None
            self._unstamped = given if number is None else self._unstamped | given
        if number is None:
            if not self.frames:
                # The views would be empty on a timeline without frames.
                self._stream.send_blueprint(self._blueprint(STAMP if stamp_ns else FRAME))
            # Insert stamp 0 again, so that it is not the oldest.
            self._numbers.pop(stamp_ns, None)
            number = self._numbers[stamp_ns] = self.frames
            self.frames += 1
            if len(self._numbers) > MAX_OPEN_FRAMES:
                del self._numbers[next(iter(self._numbers))]
        self._stream.set_time(FRAME, sequence=number)
        if stamp_ns:
            self._stream.set_time(STAMP, timestamp=np.datetime64(stamp_ns, "ns"))
        rerun, log = self._rerun, self._stream.log
        camera = outputs.camera
        if camera is not None and camera != self._camera:
            self._camera, self._size = camera, (camera.width, camera.height)
            matrix = [[camera.fx, 0, camera.cx], [0, camera.fy, camera.cy], [0, 0, 1]]
            log(CAMERA, rerun.Pinhole(image_from_camera=matrix, resolution=self._size, image_plane_distance=1.0))
        if outputs.labels is not None:
            self._size = (outputs.labels.shape[1], outputs.labels.shape[0])
            log(f"{CAMERA}/labels", rerun.SegmentationImage(outputs.labels))
        if outputs.image is not None:
            log(f"{CAMERA}/image", self._encode(outputs.image))
        if outputs.depth is not None:
            depth = rerun.DepthImage(
                outputs.depth.astype(np.float16), meter=1.0, colormap="turbo", depth_range=(0, self._max_depth)
            )
            log(f"{CAMERA}/depth", depth)
        if outputs.confidence is not None:
            log(f"{CAMERA}/confidence", rerun.Image(outputs.confidence))
        if outputs.cloud is not None and self._options.points:
            points = sample_points(outputs.cloud, self._options.points)
            positions = np.stack([points[axis] for axis in "xyz"], axis=-1)
            log(POINTS, rerun.Points3D(positions, class_ids=points["label"].astype(np.uint16), radii=0.03))
        self._flush()

    def close(self) -> None:
        """Finish the file, or disconnect from the viewer.

        Raises:
            SourceError: The file cannot be written.
        """
        self._stream.disconnect()
        if self._file is not None:
            self._file.finish()
            self._file.check()

    def _start(self) -> None:
        self._stream.send_recording_name(self._name)
        self._stream.log("world", self._rerun.ViewCoordinates.RDF, static=True)
        self.set_classes(self._class_set)

    def _flush(self) -> None:
        # After each frame, because the SDK would buffer frames without limit.
        try:
            self._stream.flush(timeout_sec=FLUSH_TIMEOUT)
        except Exception as error:
            raise SourceError(f"recording {self._name} cannot be sent to the viewer: {error}") from error
        if self._file is not None:
            self._file.check()

    def _encode(self, image: np.ndarray) -> Any:
        if self._size is not None and self._size != (image.shape[1], image.shape[0]):
            image = cv2.resize(image, self._size, interpolation=cv2.INTER_AREA)
        if not self._options.jpeg:
            return self._rerun.Image(image)
        _, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, self._options.jpeg])
        return self._rerun.EncodedImage(contents=data.tobytes(), media_type="image/jpeg")

    def _blueprint(self, timeline: str) -> Any:
        """Return the arrangement of views: four images in a column, and the cloud seen from behind the camera."""
        import rerun.blueprint

        rrb: Any = rerun.blueprint

        def images(title: str, *names: str) -> Any:
            blended = {f"{CAMERA}/labels": self._rerun.SegmentationImage.from_fields(opacity=0.5)}
            contents = [f"+ {CAMERA}/{name}" for name in names]
            return rrb.Spatial2DView(
                origin=CAMERA, name=title, contents=contents, overrides=blended if len(names) > 1 else None
            )

        column = rrb.Vertical(
            images("overlay", *(["image"] if self._image_has_labels else ["image", "labels"])),
            images("labels", "labels"),
            images("depth (m)", "depth"),
            rrb.Tabs(images("confidence", "confidence"), images("image", "image")),
        )
        cloud = rrb.Spatial3DView(
            origin="world",
            name="points",
            contents=[f"+ {POINTS}", f"+ {CAMERA}", f"+ {CAMERA}/image"],
            background=(17, 20, 26),
            eye_controls=rrb.EyeControls3D(position=EYE, look_target=TARGET, eye_up=(0, -1, 0)),
        )
        return rrb.Blueprint(
            rrb.Horizontal(column, cloud, column_shares=[2, 3]),
            rrb.TimePanel(timeline=timeline, state="collapsed"),
            rrb.BlueprintPanel(state="collapsed"),
            rrb.SelectionPanel(state="collapsed"),
        )


class _PipedFile:
    """File that the SDK writes through a pipe, because it often hangs when it cannot write to a file itself.

    Args:
        path: The file.

    Attributes:
        pipe: Path at which the SDK opens the pipe.

    Raises:
        SourceError: The file cannot be created.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._error: OSError | None = None
        try:
            self._file = path.open("wb", buffering=0)
        except OSError as error:
            raise SourceError(f"recording {path} cannot be written: {error.strerror}") from error
        self._read_end, self._write_end = os.pipe()
        self.pipe = f"/dev/fd/{self._write_end}"
        self._thread = Thread(target=self._copy, name="rerun file", daemon=True)
        self._thread.start()

    def close_pipe(self) -> None:
        """Leave the pipe to the SDK, which has opened it."""
        os.close(self._write_end)

    def check(self) -> None:
        """Raise SourceError if the file could not be written."""
        if self._error is not None:
            raise SourceError(f"recording {self._path} cannot be written: {self._error.strerror}") from self._error

    def finish(self) -> None:
        """Wait until all is written that the SDK has written to the pipe and closed."""
        self._thread.join()

    def _copy(self) -> None:
        with open(self._read_end, "rb", buffering=0) as pipe, self._file:
            while data := pipe.read(2**20):
                # After an error the rest is discarded, so that the SDK can go on.
                if self._error is None:
                    self._write(data)

    def _write(self, data: bytes) -> None:
        try:
            view = memoryview(data)
            while view:
                view = view[self._file.write(view) :]
        except OSError as error:
            self._error = error


class RerunFile:
    """Context manager that logs to an .rrd file.

    As with bags, the file is `NAME.partial.rrd` until the block ends without an exception. After an exception, what was
    logged until then stays there.

    Args:
        log: Log that is not yet connected to a file or a viewer.
        path: `NAME.rrd`.
        force: Replace an existing file, and what an earlier run left at NAME.partial.rrd.

    Raises:
        SourceError: The file, or a partial one, exists; or the name does not end in .rrd.
    """

    def __init__(self, log: RerunLog, path: Path, force: bool = False) -> None:
        self._log, self._path, self._partial = log, path, partial_path(path)
        check_path(path, force)

    def __enter__(self) -> RerunLog:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SourceError(f"recording {self._path} cannot be written: {error.strerror}") from error
        self._log.save(self._partial)
        return self._log

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        # An error while the file is finished must not hide the one that ended the block.
        with nullcontext() if kind is None else suppress(SourceError):
            self._log.close()
        if kind is None:
            os.replace(self._partial, self._path)
        elif not self._log.frames:
            self._partial.unlink(missing_ok=True)


def require_rerun(purpose: str) -> None:
    """Check that rerun-sdk can be imported; see `require`."""
    # The SDK, which reads this when it is imported, would report on stderr what `RerunLog` and its callers report.
    os.environ.setdefault("RUST_LOG", "off")
    require("rerun", extra="rerun", purpose=purpose)


def open_rerun(
    path: Path | None, name: str, classes: HasClasses, options: RerunOptions, force: bool = False
) -> AbstractContextManager[RerunLog | None]:
    """Return a context manager that logs to a file, or one that returns None without a path; see `RerunFile`.

    Args:
        path: `NAME.rrd`, or None.
        name: Name of the recording in the viewer.
        classes: Classes and range of depth: a pipeline.
        options: How to log.
        force: Replace an existing file.
    """
    if path is None:
        return nullcontext()
    return RerunFile(RerunLog(name, classes.class_set, classes.max_depth, options), path, force)


def check_path(path: Path, force: bool = False) -> None:
    """Check that a file can be created.

    Raises:
        SourceError: The file, or a partial one, exists and `force` is false; or the name does not end in .rrd.
    """
    if path.suffix != ".rrd":
        raise SourceError(f"recording {path}: the name must end in .rrd")
    for existing in (path, partial_path(path)):
        if existing.exists() and not force:
            raise SourceError(f"recording {existing} already exists; choose another name, or replace it with --force")
