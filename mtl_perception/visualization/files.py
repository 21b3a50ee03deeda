"""Atomic replacement of files, and names of partial ones."""

from __future__ import annotations

import contextlib
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
