"""Bag writer for mcap files as the recorder of ROS 2 Jazzy writes them, without ROS."""

from __future__ import annotations

import contextlib
import glob
import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from mtl_perception.errors import SourceError, require
from mtl_perception.sources.bag.messages import typestore
from mtl_perception.visualization.files import WriteLock, is_locked, partial_path, replaced_error

if TYPE_CHECKING:
    from rosbags.interfaces import Connection, Qos

_T = TypeVar("_T")


class BagWriter:
    """Context manager that writes a bag.

    The bag is written to `partial` and moves to `path` when the block ends without an exception: a bag at `path` is complete.
    After an exception, such as Ctrl-C, the messages until then are at `partial`; without any message, nothing is. A process
    that is killed leaves `partial` as well, without an index; `open_bag` and other mcap readers read it up to its end.
    Methods may be called from any thread.

    Args:
        path: `NAME.mcap` becomes a single file, any other name a folder with metadata.yaml. `ros2 bag play` reads both.
        force: Replace an existing bag, and what an earlier run left at `partial`.

    Attributes:
        typestore: Types of Jazzy and LabelInfo; build messages with `writer.typestore.types["std_msgs/msg/Header"](...)`.
        path: Path of the finished bag.
        partial: Path of the bag until then.
        count: Number of messages written.

    Raises:
        SourceError: `path` or `partial` exists, or cannot be written.
        DependencyError: rosbags is not installed.
    """

    def __init__(self, path: str | Path, force: bool = False) -> None:
        require("rosbags", extra="bags", purpose=f"writing bag {path}")
        self.path = Path(path)
        self.partial = partial_path(self.path)
        self.force = force
        self.count = 0
        self.typestore = typestore(is_ros1=False)
        self._topics: dict[str, Connection] = {}
        self._file = self.partial if self.path.suffix == ".mcap" else self.partial / f"{self.path.name}.mcap"
        self._failed = False
        if self.path.suffix in (".bag", ".db3"):
            raise SourceError(f"output {self.path}: bags are written as mcap; name it {self.path.stem}.mcap, or a folder")
        if self.path.exists():
            self._check_replaceable()
        if self.partial.exists():
            self._check_partial()

    def __enter__(self) -> BagWriter:
        # A single thread writes, so that a KeyboardInterrupt in the main thread cannot truncate a record.
        self._thread = ThreadPoolExecutor(1, "bag-writer")
        try:
            self._do(self._open)
        except BaseException:
            self._thread.shutdown(wait=False)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            # An error while the bag is finished must not hide the one that ended the block.
            with contextlib.nullcontext() if kind is None else contextlib.suppress(SourceError):
                self._do(lambda: self._close(complete=kind is None))
        finally:
            self._thread.shutdown(wait=False)
            self._lock.close()

    def add_topic(self, topic: str, type_name: str, latched: bool = False) -> None:
        """Add a topic; required only for transient local topics and for topics that may stay empty."""
        self._do(lambda: self._add_topic(topic, type_name, latched))

    def write(self, topic: str, type_name: str, data: bytes, time_ns: int) -> None:
        """Append a serialized message.

        Args:
            topic: Topic name.
            type_name: ROS message type.
            data: The message in CDR.
            time_ns: Bag time (time of reception), nanoseconds.
        """

        def append() -> None:
            self._writer.write(self._add_topic(topic, type_name, latched=False), time_ns, data)
            self.count += 1

        self._do(append)

    def write_message(self, topic: str, message: Any, time_ns: int) -> None:
        """Append a message of one of the typestore's types."""
        type_name = message.__msgtype__
        self.write(topic, type_name, bytes(self.typestore.serialize_cdr(message, type_name)), time_ns)

    def set_custom_data(self, key: str, value: str) -> None:
        """Set an entry of `custom_data` in the metadata of the bag (metadata.yaml, and the record `rosbag2` of the file)."""
        self._writer.set_custom_data(key, value)

    def flush(self) -> None:
        """Write the messages that wait for a full chunk of 1 MiB, so that they survive if the process is killed."""

        def write_chunk() -> None:
            # rosbags has no public method for this.
            storage: Any = self._writer.storage
            if storage.chunk.msgs:
                storage.close_chunk()
                storage.bio.flush()

        self._do(write_chunk)

    def _do(self, task: Callable[[], _T]) -> _T:
        try:
            return self._thread.submit(task).result()
        except OSError as error:
            self._failed = True
            raise SourceError(f"output {self.path} cannot be written: {error.strerror or error}{self._location()}") from error

    def _location(self) -> str:
        return f"; what was written until then is in {self.partial}" if self.count and self._file.exists() else ""

    def _check_replaceable(self) -> None:
        if not self.force:
            raise SourceError(f"output {self.path} already exists; choose another name, or replace it with --force")
        if self.path.is_dir() and not (self.path / "metadata.yaml").is_file():
            raise SourceError(f"output {self.path} is not replaced: it is a folder but not a bag; choose another name")

    def _check_partial(self) -> None:
        """Raise SourceError unless `partial` is what an earlier run left, and is to be replaced."""
        names = {path.name for path in self.partial.iterdir()} if self.partial.is_dir() else {self._file.name}
        others = names - {self._file.name, "metadata.yaml", "metadata.yaml.tmp"}
        if not names:
            return
        if self._file.is_file() and is_locked(self._file):
            raise SourceError(f"output {self.path}: another process is writing {self.partial}")
        if not self.force:
            raise SourceError(
                f"output {self.path}: an earlier run did not finish and left {self.partial}; "
                "read it as it is or rename it, or replace it with --force"
            )
        if others:
            raise SourceError(f"output {self.path}: {self.partial} is not replaced, because it contains {min(others)}")

    def _open(self) -> None:
        from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer

        self.path.parent.mkdir(parents=True, exist_ok=True)
        _remove(self.partial)
        if self.force:
            # A process that is killed in the next lines leaves the folder of their names.
            for scratch_folder in self.path.parent.glob(f".{glob.escape(self.path.name)}.????????"):
                if scratch_folder.is_dir():
                    _remove(scratch_folder)
        # rosbags only writes to a new folder that is named like the file. The open file is moved out of it.
        with tempfile.TemporaryDirectory(prefix=f".{self.path.name}.", dir=self.path.parent) as scratch:
            self._writer = Writer(Path(scratch) / self._file.stem, version=9, storage_plugin=StoragePlugin.MCAP)
            # Every mcap reader supports compressed chunks; labels and colors compress to a few percent.
            self._writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
            self._writer.open()
            self._file.parent.mkdir(exist_ok=True)
            created = self._writer.path / f"{self._file.stem}.mcap"
            # Locked before others see it.
            self._lock = WriteLock(created)
            created.rename(self._file)

    def _add_topic(self, topic: str, type_name: str, latched: bool) -> Connection:
        if topic not in self._topics:
            if type_name not in self.typestore.fielddefs:
                raise SourceError(f"output {self.path}: unknown message type {type_name} of {topic}")
            self._topics[topic] = self._writer.add_connection(
                topic, type_name, typestore=self.typestore, offered_qos_profiles=[_qos(latched)]
            )
        return self._topics[topic]

    def _close(self, complete: bool) -> None:
        """Finish the file, and move it if the bag is complete; otherwise keep what there is."""
        try:
            if self._failed:
                raise OSError("an earlier message could not be written")
            self._finish()
        except BaseException as error:
            with contextlib.suppress(Exception):
                self._writer.abort()
            if not self.count:
                self._remove_partial()
            reason = error.strerror or error if isinstance(error, OSError) else error
            raise SourceError(f"output {self.path} could not be finished: {reason}{self._location()}") from error
        if complete:
            self._move_in_place()
        elif not self.count:
            self._remove_partial()

    def _finish(self) -> None:
        with tempfile.TemporaryDirectory(prefix="mtl_perception_") as scratch:
            # A single file has no metadata.yaml beside it.
            self._writer.metapath = (Path(scratch) if self.partial == self._file else self.partial) / "metadata.yaml"
            self._writer.close()
        # The name must not survive a power cut that the content does not.
        self._lock.sync()

    def _remove_partial(self) -> None:
        if self._lock.is_at(self._file):
            _remove(self.partial)

    def _move_in_place(self) -> None:
        if not self._lock.is_at(self._file):
            raise SourceError(replaced_error(self.path, self.partial))
        replaced = self.path.with_name(f"{self.path.name}.replaced")
        if self.path.exists():
            # Another process may have created it in the meantime.
            try:
                self._check_replaceable()
            except SourceError as error:
                raise SourceError(f"{error}; the bag is in {self.partial}") from None
            if self.path.is_dir() or self.partial.is_dir():
                _remove(replaced)
                self.path.rename(replaced)
        self.partial.replace(self.path)
        _remove(replaced)


def _remove(path: Path) -> None:
    """Remove a file or a folder, if it exists."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _qos(latched: bool) -> Qos:
    """Return reliable, keep last 1; transient local if latched."""
    from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime

    infinite = QosTime(9_223_372_036, 854_775_807)
    return Qos(
        history=QosHistory.KEEP_LAST,
        depth=1,
        reliability=QosReliability.RELIABLE,
        durability=QosDurability.TRANSIENT_LOCAL if latched else QosDurability.VOLATILE,
        deadline=infinite,
        lifespan=infinite,
        liveliness=QosLiveliness.AUTOMATIC,
        liveliness_lease_duration=infinite,
        avoid_ros_namespace_conventions=False,
    )
