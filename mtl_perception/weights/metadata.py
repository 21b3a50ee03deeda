"""Descriptions in weights files, read without PyTorch where the file allows it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from mtl_perception.errors import WeightsError, one_line
from mtl_perception.network.description import Description, published_description
from mtl_perception.placeholders import HEAD_BYTES, describe_placeholder

METADATA_KEY = "mtl_perception"
FORMAT_VERSION = 1


def is_checkpoint(path: Path) -> bool:
    """Return whether a file is a PyTorch checkpoint according to its first bytes.

    Raises:
        WeightsError: It cannot be read, or is a placeholder of another file.
    """
    try:
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror}") from error
    placeholder = describe_placeholder(head)
    if placeholder:
        raise WeightsError(f"{path} is {placeholder}")
    # A safetensors file may start with the bytes of a pickle, but its ninth byte is the opening brace of its header.
    return head[8:9] != b"{" and head.startswith((b"PK", b"\x80"))


def read_description(path: Path) -> Description:
    """Return the description of a weights file.

    Raises:
        WeightsError: The file is neither a safetensors file of this package nor a published checkpoint.
    """
    if is_checkpoint(path):
        from mtl_perception.weights.states import read_state_dict

        return describe_published(path, read_state_dict(path))
    with open_safetensors(path, "numpy") as file:
        return parse_metadata(path, file.metadata())


@contextmanager
def open_safetensors(path: Path, framework: str) -> Iterator[Any]:
    """Open a safetensors file, whose length is checked; the framework of its tensors is "pt" or "numpy".

    Raises:
        WeightsError: It is damaged or no safetensors file.
    """
    try:
        with safe_open(str(path), framework=framework) as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise WeightsError(
            f"{path}: damaged, or neither a safetensors file nor a PyTorch checkpoint: {one_line(error)}"
        ) from error


def parse_metadata(path: Path, metadata: Mapping[str, str] | None) -> Description:
    """Return the description in the metadata of a safetensors file.

    Raises:
        WeightsError: There is none, or its format is unsupported or invalid.
    """
    metadata = metadata or {}
    if METADATA_KEY not in metadata:
        raise WeightsError(f"{path}: the safetensors file has no model description; it was not written by mtl_perception")
    try:
        version = int(json.loads(metadata.get("format", "0")))
    except (ValueError, TypeError):
        version = 0
    if version != FORMAT_VERSION:
        raise WeightsError(f"{path}: unsupported weights format {version}; this version reads format {FORMAT_VERSION}")
    try:
        return Description.from_json(metadata[METADATA_KEY])
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from error


def describe_published(path: Path, state: Mapping[str, Any]) -> Description:
    """Return the description of a published checkpoint, which follows from its tensors.

    Raises:
        WeightsError: They are not those of a published network.
    """
    if "segm.weight" not in state or state["segm.weight"].ndim != 4:
        raise WeightsError(f"{path}: not a published network: entry 'segm.weight' is missing or has a wrong shape")
    tasks = 3 if "normal.weight" in state else 2
    try:
        return published_description(len(state["segm.weight"]), tasks)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from error
