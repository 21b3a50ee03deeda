"""Input that is nearly right, as Hypothesis strategies: something valid with a field or two made wrong, or bytes damaged."""

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
"""What a YAML or JSON file can hold."""

container = st.sampled_from([bytes, bytearray, lambda data: array.array("B", data), lambda data: np.frombuffer(data, np.uint8)])
"""What `data` of a message can be: from a bag, from rclpy."""


@st.composite
def near(draw: Any, valid: st.SearchStrategy[dict[str, Any]], wrong: Mapping[str, st.SearchStrategy[Any]]) -> SimpleNamespace:
    """A message with up to two fields wrong."""
    fields = draw(valid)
    for name in draw(st.lists(st.sampled_from(sorted(wrong)), max_size=2, unique=True)):
        fields[name] = draw(wrong[name])
    return SimpleNamespace(**fields)


@st.composite
def damaged(draw: Any, wholes: Sequence[bytes], at_most: int = 3) -> bytes:
    """One of several files with some damage, rather at its front."""
    data = bytearray(draw(st.sampled_from(wholes)))
    for _ in range(draw(st.integers(0, at_most))):
        front = draw(st.sampled_from([16, 64, 512, 10**9]))
        place = draw(st.integers(0, max(min(len(data), front) - 1, 0)))
        _damage(draw, data, place)
    return bytes(data)


def _damage(draw: Any, data: bytearray, place: int) -> None:
    kind = draw(st.sampled_from(["bit", "byte", "cut", "number", "insert", "remove", "repeat"]))
    if kind == "bit" and data:
        data[place] ^= 1 << draw(st.integers(0, 7))
    elif kind == "byte" and data:
        data[place] = draw(st.sampled_from([0, 1, 0x7F, 0x80, 0xFE, 0xFF]) | st.integers(0, 255))
    elif kind == "cut":
        del data[place:]
    elif kind == "number":
        size = draw(st.sampled_from([1, 2, 4, 8]))
        value = draw(st.sampled_from([*LIMITS, 2**63 - 1, 2**64 - 1, 10**11])) % 256**size
        data[place : place + size] = value.to_bytes(size, draw(st.sampled_from(["little", "big"])))
    elif kind == "insert":
        data[place:place] = draw(st.binary(min_size=1, max_size=8))
    elif kind == "remove":
        del data[place : place + draw(st.sampled_from([1, 2, 4, 8, 100]))]
    elif kind == "repeat":
        data[place:place] = data[place : place + draw(st.sampled_from([1, 8, 64, 500]))]


@st.composite
def misspelt(draw: Any, names: Sequence[str]) -> tuple[str, str]:
    """A name with one letter wrong, and the right one."""
    name = draw(st.sampled_from(names))
    place = draw(st.integers(0, len(name) - 1))
    letter = draw(st.sampled_from(string.ascii_lowercase + "_"))
    kind = draw(st.sampled_from(["left out", "put in", "another", "swapped"]))
    if kind == "left out":
        return name[:place] + name[place + 1 :], name
    if kind == "put in":
        return name[:place] + letter + name[place:], name
    if kind == "another":
        return name[:place] + letter + name[place + 1 :], name
    return name[:place] + name[place : place + 2][::-1] + name[place + 2 :], name


@st.composite
def near_document(draw: Any, valid: Mapping[str, Any], value: st.SearchStrategy[Any] = anything) -> dict[str, Any]:
    """A nested document with up to two entries changed, left out or added, at any depth."""
    document = _copied(valid)
    for _ in range(draw(st.integers(0, 2))):
        place = document
        while True:
            keys = sorted(place, key=str) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            if isinstance(place[key], (dict, list)) and draw(st.booleans()):
                place = place[key]
                continue
            _change(draw, place, key, value)
            break
    return document


def _change(draw: Any, place: Any, key: Any, value: st.SearchStrategy[Any]) -> None:
    kind = draw(st.sampled_from(["another", "another", "left out", "added"]))
    if kind == "another":
        # A copy: the second change may be within what the first put there, which the strategy would give again.
        place[key] = _copied(draw(value))
    elif kind == "left out":
        del place[key]
    elif isinstance(place, dict):
        place[draw(words)] = _copied(draw(value))
    else:
        place.append(_copied(draw(value)))


def _copied(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _copied(inner) for key, inner in value.items()}
    return [_copied(inner) for inner in value] if isinstance(value, (list, tuple)) else value


def sometimes(often: st.SearchStrategy[Any], rarely: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """The first, three times out of four."""
    return st.sampled_from([often, often, often, rarely]).flatmap(_itself)


_itself: Callable[[Any], Any] = lambda strategy: strategy  # noqa: E731 - named, so that Hypothesis shows it shortly
