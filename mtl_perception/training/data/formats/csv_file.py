"""CSV files with a header, a line for each image or object."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from mtl_perception.errors import ConfigError


def read_csv_file(path: Path, columns: Sequence[str], name: str) -> list[tuple[str, list[str]]]:
    """Read the lines below the header; empty ones are ignored.

    Args:
        path: The file.
        columns: The header that it must have.
        name: What the file is, for messages, such as "camera table".

    Returns:
        For each line its place, as messages state it, and its words.

    Raises:
        ConfigError: The file cannot be read, or has another header.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            header, *lines = list(csv.reader(file)) or [[]]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{name} {path} cannot be read: {error}") from None
    if [word.strip() for word in header] != list(columns):
        raise ConfigError(f"{name} {path}: the first line is not {','.join(columns)}")
    return [(f"{name} {path}, line {number}", line) for number, line in enumerate(lines, 2) if line]
