"""Compiled networks on the disk: made by this machine for itself, looked at twice before they are used.

An entry is used only if all that it was made from is what is asked for now, word for word, and its bytes are the ones that were
written. Anything else is as if it were not there: it is compiled again and written over.
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
"""Of about 12 MB each; beyond these, those not used for the longest time go."""
ABANDONED = 3600
"""Seconds after which a half-written file is that of a process that was killed."""


class Artifacts:
    """A folder of compiled networks. It never raises: without a usable folder, nothing is found and nothing kept.

    Args:
        folder: Where; None: `compiled` in the user's cache.

    Attributes:
        trouble: Why nothing is kept, or empty.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.trouble = ""
        self._folder: Path | None = None
        try:
            self._folder = folder or cache_folder() / FOLDER
            make_private_folder(self._folder, "compiled networks")
        except WeightsError as error:
            self._folder, self.trouble = None, str(error)

    def load(self, made_of: Mapping[str, str]) -> bytes | None:
        """The compiled network made of exactly this, or None."""
        path = self._path(made_of)
        if path is None:
            return None
        try:
            content = path.read_bytes()
        except OSError:
            return None
        head, _, body = content.partition(b"\n")
        if not head or head != _head(made_of, body):
            return None
        with contextlib.suppress(OSError):
            # Used now: others go first.
            os.utime(path)
        return body

    def store(self, made_of: Mapping[str, str], body: bytes) -> None:
        """Keep a compiled network, whole or not at all, in the place of one made of the same."""
        path = self._path(made_of)
        if path is None:
            return
        part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
        try:
            part.write_bytes(_head(made_of, body) + b"\n" + body)
            os.replace(part, path)
            self._forget_oldest(path.parent)
        except OSError as error:
            self.trouble = f"{path.parent}: compiled networks cannot be kept: {error.strerror or error}"
        finally:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)

    def discard(self, made_of: Mapping[str, str]) -> None:
        """Remove what cannot be used after all."""
        path = self._path(made_of)
        if path is not None:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)

    def _path(self, made_of: Mapping[str, str]) -> Path | None:
        if self._folder is None:
            return None
        digest = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()
        return self._folder / f"{digest[:32]}{SUFFIX}"

    def _forget_oldest(self, folder: Path) -> None:
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


def _head(made_of: Mapping[str, str], body: bytes) -> bytes:
    return json.dumps({"made of": made_of, "sha256": hashlib.sha256(body).hexdigest()}, sort_keys=True).encode()
