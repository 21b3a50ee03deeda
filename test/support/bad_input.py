"""Hypothesis strategies for almost valid input: up to two wrong fields, or damaged bytes."""

from __future__ import annotations

import array
import string
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
from hypothesis import strategies as st

LIMITS = [0, 1, 2, 3, 255, 256, 32767, 32768, 65535, 65536, 2**24, 2**25, 2**31 - 1, 2**31, 2**32 - 1]
NUMBERS = [
    0.0,
    -0.0,
    1.0,
    -1.0,
    5e-324,
    1e-308,
    1e-30,
    1e-7,
    1e7,
    1e30,
    1e300,
    1.7e308,
    float("nan"),
    float("inf"),
    -float("inf"),
]
WORDS = ["", " ", "rgb8", "RGB8", "nan", "-1", "\n", "\0", "é", "\u202e", "../../etc/passwd", "%s{}", "x" * 3000]

unsigned = st.sampled_from(LIMITS) | st.integers(0, 2**32 - 1)
numbers = st.sampled_from(NUMBERS) | st.floats()
words = st.sampled_from(WORDS) | st.text(max_size=12)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from([2**63, -(2**63) - 1, 10**400]) | numbers | words,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words, inner, max_size=4),
    max_leaves=6,
)
"""Any value of a YAML or JSON file."""

container = st.sampled_from([bytes, bytearray, lambda data: array.array("B", data), lambda data: np.frombuffer(data, np.uint8)])
"""Types of `data` in messages of bags and of rclpy."""


@st.composite
def near(draw: Any, valid: st.SearchStrategy[dict[str, Any]], wrong: Mapping[str, st.SearchStrategy[Any]]) -> SimpleNamespace:
    """Draw a message with up to two wrong fields."""
    fields = draw(valid)
    for name in draw(st.lists(st.sampled_from(sorted(wrong)), max_size=2, unique=True)):
        fields[name] = draw(wrong[name])
    return SimpleNamespace(**fields)


@st.composite
def damaged(draw: Any, files: Sequence[bytes], max_changes: int = 3) -> bytes:
    """Draw one of several files and change it in up to `max_changes` places, more often near its start."""
    data = bytearray(draw(st.sampled_from(files)))
    for _ in range(draw(st.integers(0, max_changes))):
        end = draw(st.sampled_from([16, 64, 512, 10**9]))
        offset = draw(st.integers(0, max(min(len(data), end) - 1, 0)))
        _damage(draw, data, offset)
    return bytes(data)


def _damage(draw: Any, data: bytearray, offset: int) -> None:
    kind = draw(st.sampled_from(["bit", "byte", "cut", "number", "insert", "remove", "repeat"]))
    if kind == "bit" and data:
        data[offset] ^= 1 << draw(st.integers(0, 7))
    elif kind == "byte" and data:
        data[offset] = draw(st.sampled_from([0, 1, 0x7F, 0x80, 0xFE, 0xFF]) | st.integers(0, 255))
    elif kind == "cut":
        del data[offset:]
    elif kind == "number":
        size = draw(st.sampled_from([1, 2, 4, 8]))
        value = draw(st.sampled_from([*LIMITS, 2**63 - 1, 2**64 - 1, 10**11])) % 256**size
        data[offset : offset + size] = value.to_bytes(size, draw(st.sampled_from(["little", "big"])))
    elif kind == "insert":
        data[offset:offset] = draw(st.binary(min_size=1, max_size=8))
    elif kind == "remove":
        del data[offset : offset + draw(st.sampled_from([1, 2, 4, 8, 100]))]
    elif kind == "repeat":
        data[offset:offset] = data[offset : offset + draw(st.sampled_from([1, 8, 64, 500]))]


@st.composite
def misspelled(draw: Any, names: Sequence[str]) -> tuple[str, str]:
    """Draw a name with one wrong letter, and the correct name."""
    name = draw(st.sampled_from(names))
    position = draw(st.integers(0, len(name) - 1))
    letter = draw(st.sampled_from(string.ascii_lowercase + "_"))
    kind = draw(st.sampled_from(["removed", "inserted", "replaced", "swapped"]))
    if kind == "removed":
        return name[:position] + name[position + 1 :], name
    if kind == "inserted":
        return name[:position] + letter + name[position:], name
    if kind == "replaced":
        return name[:position] + letter + name[position + 1 :], name
    return name[:position] + name[position : position + 2][::-1] + name[position + 2 :], name


@st.composite
def near_document(draw: Any, valid: Mapping[str, Any], value: st.SearchStrategy[Any] = anything) -> dict[str, Any]:
    """Draw a nested document with up to two entries replaced, removed or added, at any depth."""
    document = _copied(valid)
    for _ in range(draw(st.integers(0, 2))):
        node = document
        while True:
            keys = sorted(node, key=str) if isinstance(node, dict) else list(range(len(node)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            if isinstance(node[key], (dict, list)) and draw(st.booleans()):
                node = node[key]
                continue
            _change(draw, node, key, value)
            break
    return document


def _change(draw: Any, node: Any, key: Any, value: st.SearchStrategy[Any]) -> None:
    kind = draw(st.sampled_from(["replaced", "replaced", "removed", "added"]))
    if kind == "replaced":
        # A second change may modify the first value in place, and the strategy may draw the same object again.
        node[key] = _copied(draw(value))
    elif kind == "removed":
        del node[key]
    elif isinstance(node, dict):
        node[draw(words)] = _copied(draw(value))
    else:
        node.append(_copied(draw(value)))


def _copied(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _copied(inner) for key, inner in value.items()}
    return [_copied(inner) for inner in value] if isinstance(value, (list, tuple)) else value


def sometimes(often: st.SearchStrategy[Any], rarely: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Draw from the first strategy in three of four cases, otherwise from the second."""
    return st.sampled_from([often, often, often, rarely]).flatmap(_itself)


_itself: Callable[[Any], Any] = lambda strategy: strategy  # noqa: E731 - Hypothesis prints a short name in its reports
