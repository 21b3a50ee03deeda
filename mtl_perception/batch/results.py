"""The file `results.jsonl` of a run over several sources."""

from __future__ import annotations

import fcntl
import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from mtl_perception.errors import SourceError

FILE_NAME = "results.jsonl"
DONE, FAILED = "done", "failed"


@dataclass(frozen=True)
class SourceResult:
    """A line of the file: how the processing of one source ended.

    Attributes:
        source: Absolute path, or the name of a synthetic drive.
        output: Name of the bag in the folder of results.jsonl.
        status: DONE or FAILED.
        frames: Number of frames that were processed.
        seconds: Duration, s.
        error: Why it failed; "" if it is done.
    """

    source: str
    output: str
    status: str
    frames: int
    seconds: float
    error: str = ""


class ResultsFile:
    """Appends results and reads the latest ones. Several processes may append at the same time.

    Args:
        folder: Folder of the file and of the outputs.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE_NAME

    def append(self, result: SourceResult) -> None:
        """Append a line in one call, so that a process that is killed leaves whole lines.

        Raises:
            SourceError: The file cannot be written.
        """
        line = json.dumps(asdict(result)).encode() + b"\n"
        try:
            with self.path.open("a+b", buffering=0) as file:
                # Network file systems do not append atomically; some have no locks either.
                with suppress(OSError):
                    fcntl.flock(file, fcntl.LOCK_EX)
                if file.seek(0, os.SEEK_END):
                    file.seek(-1, os.SEEK_END)
                    # A full disk or a power cut may have truncated the line before.
                    line = line if file.read(1) == b"\n" else b"\n" + line
                file.write(line)
                os.fsync(file.fileno())
        except OSError as error:
            raise SourceError(f"results file {self.path} cannot be written: {error.strerror}") from error

    def read(self) -> dict[str, SourceResult]:
        """Return the latest result of each output; lines that are not a result are ignored.

        Raises:
            SourceError: The file exists but cannot be read.
        """
        try:
            lines = self.path.read_bytes().splitlines()
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise SourceError(f"results file {self.path} cannot be read: {error.strerror}") from error
        results = {}
        for line in lines:
            with suppress(ValueError, TypeError, KeyError):
                values = json.loads(line)
                result = SourceResult(**{field.name: values[field.name] for field in fields(SourceResult)})
                results[result.output] = result
        return results
