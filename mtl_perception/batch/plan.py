"""Which sources a run processes, and the names of their outputs."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mtl_perception.batch.results import SourceResult
from mtl_perception.errors import ConfigError, SourceError
from mtl_perception.sources.base import TimeSlice
from mtl_perception.sources.files import is_pattern, match_pattern
from mtl_perception.sources.images import SUFFIXES as IMAGE_SUFFIXES
from mtl_perception.sources.video import VIDEO_SUFFIXES

SUFFIXES = (".mcap", ".bag", ".db3", ".zstd", ".active", *VIDEO_SUFFIXES, *IMAGE_SUFFIXES)
"""Suffixes that are no part of the name of an output."""


@dataclass(frozen=True)
class Task:
    """A source and the output to write.

    Attributes:
        source: What `open_source` opens; a path is absolute.
        output: The bag, `FOLDER/NAME.mcap`, or the data set, `FOLDER/NAME`.
    """

    source: str
    output: Path


def read_list(path: Path) -> list[str]:
    """Return the sources of a file with one on each line; empty lines and lines that begin with # are ignored.

    Raises:
        SourceError: The file cannot be read.
    """
    try:
        lines = [line.strip() for line in path.read_text("utf-8").splitlines()]
    except OSError as error:
        raise SourceError(f"list of sources {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SourceError(f"list of sources {path} cannot be read: it is not UTF-8 text with a source on each line") from None
    return [line for line in lines if line and not line.startswith("#")]


def expand_patterns(sources: Iterable[str]) -> list[str]:
    """Return sources with what matches in place of a pattern such as `recordings/*.mcap`.

    Raises:
        SourceError: Nothing matches a pattern.
    """
    return [str(path) for source in sources for path in (match_pattern(source) if is_pattern(source) else [source])]


def parse_shard(text: str) -> tuple[int, int]:
    """Return index (from 1) and number of shards of the value of --shard.

    Raises:
        ConfigError: The value is not I/N with 1 <= I <= N.
    """
    match = re.fullmatch(r"([1-9]\d{0,5})/([1-9]\d{0,5})", text, re.ASCII)
    if not match or int(match[1]) > int(match[2]):
        raise ConfigError(f"--shard {text!r} is not I/N with I from 1 to N, such as 1/8")
    return int(match[1]), int(match[2])


def make_plan(
    sources: Sequence[str],
    folder: Path,
    part: TimeSlice,
    results: Mapping[str, SourceResult],
    shard: tuple[int, int] = (1, 1),
    suffix: str = ".mcap",
) -> list[Task]:
    """Return the tasks of a shard: every N-th source of the list, without repetitions.

    An output is named after its source. If several sources have one name, or an earlier run used it for another
    source, a hash of the path is appended.

    Args:
        sources: All sources of the run, not only those of the shard: names must not depend on the shard.
        folder: Folder of the outputs.
        part: Part of each source; becomes part of the name.
        results: Results of earlier runs by output.
        shard: Index, from 1, and number of shards.
        suffix: Suffix of the outputs.

    Raises:
        ConfigError: An output would replace its source.
    """
    unique = list(dict.fromkeys(_absolute(source) for source in sources))
    # File systems may ignore case.
    shared = Counter(_stem(source).casefold() for source in unique)
    suffix = f"-{part}{suffix}" if str(part) else suffix
    tasks = []
    for source in unique:
        plain = f"{_stem(source)}{suffix}"
        hashed = f"{_stem(source)}-{hashlib.sha256(os.fsencode(source)).hexdigest()[:8]}{suffix}"
        known = {name: results[name].source == source for name in (plain, hashed) if name in results}
        is_taken = shared[_stem(source).casefold()] > 1 or not known.get(plain, True)
        name = hashed if hashed in known or (is_taken and not known.get(plain)) else plain
        output = folder / name
        if output.exists() and Path(source).exists() and output.samefile(source):
            raise ConfigError(f"output folder {folder} contains source {source}, which would be replaced; choose another one")
        tasks.append(Task(source, output))
    index, count = shard
    return tasks[index - 1 :: count]


def _absolute(source: str) -> str:
    return source if source.split(":")[0] == "synthetic" else os.path.abspath(os.path.expanduser(source))


def _stem(source: str) -> str:
    """Return the name of a source without the suffixes of its format."""
    name = Path(source).name.replace(":", "-")
    while name.lower().endswith(SUFFIXES):
        name = name.rpartition(".")[0]
    # An output NAME.partial.mcap is one that is not finished.
    return name.replace(".partial", "-partial") or "source"
