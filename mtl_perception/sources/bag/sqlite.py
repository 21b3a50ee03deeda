"""Reader of .db3 files, the SQLite storage of ROS 2 bags."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Collection, Iterator
from contextlib import closing
from pathlib import Path

from mtl_perception.errors import one_line
from mtl_perception.sources.bag.scan import BagMessage, Channel, DamageError, Topic, channel_of, count_messages

SQLITE_MAGIC = b"SQLite format 3\0"
SQLITE_ERRORS = (sqlite3.Error, OverflowError, UnicodeDecodeError)
"""Python raises the last two for numbers of more than 64 bits, and for messages of SQLite that quote damaged names."""
LOG_OPTIONS = ("mode=ro&vfs=unix-none", "mode=ro")
"""Options of the URI to read a write-ahead log: first without locks and files beside it, which is enough if nobody writes."""

logger = logging.getLogger(__name__)


class SqliteFile:
    """A .db3 file; messages come in order of bag time. Nothing is written to it.

    A killed recorder in WAL mode (the preset `resilient`) leaves the last messages in NAME.db3-wal. They are read, too, or a
    warning says that they are lost.

    Attributes:
        path: The file.
        topics: Topics by name.

    Raises:
        DamageError: The file is not a bag, or is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._options = ""
        self._channels: dict[int, Channel] = {}
        self.topics: dict[str, Topic] = {}
        try:
            with closing(self._connect_first()) as database:
                rows = list(database.execute("SELECT id, name, type, serialization_format FROM topics ORDER BY id"))
                counts = dict(database.execute("SELECT topic_id, COUNT(*) FROM messages GROUP BY topic_id"))
        except SQLITE_ERRORS as error:
            raise DamageError(one_line(error)) from error
        for number, *texts in rows:
            if not all(isinstance(text, str) for text in texts):
                raise DamageError("the table of topics is invalid")
            self._channels[number] = channel_of(*texts)
            count_messages(self.topics, self._channels[number], counts.get(number, 0))

    def messages(self, topics: Collection[str]) -> Iterator[BagMessage]:
        """Return an iterator over the messages of some topics.

        Raises:
            DamageError: After the last message before the damage.
        """
        wanted = [number for number, channel in self._channels.items() if channel.topic in topics]
        # Without the data, so that no copy of them is sorted.
        query = "SELECT id, topic_id, timestamp FROM messages WHERE topic_id IN ({}) ORDER BY timestamp, id"
        try:
            with closing(self._connect(self._options)) as database:
                for row, number, time_ns in database.execute(query.format(", ".join("?" * len(wanted))), wanted):
                    (data,) = database.execute("SELECT data FROM messages WHERE id = ?", (row,)).fetchone() or (None,)
                    if not isinstance(data, bytes) or not isinstance(time_ns, int):
                        raise DamageError(f"message {row} is invalid")
                    channel = self._channels[number]
                    yield BagMessage(channel.topic, channel.type, time_ns, data, channel.encoding)
        except SQLITE_ERRORS as error:
            raise DamageError(one_line(error)) from error

    def _connect_first(self) -> sqlite3.Connection:
        """Return a connection, and choose the options with which all later ones are made."""
        log = self.path.with_name(f"{self.path.name}-wal")
        attempts: tuple[str, ...] = ()
        if log.is_file() and log.stat().st_size:
            # A running recorder has a file of shared memory, and needs locks.
            attempts = LOG_OPTIONS[::-1] if self.path.with_name(f"{self.path.name}-shm").exists() else LOG_OPTIONS
        failure = ""
        for self._options in (*attempts, "immutable=1"):
            try:
                database = self._connect(self._options)
                database.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
            except SQLITE_ERRORS as error:
                failure = one_line(error)
            else:
                if attempts and self._options == "immutable=1":
                    logger.warning("%s: the last messages are lost: %s cannot be read: %s", self.path.name, log.name, failure)
                return database
        raise sqlite3.DatabaseError(failure)

    def _connect(self, options: str) -> sqlite3.Connection:
        # A generator may be closed by another thread. The URI quotes characters such as # and ?.
        database = sqlite3.connect(f"{self.path.absolute().as_uri()}?{options}", uri=True, check_same_thread=False)
        if "unix-none" in options:
            # The index of the log is then in memory instead of in a file beside it.
            database.execute("PRAGMA locking_mode = EXCLUSIVE")
        return database
