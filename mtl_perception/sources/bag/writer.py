"""Writing bags: mcap, as ROS 2 Jazzy's recorder does, without ROS."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from rosbags.interfaces import Connection, Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from mtl_perception.errors import SourceError

_INFINITE = QosTime(9_223_372_036, 854_775_807)
_T = TypeVar("_T")


class BagWriter:
    """A bag that is being written; use it in a `with` statement.

    It is written beside `path` under a hidden name and moved there when the block ends, also by an error or Ctrl-C: what has
    been written until then is kept. Only when nothing has been written before an error, no bag appears.
    Methods may be called from any thread.

    Args:
        path: `NAME.mcap` becomes a single file; any other name a folder with metadata.yaml. `ros2 bag play` takes both.
        force: Replace a bag that is there.

    Attributes:
        typestore: Message types, of Jazzy: build messages with `writer.typestore.types["std_msgs/msg/Header"](...)`.
        path: Where the bag will be.
        count: Messages written.

    Raises:
        SourceError: Something is at `path` already, or it cannot be written.
    """

    def __init__(self, path: str | Path, force: bool = False) -> None:
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
        # One thread does all the writing, so that Ctrl-C, which the main thread gets, cannot tear a record apart.
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

    def add_type(self, msgtype: str, definition: str) -> None:
        """Make a message type known that Jazzy's base installation lacks.

        Args:
            msgtype: `package/msg/Name`.
            definition: The text of its .msg file; types that it uses are known or added before.
        """
        if msgtype not in self.typestore.fielddefs:
            self.typestore.register(get_types_from_msg(definition, msgtype))

    def add_topic(self, topic: str, msgtype: str, latched: bool = False) -> None:
        """Announce a topic; needed only for latched ones (transient local), and for those that may stay empty."""
        self._do(lambda: self._add_topic(topic, msgtype, latched))

    def write(self, topic: str, msgtype: str, data: bytes, time_ns: int) -> None:
        """Append a message that is CDR already; `time_ns` is the bag time, when it was received."""

        def append() -> None:
            self._writer.write(self._add_topic(topic, msgtype, latched=False), time_ns, data)
            self.count += 1

        self._do(append)

    def write_message(self, topic: str, message: Any, time_ns: int) -> None:
        """Append a message made of the typestore's types."""
        msgtype = message.__msgtype__
        self.write(topic, msgtype, bytes(self.typestore.serialize_cdr(message, msgtype)), time_ns)

    def _do(self, job: Callable[[], _T]) -> _T:
        try:
            return self._thread.submit(job).result()
        except OSError as error:
            raise SourceError(f"output {self.path} cannot be written: {error.strerror or error}") from error

    def _check_replaceable(self) -> None:
        if not self.force:
            raise SourceError(f"output {self.path} exists already; choose another name, or force it to be replaced")
        if self.path.is_dir() and not (self.path / "metadata.yaml").is_file():
            raise SourceError(f"output {self.path} is a folder that is not a bag: it is not replaced")

    def _open(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._folder = Path(tempfile.mkdtemp(prefix=f".{self.path.name}.", suffix=".part", dir=self.path.parent))
        is_file = self.path.suffix == ".mcap"
        self._writer = Writer(
            self._folder / (self.path.stem if is_file else self.path.name), version=9, storage_plugin=StoragePlugin.MCAP
        )
        # Chunks of the mcap, which every reader of mcap takes; labels and colors shrink to a few percent.
        self._writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
        self._writer.open()
        self._result = self._writer.path / f"{self._writer.path.name}.mcap" if is_file else self._writer.path

    def _add_topic(self, topic: str, msgtype: str, latched: bool) -> Connection:
        if topic not in self._topics:
            if msgtype not in self.typestore.fielddefs:
                raise SourceError(f"output {self.path}: message type {msgtype} of {topic} is not known")
            self._topics[topic] = self._writer.add_connection(
                topic, msgtype, typestore=self.typestore, offered_qos_profiles=[_qos(latched)]
            )
        return self._topics[topic]

    def _close(self, keep: bool) -> None:
        try:
            self._writer.close()
        except BaseException:
            self._writer.abort()
            raise SourceError(f"output {self.path} could not be finished; what was written is in {self._result}") from None
        if keep:
            self._move_in_place()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _move_in_place(self) -> None:
        if self.path.exists():
            # It may have come after the beginning.
            try:
                self._check_replaceable()
            except SourceError as error:
                raise SourceError(f"{error}; what was written is in {self._result}") from None
            if self.path.is_dir() or self._result.is_dir():
                self.path.replace(self._folder / "replaced")
        self._result.replace(self.path)


def _qos(latched: bool) -> Qos:
    """Reliable, keep last 1; latched: transient local, so that late subscribers get the last one."""
    return Qos(
        history=QosHistory.KEEP_LAST,
        depth=1,
        reliability=QosReliability.RELIABLE,
        durability=QosDurability.TRANSIENT_LOCAL if latched else QosDurability.VOLATILE,
        deadline=_INFINITE,
        lifespan=_INFINITE,
        liveliness=QosLiveliness.AUTOMATIC,
        liveliness_lease_duration=_INFINITE,
        avoid_ros_namespace_conventions=False,
    )
