"""Topics and serialized messages of ROS 1 and ROS 2 bags, without ROS."""

from __future__ import annotations

import logging
import re
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import yaml

from mtl_perception.errors import FrameError, SourceError, one_line, require
from mtl_perception.placeholders import describe_placeholder
from mtl_perception.sources.bag.mcap import McapFile, NoIndexError
from mtl_perception.sources.bag.messages import typestore
from mtl_perception.sources.bag.scan import (
    MCAP_MAGIC,
    ROS1,
    ROS1_MAGIC,
    BagMessage,
    Channel,
    DamageError,
    Topic,
    count_messages,
    decompress,
    import_zstd,
    scan,
)
from mtl_perception.sources.bag.sqlite import SQLITE_MAGIC, SqliteFile
from mtl_perception.sources.base import natural_key

ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
MAGICS = (ROS1_MAGIC, MCAP_MAGIC, SQLITE_MAGIC, ZSTD_MAGIC)
SUFFIXES = (".bag", ".mcap", ".db3")
METADATA = "metadata.yaml"
MAX_METADATA_BYTES = 2**24

logger = logging.getLogger(__name__)


class BagFile(Protocol):
    """One file of a bag.

    Attributes:
        path: The file.
        topics: Topics by name.
    """

    path: Path
    topics: dict[str, Topic]

    def messages(self, topics: Collection[str]) -> Iterator[BagMessage]:
        """Return an iterator over the messages of some topics; each call starts at the beginning.

        Raises:
            DamageError: After the last message before the damage.
        """


class Bag:
    """A readable bag of one or more files.

    Args:
        path: File or folder.
        files: Its files in order of time.

    Attributes:
        topics: Topics by name.
    """

    def __init__(self, path: Path, files: list[BagFile]) -> None:
        self.path = path
        self._files = files
        self.topics: dict[str, Topic] = {}
        for file in files:
            for name, topic in file.topics.items():
                count_messages(self.topics, Channel(name, topic.type), topic.count)

    def messages(self, topics: Collection[str]) -> Iterator[BagMessage]:
        """Return an iterator over the messages of some topics in order of bag time; each call starts at the beginning.

        A topic has messages of one type; others are left out.

        Raises:
            SourceError: After the last message before the damage.
        """
        wanted = {topic for topic in topics if topic in self.topics}
        damage = ""
        for file in self._files:
            try:
                for message in file.messages(wanted):
                    if message.type == self.topics[message.topic].type:
                        yield message
            except (DamageError, OSError) as error:
                if isinstance(file, _UnreadableFile):
                    fault = f"bag {file.path} cannot be read: {file.reason}; the readable files were read"
                else:
                    fault = f"bag {file.path} is damaged: {_reason(error)}; the messages before the damage were read"
                damage = damage or fault
        if damage:
            raise SourceError(damage)


def is_bag_file(path: Path) -> bool:
    """Return whether a file begins as a bag or a compressed one does, or is named like a bag."""
    if not path.is_file():
        return False
    if path.suffix.lower() in SUFFIXES:
        return True
    try:
        with path.open("rb") as file:
            return file.read(len(SQLITE_MAGIC)).startswith(MAGICS)
    except OSError:
        return False


def open_bag(path: Path) -> Bag:
    """Open a ROS 1 bag, a ROS 2 bag folder, or one file of it; the content decides, not the name.

    A truncated ROS 1 bag or .mcap is read up to the damage, with a warning. A folder without metadata.yaml, which the recorder
    writes last, or with one that does not match, is read in the order of its numbered files, with a warning.

    Raises:
        SourceError: The path is not a bag, or nothing in it can be read.
        DependencyError: rosbags is not installed.
    """
    require("rosbags", extra="bags", purpose=f"reading bag {path}")
    try:
        paths = _files_of(path) if path.is_dir() else [path]
    except (DamageError, OSError) as error:
        raise SourceError(f"bag {path} cannot be read: {_reason(error)}") from error
    files: list[BagFile] = []
    for file in paths:
        try:
            files.append(_open_file(file))
        except (DamageError, OSError) as error:
            files.append(_UnreadableFile(file, _reason(error)))
    unreadable = [file for file in files if isinstance(file, _UnreadableFile)]
    if len(unreadable) == len(files):
        raise SourceError(f"bag {unreadable[0].path} cannot be read: {unreadable[0].reason}")
    return Bag(path, files)


def _reason(error: Exception) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)


def _files_of(folder: Path) -> list[Path]:
    """Return the files of a bag folder in order of time: those that metadata.yaml lists, even if some of them are missing.

    If that is no help, because it was not written completely or all files were renamed, they are the numbered files of the
    folder, NAME_0.mcap, NAME_1.mcap, or the only file.

    Raises:
        DamageError: There is no file, or they are several bags.
    """
    found = sorted(filter(is_bag_file, folder.iterdir()), key=natural_key)
    names, fault = _listed_files(folder / METADATA)
    if not fault and not any((folder / name).is_file() for name in names):
        fault = f"{METADATA} lists {names[0]}, which is missing" if names else f"{METADATA} lists no files"
    if not fault:
        if unlisted := [file.name for file in found if file.name not in names]:
            logger.warning("%s: not reading %s, which %s does not list", folder.name, ", ".join(unlisted), METADATA)
        return [folder / name for name in names]
    if not found:
        raise DamageError(f"there is no bag in the folder, and {fault}")
    numbered = [re.fullmatch(r"(.*)_([0-9]+)", file.name.partition(".")[0]) for file in found]
    numbers = [(match[1], int(match[2])) for match in numbered if match]
    if len(found) > 1 and numbers != [(numbers[0][0] if numbers else "", i) for i in range(len(found))]:
        raise DamageError(f"{fault}; give one of the files: {', '.join(file.name for file in found[:5])}")
    logger.warning("%s: %s; reading %s", folder.name, fault, ", ".join(file.name for file in found))
    return found


