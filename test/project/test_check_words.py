"""The word check finds private words in prose and identifiers, and only there."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "tools/lint/check_words.py"


@pytest.fixture(scope="module")
def check_words() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_words", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ('"""Draw a picture."""', ["picture"]),
        ("x = 1  # built anew", ["anew"]),
        ('raise ValueError(f"{x} has wrong pictures")', ["pictures"]),
        ("maxPictureSize = class_colours = 1", ["maxPictureSize", "class_colours"]),
        ("def said(x): pass", ["def said"]),
        ("image = line.strip()  # a strip of asphalt, two lanes", []),
        ("array.flags.writeable = False", []),
    ],
)
def test_findings_in_python(check_words: ModuleType, tmp_path: Path, code: str, expected: list[str]) -> None:
    file = tmp_path / "module.py"
    file.write_text(code + "\n")
    assert [word for _, word, _ in check_words.find(file)] == expected


def test_findings_in_markdown_have_line_numbers(check_words: ModuleType, tmp_path: Path) -> None:
    file = tmp_path / "page.md"
    file.write_text("# Images\n\nThe engine is made anew with growing pauses.\n")
    assert [(line, word) for line, word, _ in check_words.find(file)] == [(3, "anew"), (3, "growing pauses")]
    assert not list(check_words.find(file, allowed=check_words.WORDS))
