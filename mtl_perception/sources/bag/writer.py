"""Bag writer for mcap files as the recorder of ROS 2 Jazzy writes them, without ROS."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from mtl_perception.errors import SourceError, require

if TYPE_CHECKING:
    from rosbags.interfaces import Connection, Qos

_T = TypeVar("_T")


class BagWriter:
    """Context manager that writes a bag.

    The bag is written beside `path` under a hidden name and moved there when the block ends, even by an exception or Ctrl-C, so
    that everything written until then is kept. No bag appears if an exception ends the block before the first message.
    Methods may be called from any thread.

    Args:
        path: `NAME.mcap` becomes a single file, any other name a folder with metadata.yaml. `ros2 bag play` reads both.
        force: Replace an existing bag.

    Attributes:
        typestore: Message types of Jazzy; build messages with `writer.typestore.types["std_msgs/msg/Header"](...)`.
        path: Path of the finished bag.
        count: Number of messages written.

    Raises:
        SourceError: `path` exists, or cannot be written.
        DependencyError: rosbags is not installed.
    """

    def __init__(self, path: str | Path, force: bool = False) -> None:
        require("rosbags", extra="bags", purpose=f"writing bag {path}")
        from rosbags.typesys import Stores, get_typestore

        self.path = Path(path)
        self.force = force
        self.count = 0
        self.typestore = get_typestore(Stores.ROS2_JAZZY)
        self._topics: dict[str, Connection] = {}
        if self.path.suffix in (".bag", ".db3"):
            raise SourceError(f"output {self.path}: bags are written as mcap; name it {self.path.stem}.mcap, or a folder")
        if self.path.exists():
            self._check_replaceable()

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
            self._do(lambda: self._close(keep=kind is None or self.count > 0))
        finally:
            self._thread.shutdown(wait=False)

    def add_type(self, type_name: str, definition: str) -> None:
        """Register a message type that is not part of Jazzy's base installation.

        Args:
            type_name: `package/msg/Name`.
            definition: Text of its .msg file; the types it uses must be registered before.
        """
        from rosbags.typesys import get_types_from_msg

        if type_name not in self.typestore.fielddefs:
            self.typestore.register(get_types_from_msg(definition, type_name))

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

    def _do(self, task: Callable[[], _T]) -> _T:
        try:
            return self._thread.submit(task).result()
        except OSError as error:
            raise SourceError(f"output {self.path} cannot be written: {error.strerror or error}") from error

    def _check_replaceable(self) -> None:
        if not self.force:
            raise SourceError(f"output {self.path} already exists; choose another name, or replace it with --force")
        if self.path.is_dir() and not (self.path / "metadata.yaml").is_file():
            raise SourceError(f"output {self.path} is not replaced: it is a folder but not a bag; choose another name")

    def _open(self) -> None:
        from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer

        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._folder = Path(tempfile.mkdtemp(prefix=f".{self.path.name}.", suffix=".part", dir=self.path.parent))
        is_file = self.path.suffix == ".mcap"
        self._writer = Writer(
            self._folder / (self.path.stem if is_file else self.path.name), version=9, storage_plugin=StoragePlugin.MCAP
        )
        # Every mcap reader supports compressed chunks; labels and colors compress to a few percent.
        self._writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
        self._writer.open()
        self._result = self._writer.path / f"{self._writer.path.name}.mcap" if is_file else self._writer.path

    def _add_topic(self, topic: str, type_name: str, latched: bool) -> Connection:
        if topic not in self._topics:
            if type_name not in self.typestore.fielddefs:
                raise SourceError(f"output {self.path}: unknown message type {type_name} of {topic}")
            self._topics[topic] = self._writer.add_connection(
                topic, type_name, typestore=self.typestore, offered_qos_profiles=[_qos(latched)]
            )
        return self._topics[topic]

    def _close(self, keep: bool) -> None:
        try:
            self._writer.close()
        except BaseException:
            self._writer.abort()
            raise SourceError(f"output {self.path} could not be finished; the incomplete bag is in {self._result}") from None
        if keep:
            self._move_in_place()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _move_in_place(self) -> None:
        if self.path.exists():
            # Another process may have created it in the meantime.
            try:
                self._check_replaceable()
            except SourceError as error:
                raise SourceError(f"{error}; the bag is in {self._result}") from None
            if self.path.is_dir() or self._result.is_dir():
                self.path.replace(self._folder / "replaced")
        self._result.replace(self.path)


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
