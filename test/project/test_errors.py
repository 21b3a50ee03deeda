"""Message helpers and the check for optional dependencies."""

from __future__ import annotations

import sys

import pytest

from mtl_perception.errors import DependencyError, one_line, require, truncated_repr


def test_require_accepts_an_installed_module():
    require("json", extra="bags", purpose="reading bags")


def test_require_names_purpose_package_and_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "rosbags", None)
    with pytest.raises(
        DependencyError, match=r"^reading bags needs rosbags, .*; install it with: pip .*'mtl_perception\[bags\]'$"
    ):
        require("rosbags", extra="bags", purpose="reading bags")


def test_truncated_repr_is_bounded_for_any_value():
    assert truncated_repr("a") == "'a'"
    assert truncated_repr(10**5000) == "an integer of 16610 bits"
    assert len(truncated_repr([["x" * 300] * 50] * 50)) <= 200


def test_one_line_drops_control_characters_and_truncates():
    assert one_line(ValueError("a\nb\x1b[0m")) == "a b [0m"
    assert one_line(ValueError()) == "ValueError"
    assert one_line("x" * 300, 10) == "x" * 9 + "…"


def test_one_line_of_an_empty_text_is_empty():
    assert one_line("") == one_line("\n") == ""
