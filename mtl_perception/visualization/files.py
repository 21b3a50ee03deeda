"""Atomic replacement of files, and names and locks of partial ones."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

from mtl_perception.errors import SourceError

PARTIAL_SUFFIXES = (".mcap", ".rrd")
"""Suffixes of files that keep them while they are written, so that viewers open what is there."""


def partial_path(path: Path) -> Path:
    """Return the path of a recording while it is written: NAME.partial.mcap, NAME.partial.rrd, or a folder NAME.partial."""
    return path.with_name(f"{path.stem}.partial{path.suffix}" if path.suffix in PARTIAL_SUFFIXES else f"{path.name}.partial")


def replaced_error(path: Path, partial: Path) -> str:
    """Return the error of a process whose partial output another one has replaced, on a file system without locks."""
    return f"output {path}: another process has replaced {partial}; do not write an output twice at the same time"


class WriteLock:
    """Lock on a file that shows other processes that it is being written.

    The lock ends with the process. A process id would not do: another process may get it later, and processes of other machines
    or containers have ids of their own. On network file systems such as NFS the lock holds for all machines. Where the file
    system has no locks, `is_at` still tells whether another process has put a file of its own in the place.

    Args:
        file: An existing file.

    Raises:
        BlockingIOError: Another process has locked the file.
        OSError: The file cannot be opened for writing.
    """

    def __init__(self, file: Path) -> None:
        # NFS has exclusive locks only for files that are open for writing, flock(2).
        self._file = file.open("r+b", buffering=0)
        if _flock(self._file.fileno(), fcntl.LOCK_EX) is False:
            self._file.close()
            raise BlockingIOError(errno.EWOULDBLOCK, "another process has locked it", str(file))

    def is_at(self, file: Path) -> bool:
        """Return whether this is still the file at a path, also after a rename."""
        try:
            return os.path.samestat(os.fstat(self._file.fileno()), file.stat())
        except FileNotFoundError:
            return False

    def sync(self) -> None:
        """Write the file to the disk; see fsync(2)."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Release the lock."""
        self._file.close()


def is_locked(file: Path) -> bool | None:
    """Return whether another process has locked a file with `WriteLock`; None if the file system has no locks."""
    with file.open("rb") as opened:
        is_free = _flock(opened.fileno(), fcntl.LOCK_SH)
    return None if is_free is None else not is_free


def _flock(descriptor: int, kind: int) -> bool | None:
    """Return whether an open file could be locked; None if the file system has no locks."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path that replaces `path` when the block succeeds and is removed when it fails.

    Readers see either the old file or the complete new one. The parent folder is created. If the block writes no file, nothing
    is replaced.

    Args:
        path: The file to replace; the temporary path is in the same folder and has the same suffix.

    Raises:
        SourceError: The file cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}{path.suffix}")
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            if temporary.exists():
                os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Convert OSError to SourceError.

    Raises:
        SourceError: The file cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise SourceError(f"cannot write {path}: {error.strerror or error}") from error
