"""Disk cache of compiled networks.

An entry is used only if its key matches exactly and its checksum is right. Anything else counts as absent: it is compiled again
and overwritten.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
import uuid
from collections.abc import Mapping
from pathlib import Path

from mtl_perception.errors import WeightsError
from mtl_perception.weights.private import make_private_folder
from mtl_perception.weights.registry import cache_folder

FOLDER = "compiled"
SUFFIX = ".compiled"
MOST_ENTRIES = 16
"""Number of entries, of about 12 MB each, beyond which the least recently used are removed."""
ABANDONED = 3600
"""Age in seconds at which a partial file is taken to be left by a killed process."""


class ModelCache:
    """A folder of compiled networks. No method raises: without a usable folder nothing is found or stored.

    Args:
        folder: The folder; None: `compiled` in the user's cache.

    Attributes:
        problem: Why nothing is stored; empty if it works.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.problem = ""
        self._folder: Path | None = None
        try:
            self._folder = folder or cache_folder() / FOLDER
            make_private_folder(self._folder, "compiled networks")
        except WeightsError as error:
            self._folder, self.problem = None, str(error)

    def load(self, key: Mapping[str, str]) -> bytes | None:
        """Return the compiled network with this key, or None."""
        path = self._path(key)
        if path is None:
            return None
        try:
            content = path.read_bytes()
        except OSError:
            return None
        header, _, body = content.partition(b"\n")
        if not header or header != _header(key, body):
            return None
        with contextlib.suppress(OSError):
            # Marks it as recently used.
            os.utime(path)
        return body

    def store(self, key: Mapping[str, str], body: bytes) -> None:
        """Store a compiled network atomically, replacing one with the same key."""
        path = self._path(key)
        if path is None:
            return
        part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
        try:
            part.write_bytes(_header(key, body) + b"\n" + body)
            os.replace(part, path)
            self._remove_oldest(path.parent)
        except OSError as error:
            self.problem = f"{path.parent}: compiled networks cannot be stored: {error.strerror or error}"
        finally:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)

    def discard(self, key: Mapping[str, str]) -> None:
        """Remove an entry that cannot be used."""
        path = self._path(key)
        if path is not None:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)

    def _path(self, key: Mapping[str, str]) -> Path | None:
        if self._folder is None:
            return None
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        return self._folder / f"{digest[:32]}{SUFFIX}"

    def _remove_oldest(self, folder: Path) -> None:
        ages = {}
        for path in folder.glob(f"*{SUFFIX}"):
            with contextlib.suppress(OSError):
                ages[path] = path.stat().st_mtime_ns
        for path in folder.glob(".*.part"):
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime > ABANDONED:
                    path.unlink(missing_ok=True)
        for path in sorted(ages, key=lambda path: ages[path])[:-MOST_ENTRIES]:
            path.unlink(missing_ok=True)


def _header(key: Mapping[str, str], body: bytes) -> bytes:
    return json.dumps({"key": key, "sha256": hashlib.sha256(body).hexdigest()}, sort_keys=True).encode()