def _listed_files(metadata: Path) -> tuple[list[str], str]:
    """Return the names of the files that metadata.yaml lists, and why it cannot be read; empty if it can."""
    try:
        with metadata.open("rb") as stream:
            document = yaml.safe_load(stream.read(MAX_METADATA_BYTES))
        return [PurePosixPath(name).name for name in document["rosbag2_bagfile_information"]["relative_file_paths"]], ""
    except FileNotFoundError:
        return [], f"{METADATA} is missing"
    except OSError as error:
        return [], f"{METADATA} cannot be read ({_reason(error)})"
    except (KeyError, TypeError):
        return [], f"{METADATA} does not list the files"
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        return [], f"{METADATA} is invalid ({type(error).__name__}: {one_line(error)})"


def _open_file(path: Path) -> BagFile:
    with path.open("rb") as stream:
        head = stream.read(2**12)
    if not head:
        raise DamageError("it is empty (0 bytes)")
    if head.startswith(ZSTD_MAGIC):
        return _CompressedFile(path)
    if head.startswith(SQLITE_MAGIC):
        return SqliteFile(path)
    try:
        if head.startswith(MCAP_MAGIC):
            return McapFile(path)
        if head.startswith(b"#ROSBAG"):
            return _Ros1File(path)
    except NoIndexError:
        return _ScannedFile(path)
    except DamageError as error:
        with suppress(OSError):
            scanned = _ScannedFile(path)
            if scanned.topics:
                logger.warning("%s: %s; reading it without its index", path.name, error)
                return scanned
        raise DamageError(f"{error}, and no message in it is complete") from error
    raise DamageError(f"it is {describe_placeholder(head) or 'neither a ROS 1 bag nor an MCAP or SQLite file'}")


class _CompressedFile:
    """A file of a bag that was recorded with --compression-mode file, decompressed to the folder for temporary files."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._folder = tempfile.TemporaryDirectory(prefix="mtl_perception_")
        copy = Path(self._folder.name) / path.name.removesuffix(".zstd")
        try:
            with import_zstd().open(path, "rb") as source, copy.open("wb") as target:
                shutil.copyfileobj(source, target)
        except Exception as error:
            # The library has its own error class.
            raise DamageError(f"it cannot be decompressed to {copy.parent}: {one_line(error)}") from error
        self._file = _open_file(copy)
        self.topics = self._file.topics

    def messages(self, topics: Collection[str]) -> Iterator[BagMessage]:
        return self._file.messages(topics)


def deserialize(message: BagMessage) -> Any:
    """Return the message as an object with its fields as attributes.

    A message that was recorded with --compression-mode message is decompressed.

    Raises:
        FrameError: The bytes are not such a message (reason "message").
    """
    data = message.data
    try:
        if message.encoding == ROS1:
            return typestore(is_ros1=True).deserialize_ros1(data, message.type)
        # The first byte of a message in CDR is 0.
        if data.startswith(ZSTD_MAGIC):
            data = bytes(decompress("zstd", memoryview(data)))
        return typestore(is_ros1=False).deserialize_cdr(data, message.type)
    except Exception as error:
        # The generated code fails in many ways on damaged bytes.
        cause = f"{type(error).__name__}: {one_line(error)}"
        raise FrameError(
            f"cannot deserialize a message on {one_line(message.topic)} as {message.type}: {cause}", "message"
        ) from error


class _Ros1File:
    """A ROS 1 bag read by rosbags, which uses the index at the end of the file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.topics: dict[str, Topic] = {}
        with _errors_as_damage(), self._reader() as reader:
            for connection in reader.connections:
                count_messages(self.topics, Channel(connection.topic, connection.msgtype), connection.msgcount)

    def _reader(self) -> Any:
        from rosbags import rosbag1

        return rosbag1.Reader(self.path)

    def messages(self, topics: Collection[str]) -> Iterator[BagMessage]:
        with _errors_as_damage(), self._reader() as reader:
            connections = [connection for connection in reader.connections if connection.topic in topics]
            for connection, time_ns, data in reader.messages(connections) if connections else ():
                yield BagMessage(connection.topic, connection.msgtype, time_ns, data, ROS1)


@contextmanager
def _errors_as_damage() -> Iterator[None]:
    """Raise DamageError for the many kinds of errors that rosbags raises on a damaged file."""
    try:
        yield
    except Exception as error:
        raise DamageError(one_line(error).rstrip(".")) from error


class _UnreadableFile:
    """One of several files that cannot be opened; the others are read."""

    def __init__(self, path: Path, reason: str) -> None:
        self.path = path
        self.reason = reason
        self.topics: dict[str, Topic] = {}

    def messages(self, topics: Collection[str]) -> Iterator[BagMessage]:
        raise DamageError(self.reason)


class _ScannedFile:
    """A file without a usable index, read from front to back."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.topics: dict[str, Topic] = {}
        with suppress(DamageError):
            for message in scan(path):
                count_messages(self.topics, Channel(message.topic, message.type), 1)

    def messages(self, topics: Collection[str]) -> Iterator[BagMessage]:
        for message in scan(self.path):
            if message.topic in topics:
                yield message
